"""Training any config on a user's own data."""

from mmpvt.engine.own_data.config import DataOptions, use_own_data

__all__ = ["DataOptions", "use_own_data"]
