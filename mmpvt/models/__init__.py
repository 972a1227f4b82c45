"""The backbones."""

from mmpvt.models.archs import PVT_ARCHS, PVT_V2_ARCHS, Arch
from mmpvt.models.pvt import PyramidVisionTransformer
from mmpvt.models.pvt_v2 import PyramidVisionTransformerV2

__all__ = [
    "PVT_ARCHS",
    "PVT_V2_ARCHS",
    "Arch",
    "PyramidVisionTransformer",
    "PyramidVisionTransformerV2",
]
