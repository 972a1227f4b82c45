"""The backbones, and Trans2Seg's head."""

from typing import Any

from mmpvt.models.archs import PVT_ARCHS, PVT_V2_ARCHS, Arch
from mmpvt.models.pvt import PyramidVisionTransformer, PyramidVisionTransformerV2

__all__ = [
    "PVT_ARCHS",
    "PVT_V2_ARCHS",
    "Arch",
    "PyramidVisionTransformer",
    "PyramidVisionTransformerV2",
    "Trans2SegHead",
]


def __getattr__(name: str) -> Any:
    """Imports the segmentation head when it is asked for: it takes MMSegmentation's models."""
    if name == "Trans2SegHead":
        from mmpvt.models.trans2seg import Trans2SegHead

        return Trans2SegHead
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
