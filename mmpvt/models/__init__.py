"""The backbones, and Trans2Seg's head."""

from mmpvt.models.archs import PVT_ARCHS, PVT_V2_ARCHS, Arch
from mmpvt.models.pvt import PyramidVisionTransformer
from mmpvt.models.pvt_v2 import PyramidVisionTransformerV2
from mmpvt.models.trans2seg import Trans2SegHead

__all__ = [
    "PVT_ARCHS",
    "PVT_V2_ARCHS",
    "Arch",
    "PyramidVisionTransformer",
    "PyramidVisionTransformerV2",
    "Trans2SegHead",
]
