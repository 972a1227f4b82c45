"""Pyramid Vision Transformers under any MMDetection or MMSegmentation model.

Importing the package registers its modules under the scope ``mmpvt`` and makes the OpenMMLab
stack run without a compiler and on today's PyTorch.
"""

from typing import Any

from mmpvt import compat, ops

compat.replace_package_lookup()
compat.keep_pictures_in_place()
compat.map_labels_by_name()
compat.switch_off_mmpretrain_multimodal()
ops.install()

from mmpvt import checkpoint, models  # noqa: E402  what they import needs the lines above

checkpoint.register_loaders()
checkpoint.register_backend_of_whole_files()

from mmpvt.errors import UserError  # noqa: E402
from mmpvt.swap import swap_backbone  # noqa: E402
from mmpvt.version import __version__  # noqa: E402

__all__ = [
    "Predictor",
    "UserError",
    "__version__",
    "checkpoint",
    "models",
    "ops",
    "swap_backbone",
    "visualize_attention",
]


def __getattr__(name: str) -> Any:
    """Imports what needs MMDetection's and MMSegmentation's data sets when it is asked for."""
    if name == "Predictor":
        from mmpvt.inference import Predictor

        return Predictor
    if name == "visualize_attention":
        from mmpvt.inference.attention import visualize_attention

        return visualize_attention
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
