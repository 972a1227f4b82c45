"""The configs that the installed MMDetection and MMSegmentation ship."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from mmpvt.engine.config import config_folder
from mmpvt.errors import UserError
from mmpvt.swap.parts import find_part
from mmpvt.swap.pyramids import MMPRETRAIN, RESNETS, type_name

PACKAGES = ("mmdet", "mmseg")


@dataclass(frozen=True)
class Shipped:
    """One config.

    Attributes:
        package: ``mmdet`` or ``mmseg``.
        path: relative to the package's folder of configs.
    """

    package: str
    path: str

    @property
    def name(self) -> str:
        """As a command line takes it: ``mmdet::atss/atss_r50_fpn_1x_coco.py``."""
        return f"{self.package}::{self.path}"

    @property
    def family(self) -> str:
        """The folder that it lies in."""
        return f"{self.package}::{self.path.partition('/')[0]}"

    @property
    def file(self) -> Path:
        """Where it lies."""
        return config_folder(self.package) / self.path


def shipped_configs() -> list[Shipped]:
    """All configs of experiments that are shipped, whatever their backbones, in order."""
    return [
        Shipped(package, file.relative_to(folder).as_posix())
        for package in PACKAGES
        if (folder := config_folder(package))
        for file in sorted(folder.rglob("*.py"))
        if "_base_" not in file.parts
    ]


def by_family(configs: Sequence[Shipped]) -> list[list[Shipped]]:
    """The configs of each family, those on a ResNet-50 by name first."""
    families: dict[str, list[Shipped]] = {}
    for config in sorted(configs, key=lambda config: "r50" not in Path(config.path).name):
        families.setdefault(config.family, []).append(config)
    return [families[name] for name in sorted(families)]


def is_counted(config: Config) -> bool:
    """Whether the backbone that a swap would take is of the ResNet family or of mmpretrain."""
    try:
        return type_name(find_part(config.get("model") or {}).backbone) in RESNETS + MMPRETRAIN
    except UserError:
        return False


def without_folders(text: str) -> str:
    """A message whose paths don't say where this machine's packages lie."""
    for package in PACKAGES:
        if folder := config_folder(package):
            text = text.replace(f"{folder}/", f"{package}::").replace(f"{folder.parents[2]}/", "")
    return text
