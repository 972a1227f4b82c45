"""The maps that backbones give: those of the one that goes, and of the PVT that comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mmpvt.errors import UserError
from mmpvt.models.archs import STRIDES, Arch, find_variant

RESNETS = (
    "ResNet",
    "ResNetV1c",
    "ResNetV1d",
    "ResNeXt",
    "ResNeSt",
    "Res2Net",
    "RegNet",
    "DetectoRS_ResNet",
    "DetectoRS_ResNeXt",
    "TridentResNet",
)
# four stages of strides 4, 8, 16, 32, whatever the options
PYRAMIDS = ("HRNet", "SwinTransformer", "MixVisionTransformer", "MSCAN", "PCPVT", "SVT")
MMPRETRAIN = ("ConvNeXt", "PoolFormer", "TIMMBackbone")


@dataclass(frozen=True)
class Map:
    """One map that a backbone gives.

    Attributes:
        stage: the stage that it comes from, counted from 0.
        stride: pixels of the image to one of the map.
    """

    stage: int
    stride: int

    @property
    def is_dilated(self) -> bool:
        """Whether dilation kept it larger than PVT's map of that stage."""
        return self.stride < STRIDES[self.stage]


@dataclass(frozen=True)
class Pyramid:
    """The PVT that comes.

    Attributes:
        name: ``pvt_small``, ``pvt_v2_b2_li``.
        arch: its sizes.
        config: the backbone's part of a config, but for ``out_indices``.
    """

    name: str
    arch: Arch
    config: dict

    def width(self, stage: int) -> int:
        """Channels of a stage's map."""
        return self.arch.embed_dims[stage]


def find_pyramid(name: str, detects: bool) -> Pyramid:
    """The published PVT of a name.

    Args:
        name (str): ``small``, ``b2_li``, or with what stands before it in the zoo: ``pvt_small``,
            ``pvt_v2_b2_li``.
        detects (bool): whether it goes under a detector, where the published PVT-Medium and
            PVT-Large are trained without stochastic depth.

    Returns:
        Pyramid: the backbone.

    Raises:
        UserError: there is none of this name.
    """
    variant = find_variant(name)
    version = "V2" if variant.version == 2 else ""
    config = dict(type=f"mmpvt.PyramidVisionTransformer{version}", arch=variant.name)
    if detects and variant.name in ("medium", "large"):
        config["drop_path_rate"] = 0.0
    config["init_cfg"] = dict(type="Pretrained", checkpoint=variant.weights)
    return Pyramid(variant.full_name, variant.arch, config)


def maps_of(backbone: Mapping, path: str) -> list[Map]:
    """The maps that a backbone gives, as its config says.

    Args:
        backbone (Mapping): the backbone's config.
        path (str): where it stands, for messages.

    Returns:
        list[Map]: in the order that they leave it.

    Raises:
        UserError: it is PVT already, or of a kind whose maps are not known.
    """
    kind = type_name(backbone)
    if kind in ("PyramidVisionTransformer", "PyramidVisionTransformerV2"):
        raise UserError(
            f"{path} is PVT already ({backbone['type']}): set its arch to have another size"
        )
    is_resnet = kind in RESNETS or {"depth", "num_stages"} <= set(backbone)
    known = RESNETS + PYRAMIDS + MMPRETRAIN
    if not is_resnet and kind not in known:
        raise UserError(
            f"{path} is {kind}, of which it isn't known that it gives the maps of strides 4, 8, "
            f"16, 32 that PVT would take the place of: those of {', '.join(known)} are"
        )
    if kind in MMPRETRAIN:
        return _maps_of_mmpretrain(kind, backbone, path)
    strides = list(STRIDES)
    if is_resnet and backbone.get("strides"):
        strides, stride = [], 4
        for step in backbone["strides"]:
            stride *= step
            strides.append(stride)
    indices = as_list(backbone.get("out_indices", range(len(strides))))
    if not all(0 <= i < len(strides) and strides[i] in STRIDES for i in indices):
        raise UserError(
            f"{path} gives maps of strides {strides} from stages {indices}; PVT has but the "
            f"strides {', '.join(map(str, STRIDES))}"
        )
    return [Map(i, strides[i]) for i in indices]


def _maps_of_mmpretrain(kind: str, backbone: Mapping, path: str) -> list[Map]:
    """Their ``out_indices`` count from the end, too, and not stages alone."""
    indices = as_list(backbone.get("out_indices", -1))
    if kind == "PoolFormer":  # between its stages lie layers that shrink the map
        stages = [i / 2 for i in (i % 7 for i in indices)]
    elif kind == "TIMMBackbone":  # a fifth level says that the first is of stride 2
        stages = [i - 1 for i in indices] if 4 in indices else []
    else:
        stages = [i % 4 for i in indices]
    if not stages or any(stage not in range(len(STRIDES)) for stage in stages):
        raise UserError(
            f"{path} ({kind}) gives the maps {indices}, of which it isn't known that they have "
            f"PVT's strides {', '.join(map(str, STRIDES))}"
        )
    return [Map(int(stage), STRIDES[int(stage)]) for stage in stages]


def stages_of(maps: Sequence[Map]) -> tuple[int, ...]:
    """The stages of maps, which may serve as ``out_indices``."""
    return tuple(each.stage for each in maps)


def same_stride(one: Map) -> int:
    """The stage of PVT whose map has the stride of ``one``."""
    return STRIDES.index(one.stride)


def type_name(part: Mapping) -> str:
    """A part's type without its scope: ``'mmdet.ResNet'``, or the class itself, to ``'ResNet'``."""
    kind = part.get("type", "")
    return kind.rpartition(".")[2] if isinstance(kind, str) else kind.__name__


def as_list(value: int | Sequence) -> list:
    """A list of what may be one or several."""
    return list(value) if isinstance(value, Sequence | range) else [value]
