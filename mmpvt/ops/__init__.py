"""What mmcv's compiled extension would offer, in PyTorch.

``import mmcv.ops``, and with it MMDetection's and MMSegmentation's models, needs the compiled
module ``mmcv._ext``, which mmcv-lite lacks. :func:`install` puts :mod:`mmpvt.ops.extension` there.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
import warnings

# mmcv's own extension is linked against PyTorch's libraries and finds them once they are loaded
import torch

__all__ = ["install", "stands_in"]


def install() -> bool:
    """Stands in for mmcv's compiled extension where it is not installed, or does not load.

    Warns in the latter case. May be called any number of times, also after ``import mmcv.ops``
    has failed.

    Returns:
        bool: whether mmpvt's operators answer, rather than mmcv's own.

    Raises:
        ModuleNotFoundError: neither mmcv nor mmcv-lite is installed.
    """
    try:
        import mmcv
    except ModuleNotFoundError as error:
        if error.name != "mmcv":
            raise
        message = "mmpvt needs mmcv: `pip install 'mmpvt[lite]'` brings it, without a compiler"
        raise ModuleNotFoundError(message, name="mmcv") from None

    try:
        importlib.import_module("mmcv._ext")
    except (ImportError, OSError, RuntimeError) as error:
        if importlib.util.find_spec("mmcv._ext") is not None:
            warnings.warn(
                f"mmcv's compiled extension does not load beside PyTorch {torch.__version__} "
                f"({error}), so mmpvt's operators stand in for it; to use it, install an mmcv "
                "that was built for this PyTorch",
                stacklevel=2,
            )
        from mmpvt.ops import extension

        sys.modules["mmcv._ext"] = mmcv._ext = extension
        _repair_check_ops_exist()
    return stands_in()


def stands_in() -> bool:
    """Whether mmpvt's operators answer, rather than mmcv's compiled ones."""
    return getattr(sys.modules.get("mmcv._ext"), "__name__", None) == "mmpvt.ops.extension"


def _repair_check_ops_exist() -> None:
    if not hasattr(pkgutil, "find_loader"):  # gone from Python 3.14; mmcv 2.1 asks it
        from mmcv.utils import ext_loader

        ext_loader.check_ops_exist = lambda: importlib.util.find_spec("mmcv._ext") is not None
