"""The swap itself: PVT in place of a config's backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mmengine.config import Config, ConfigDict

from mmpvt.errors import ConfigError, SwapError
from mmpvt.models.archs import find_variant
from mmpvt.swap.consumers import Change, rewire
from mmpvt.swap.feature_maps import type_name
from mmpvt.swap.submodels import Submodel, find_submodel
from mmpvt.swap.training import (
    drop_checkpoints,
    drop_layer_decay,
    name_lost_settings,
    set_optimizer,
    set_statistics,
)

RGB = 3  # channels of the images that the published weights take
_VIEW_MAPS = ("DMHead", "CenterNetHead")  # heads that merge axes of a map by Tensor.view


class Swap(NamedTuple):
    """A config with PVT in it."""

    config: Config
    changes: list[Change]  # what differs from the base
    name: str  # of the backbone, such as pvt_small


def swap_backbone(
    config: Config, arch: str, part: str | None = None, keep_optimizer: bool = False
) -> Config:
    """Puts PVT in the place of a model's backbone.

    Args:
        config (Config): of an MMDetection or MMSegmentation experiment; not changed.
        arch (str): ``tiny`` … ``large`` (v1) or ``b0`` … ``b5``, ``b2_li`` (v2).
        part (str | None): which backbone, where there are several, by a name in its path, such as
            ``teacher``. Default: the student's, the detector's.
        keep_optimizer (bool): leave the optimizer. Default: False.

    Returns:
        Config: a new one, which differs in the backbone, in the channels of what reads its maps,
        in the optimizer and in the weights to start from.

    Raises:
        ConfigError: the arch is unknown, or the config has no model.
        SwapError: there is no backbone to swap, it is PVT already, or no other backbone fits the
            model.
    """
    return swap(config, arch, part, keep_optimizer).config


def swap(config: Config, arch: str, part: str | None = None, keep_optimizer: bool = False) -> Swap:
    """As :func:`swap_backbone`, with a list of what was changed.

    Raises:
        ConfigError, SwapError: as :func:`swap_backbone` does.
    """
    config = Config(_copy(config.to_dict()), filename=config.filename)
    if not isinstance(config.get("model"), dict):
        raise ConfigError("the config holds no model: give one of an experiment, not a part of one")
    model = find_submodel(config.model, part)
    variant = find_variant(arch)
    old = model.backbone
    _check_reads_pyramid(model)
    stages, changes = rewire(model, variant.arch.embed_dims)

    kind = "PyramidVisionTransformer" + ("V2" if variant.version == 2 else "")
    backbone = ConfigDict(type=f"mmpvt.{kind}", arch=variant.name)
    if variant.name in ("medium", "large") and not model.is_segmenter:
        backbone.drop_path_rate = 0.0  # as published for detectors
    in_channels = old.get("in_channels", RGB)
    start = "by default with its ImageNet weights"
    if in_channels == RGB:
        backbone.init_cfg = dict(type="Pretrained", checkpoint=variant.weights)
    else:
        backbone.in_channels = in_channels
        start = f"without weights, as ImageNet's take {RGB} channels and not {in_channels}"
    if stages != (0, 1, 2, 3):
        backbone.out_indices = stages
    if old.get("with_cp"):
        backbone.with_cp = True
    if any(type_name(consumer) in _VIEW_MAPS for _, consumer in model.consumer_dicts()):
        backbone.contiguous_maps = True
    model.config[f"{model.prefix}backbone"] = backbone
    name = variant.full_name
    changes = [
        Change(model.backbone_path, f"{type_name(old)} -> {name}, {start}"),
        *changes,
        *drop_checkpoints(config, model),
        *(set_statistics(config) if in_channels == RGB else ()),
        *drop_layer_decay(config),
        *name_lost_settings(config, model, old),
    ]
    if not keep_optimizer:
        changes += set_optimizer(config, model)
    _import_mmpvt(config)
    return Swap(config, changes, name)


def _copy(value: object) -> object:
    """A copy in which no two parts are one object, as parts of a config that was read may be."""
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copy(item) for item in value)
    return value


def _check_reads_pyramid(model: Submodel) -> None:
    """Raises SwapError if a head is a stage of a ResNet, a neck runs a backbone of its own, or the
    model is no detector or segmenter."""
    if "head" in model.config:  # of a classifier; a detector's and a segmenter's are bbox_head, …
        kind = type_name(model.config) or "the model"
        raise SwapError(
            f"{model.path} ({kind}) describes a whole image by one vector, as re-identification "
            "does, and reads no pyramid: there is nothing here for PVT's maps to feed"
        )
    for path, config in model.consumer_dicts():
        if type_name(config.get("shared_head") or {}) == "ResLayer":
            raise SwapError(
                f"{path}.shared_head is the ResNet's own last stage, run on each box: it can't "
                "follow another backbone",
                hint="take the model's FPN variant",
            )
        own = next((key for key in config if key.endswith("_backbone")), None)
        if own:
            raise SwapError(
                f"{path} ({type_name(config)}) feeds its maps to a second backbone, {own}, that is "
                "built to continue a ResNet's stages, which PVT has not"
            )


def _import_mmpvt(config: Config) -> None:
    imports = config.get("custom_imports") or dict(imports=[], allow_failed_imports=False)
    names = imports["imports"]
    names = [names] if isinstance(names, str) else list(names)
    if "mmpvt.setup" not in names:
        config.custom_imports = dict(imports, imports=[*names, "mmpvt.setup"])
