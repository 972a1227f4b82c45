"""As in ``transformers.py``; MMDetection imports it through mmpretrain."""

raise ModuleNotFoundError("tests' processes go without it")
