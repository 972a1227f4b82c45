"""Sets up the environment: a config names this module in its ``custom_imports``."""

from mmpvt.environment import setup_environment

setup_environment()
