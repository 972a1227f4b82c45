"""The configs that the installed MMDetection and MMSegmentation ship."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from mmpvt.engine.zoo import config_folder
from mmpvt.errors import UserError
from mmpvt.swap.feature_maps import MMPRETRAIN, RESNETS, type_name
from mmpvt.swap.submodels import find_submodel

PACKAGES = ("mmdet", "mmseg")


@dataclass(frozen=True)
class ShippedConfig:
    """A config of ``mmdet`` or ``mmseg``, by its path in the package's folder of configs."""

    package: str
    path: str

    @property
    def name(self) -> str:
        """As command lines take it: ``mmdet::atss/atss_r50_fpn_1x_coco.py``."""
        return f"{self.package}::{self.path}"

    @property
    def family(self) -> str:
        """The package and the folder that it lies in."""
        return f"{self.package}::{self.path.partition('/')[0]}"

    @property
    def file(self) -> Path:
        return config_folder(self.package) / self.path


def shipped_configs() -> list[ShippedConfig]:
    """All configs of experiments that are shipped, whatever their backbones, in order."""
    return [
        ShippedConfig(package, file.relative_to(folder).as_posix())
        for package in PACKAGES
        if (folder := config_folder(package))
        for file in sorted(folder.rglob("*.py"))
        if "_base_" not in file.parts
    ]


def by_family(configs: Sequence[ShippedConfig]) -> list[list[ShippedConfig]]:
    """The configs of each family, those on a ResNet-50 by name first."""
    families: dict[str, list[ShippedConfig]] = {}
    for config in sorted(configs, key=lambda config: "r50" not in Path(config.path).name):
        families.setdefault(config.family, []).append(config)
    return [families[name] for name in sorted(families)]


def is_counted(config: Config) -> bool:
    """Whether the backbone that a swap would take is of the ResNet family or of mmpretrain."""
    try:
        return type_name(find_submodel(config.get("model") or {}).backbone) in RESNETS + MMPRETRAIN
    except UserError:
        return False


def without_folders(text: str) -> str:
    """Another package's message, with its paths as config names instead of this machine's."""
    for package in PACKAGES:
        if folder := config_folder(package):
            text = text.replace(f"{folder}/", f"{package}::").replace(f"{folder.parents[2]}/", "")
    return text
