"""Fallback for mmcv's compiled extension, in PyTorch.

``import mmcv.ops``, and with it MMDetection's and MMSegmentation's models, needs the compiled
module ``mmcv._ext``, which mmcv-lite lacks: :mod:`mmpvt.ops.extension` is put there.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

__all__ = ["install", "supply", "uses_fallback"]

_NAME = "mmcv._ext"


def supply() -> None:
    """Makes ``import mmcv._ext`` find a module; only a full mmcv is imported for it.

    Raises:
        ModuleNotFoundError: neither mmcv nor mmcv-lite is installed.
    """
    mmcv = None if "mmcv" in sys.modules else importlib.util.find_spec("mmcv")
    if mmcv is None or PathFinder.find_spec(_NAME, mmcv.submodule_search_locations):
        install()
    elif not any(isinstance(finder, _ExtensionFinder) for finder in sys.meta_path):
        sys.meta_path.append(_ExtensionFinder())


def install() -> bool:
    """Puts the fallback in place of mmcv's extension where it is not installed, or does not load.

    Warns in the latter case. May be called any number of times, also after ``import mmcv.ops``
    has failed.

    Returns:
        bool: :func:`uses_fallback`.

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

    # mmcv's own extension is linked against PyTorch's libraries and finds them once they are loaded
    import torch

    try:
        importlib.import_module(_NAME)
    except (ImportError, OSError, RuntimeError) as error:
        if PathFinder.find_spec(_NAME, mmcv.__path__) is not None:
            warnings.warn(
                f"mmcv's compiled extension does not load beside PyTorch {torch.__version__} "
                f"({error}), so mmpvt's fallback ops are used instead; `pip install --no-deps "
                "--force-reinstall --no-build-isolation --no-binary :all: "
                f"{_distribution()}` builds it for this PyTorch",
                stacklevel=2,
            )
        sys.modules[_NAME] = mmcv._ext = _fallback()
    return uses_fallback()


def uses_fallback() -> bool:
    """Whether mmpvt's operators answer, rather than mmcv's compiled ones."""
    module = sys.modules.get(_NAME)  # where mmcv has its own, `supply` has imported it
    return module is None or module.__name__ == "mmpvt.ops.extension"


def _distribution() -> str:
    """What ``mmcv``, with its extension, came in: OpenMMLab's or OneDL's."""
    for name in ("onedl-mmcv", "mmcv"):
        with suppress(metadata.PackageNotFoundError):
            return f"{name}=={metadata.version(name)}"
    return "mmcv"


def _fallback() -> ModuleType:
    from mmpvt.ops import extension

    if not hasattr(pkgutil, "find_loader"):  # gone from Python 3.14; mmcv 2.1 asks it
        from mmcv.utils import ext_loader

        ext_loader.check_ops_exist = lambda: importlib.util.find_spec(_NAME) is not None
    return extension


class _ExtensionFinder(MetaPathFinder, Loader):
    """Answers ``import mmcv._ext`` where no finder before it does."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self, origin="mmpvt.ops.extension") if name == _NAME else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _fallback()

    def exec_module(self, module: ModuleType) -> None:
        """It has run as it was made."""
