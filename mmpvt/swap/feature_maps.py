"""The feature maps that a backbone gives, as its config says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mmpvt.errors import SwapError
from mmpvt.models.archs import STRIDES

RESNETS = (
    *("ResNet", "ResNetV1c", "ResNetV1d", "ResNeXt", "ResNeSt", "Res2Net", "RegNet"),
    *("DetectoRS_ResNet", "DetectoRS_ResNeXt", "TridentResNet"),
)
# four stages of strides 4, 8, 16, 32, whatever the options
PYRAMIDS = ("HRNet", "SwinTransformer", "MixVisionTransformer", "MSCAN", "PCPVT", "SVT")
MMPRETRAIN = ("ConvNeXt", "PoolFormer", "TIMMBackbone")


class FeatureMap(NamedTuple):
    """A map's stage, counted from 0, and its stride in pixels."""

    stage: int
    stride: int

    @property
    def pvt_stage(self) -> int:
        """PVT's stage of the same stride: a lower one, where dilation kept this map large."""
        return STRIDES.index(self.stride)


def feature_maps(backbone: Mapping, path: str) -> list[FeatureMap]:
    """The maps that a backbone returns, in their order.

    Args:
        backbone (Mapping): the backbone's config.
        path (str): where it is, for messages.

    Raises:
        SwapError: it is PVT already, or of a type whose maps are not known.
    """
    kind = type_name(backbone)
    if kind in ("PyramidVisionTransformer", "PyramidVisionTransformerV2"):
        raise SwapError(
            f"{path} is PVT already ({backbone['type']})", hint="set its arch to have another size"
        )
    is_resnet = kind in RESNETS or {"depth", "num_stages"} <= set(backbone)
    known = RESNETS + PYRAMIDS + MMPRETRAIN
    if not is_resnet and kind not in known:
        raise SwapError(
            f"{path} is {kind}, of which it isn't known that it gives the maps of strides 4, 8, "
            f"16, 32 that PVT would replace: those of {', '.join(known)} are"
        )
    if kind in MMPRETRAIN:
        return _mmpretrain_maps(kind, backbone, path)
    strides = list(STRIDES)
    if is_resnet and backbone.get("strides"):
        strides, stride = [], 4
        for step in backbone["strides"]:
            stride *= step
            strides.append(stride)
    indices = as_list(backbone.get("out_indices", range(len(strides))))
    if not all(0 <= i < len(strides) and strides[i] in STRIDES for i in indices):
        raise SwapError(
            f"{path} gives maps of strides {strides} from stages {indices}; PVT has only the "
            f"strides {', '.join(map(str, STRIDES))}"
        )
    return [FeatureMap(i, strides[i]) for i in indices]


def _mmpretrain_maps(kind: str, backbone: Mapping, path: str) -> list[FeatureMap]:
    """Their ``out_indices`` may count from the end, and count more than stages."""
    indices = as_list(backbone.get("out_indices", -1))
    if kind == "PoolFormer":  # between its stages are layers that downsample
        stages = [i / 2 for i in (i % 7 for i in indices)]
    elif kind == "TIMMBackbone":  # a fifth level shows that the first is of stride 2
        stages = [i - 1 for i in indices] if 4 in indices else []
    else:
        stages = [i % 4 for i in indices]
    if not stages or any(stage not in range(len(STRIDES)) for stage in stages):
        raise SwapError(
            f"{path} ({kind}) gives the maps {indices}, of which it isn't known that they have "
            f"PVT's strides {', '.join(map(str, STRIDES))}"
        )
    return [FeatureMap(int(stage), STRIDES[int(stage)]) for stage in stages]


def type_name(config: Mapping) -> str:
    """A config's type without scope: ``'mmdet.ResNet'``, or the class itself, to ``'ResNet'``."""
    kind = config.get("type", "")
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__


def as_list(value: int | Sequence) -> list:
    """A list of what may be one or several."""
    return list(value) if isinstance(value, Sequence | range) else [value]
