"""Whether what mmpvt needs is installed, and once: asked before any of it is imported."""

from __future__ import annotations

import re
from importlib import metadata, util

from mmpvt.errors import SetupError

OLDEST_TORCH = (2, 4)  # torch.serialization.add_safe_globals
OLDEST_TO_EXPORT = (2, 6)  # torch.onnx.export's custom_translation_table
# module: the distributions that have it. OneDL's are forks under other names, in the same folders
OPENMMLAB = {
    "mmengine": ("mmengine", "mmengine-lite"),
    "mmcv": ("mmcv", "mmcv-lite"),
    "mmdet": ("mmdet",),
    "mmseg": ("mmsegmentation",),
}
ONEDL = {
    "mmengine": ("onedl-mmengine",),
    "mmcv": ("onedl-mmcv",),
    "mmdet": ("onedl-mmdetection",),
    "mmseg": ("onedl-mmsegmentation",),
}


def check_requirements() -> None:
    """Looks at what is installed, without importing any of it.

    Raises:
        SetupError: a package is missing, PyTorch is too old, or two distributions have written
            into one folder.
    """
    torch = _version("torch")
    if torch and release(torch) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise SetupError(
            f"PyTorch {torch} is too old: mmpvt needs {oldest} or newer",
            hint=f"pip install 'torch>={oldest}'",
        )
    both = [
        name
        for module in OPENMMLAB
        for name in (*OPENMMLAB[module], *ONEDL[module])
        if _any(OPENMMLAB[module]) and _any(ONEDL[module]) and _version(name)
    ]
    if both:
        every = (name for stack in (OPENMMLAB, ONEDL) for names in stack.values() for name in names)
        installed = " ".join(filter(_version, every))
        raise SetupError(
            f"{' and '.join(both)} lie in the same folders, so that neither is intact",
            hint=f"pip uninstall -y {installed} && pip install 'mmpvt[lite]' "
            "(OpenMMLab's packages; or 'mmpvt[onedl]', OneDL's)",
        )
    missing = [module for module in OPENMMLAB if util.find_spec(module) is None]
    if missing:
        stack = "onedl" if any(map(_any, ONEDL.values())) else "lite"
        verb = "aren't" if len(missing) > 1 else "isn't"
        raise SetupError(
            f"mmpvt needs {' and '.join(missing)}, which {verb} installed",
            hint=f"pip install 'mmpvt[{stack}]'",
        )


def release(version: str) -> tuple[int, ...]:
    """Major and minor version: ``'2.13.0+cpu'`` is (2, 13)."""
    return tuple(map(int, re.findall(r"\d+", version)[:2]))


def _any(names: tuple[str, ...]) -> bool:
    return any(map(_version, names))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
