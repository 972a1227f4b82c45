"""Pyramid Vision Transformers under any MMDetection or MMSegmentation model.

Importing the package registers its modules under the scope ``mmpvt`` and supplies ``mmcv._ext``
where it is missing. What else the stack needs on today's Python and PyTorch changes other packages,
and is left to :func:`setup_environment`.
"""

from __future__ import annotations

import importlib
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from mmpvt.utils.requirements import check_requirements

check_requirements()  # what is imported next would fail with less said

# ruff: isort: split
from mmpvt import ops, registry
from mmpvt.environment import restore_environment, setup_environment
from mmpvt.errors import UserError
from mmpvt.version import __version__

if TYPE_CHECKING:
    from mmpvt import checkpoint, models, ray
    from mmpvt.inference import Predictor
    from mmpvt.inference.attention import visualize_attention
    from mmpvt.inference.detections import sample_to_detections
    from mmpvt.inference.loading import load_model
    from mmpvt.swap import swap_backbone

ops.supply()

__all__ = [
    "Predictor",
    "UserError",
    "__version__",
    "checkpoint",
    "load_model",
    "models",
    "ops",
    "ray",
    "registry",
    "restore_environment",
    "sample_to_detections",
    "setup_environment",
    "swap_backbone",
    "visualize_attention",
]

_LATE = {  # imported when they are asked for: PyTorch alone takes a second
    "Predictor": "mmpvt.inference",
    "load_model": "mmpvt.inference.loading",
    "sample_to_detections": "mmpvt.inference.detections",
    "swap_backbone": "mmpvt.swap",
    "visualize_attention": "mmpvt.inference.attention",
}


def __getattr__(name: str) -> Any:
    if name in ("checkpoint", "models", "ray"):
        return importlib.import_module(f"mmpvt.{name}")
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mmpvt.compat import import_torchvision, switch_off_multimodal

    with ExitStack() as undo:  # of what importing mmseg.models needs
        import_torchvision(undo)
        switch_off_multimodal(undo)
        return getattr(importlib.import_module(_LATE[name]), name)
