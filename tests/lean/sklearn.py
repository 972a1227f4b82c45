"""As in ``transformers.py``."""

raise ImportError("tests' processes go without it")
