"""The swap itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmengine.config import Config, ConfigDict

from mmpvt.errors import UserError
from mmpvt.swap.changes import Change
from mmpvt.swap.consumers import needs_contiguous_maps, rewire
from mmpvt.swap.parts import find_part
from mmpvt.swap.pyramids import find_pyramid, type_name
from mmpvt.swap.refusals import refuse_what_is_no_pyramid
from mmpvt.swap.training import (
    drop_checkpoints,
    drop_layer_decay,
    set_optimizer,
    set_statistics,
)


@dataclass(frozen=True)
class Swap:
    """A config with PVT in it.

    Attributes:
        config: the config.
        changes: what differs from the base.
        name: of the backbone, such as ``pvt_small``.
    """

    config: Config
    changes: list[Change]
    name: str


def swap_backbone(
    config: Config, arch: str, part: str | None = None, keep_optimizer: bool = False
) -> Config:
    """Puts PVT in the place of a model's backbone.

    Args:
        config (Config): of an MMDetection or MMSegmentation experiment; stays as it is.
        arch (str): ``tiny`` … ``large`` (v1) or ``b0`` … ``b5``, ``b2_li`` (v2).
        part (str | None): which backbone, where there are several, by a name on the way to it,
            such as ``teacher``. Default: the student's, the detector's.
        keep_optimizer (bool): leave the optimizer.

    Returns:
        Config: a new one, which differs in the backbone, in the widths of what reads its maps, in
        the optimizer and in the weights to start from.

    Raises:
        UserError: the arch is unknown, there is no backbone to swap, it is PVT already, or the
            model is of a kind that no other backbone fits.
    """
    return swap(config, arch, part, keep_optimizer).config


def swap(config: Config, arch: str, part: str | None = None, keep_optimizer: bool = False) -> Swap:
    """As :func:`swap_backbone`, with what was changed.

    Raises:
        UserError: as there.
    """
    config = copy_config(config)
    if not isinstance(config.get("model"), dict):
        raise UserError("the config holds no model: give one of an experiment, not a part of one")
    chosen = find_part(config.model, part)
    detects = not any(name.endswith("decode_head") for name in chosen.config)
    pyramid = find_pyramid(arch, detects)
    before = chosen.backbone
    refuse_what_is_no_pyramid(chosen)
    stages, changes = rewire(chosen, pyramid)

    backbone = ConfigDict(pyramid.config)
    if stages != (0, 1, 2, 3):
        backbone.out_indices = stages
    if before.get("with_cp"):
        backbone.with_cp = True
    if needs_contiguous_maps(chosen):
        backbone.contiguous_maps = True
    chosen.config[f"{chosen.prefix}backbone"] = backbone
    changes = [
        Change(
            chosen.backbone_path,
            f"{type_name(before)} -> {pyramid.name}, with its ImageNet weights",
        ),
        *changes,
        *drop_checkpoints(config, chosen),
        *set_statistics(config),
        *drop_layer_decay(config),
    ]
    if not keep_optimizer:
        changes += set_optimizer(config, chosen)
    _import_mmpvt(config)
    return Swap(config, changes, pyramid.name)


def copy_config(config: Config) -> Config:
    """A copy no two parts of which are one object, as parts of a config that was read may be."""

    def copied(value: object) -> object:
        if isinstance(value, Mapping):
            return {key: copied(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(copied(item) for item in value)
        return value

    return Config(copied(config.to_dict()), filename=config.filename)


def _import_mmpvt(config: Config) -> None:
    imports = config.get("custom_imports") or dict(imports=[], allow_failed_imports=False)
    names = imports["imports"]
    names = [names] if isinstance(names, str) else list(names)
    if "mmpvt.setup" not in names:
        config.custom_imports = dict(imports, imports=[*names, "mmpvt.setup"])
