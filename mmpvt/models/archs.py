"""The published variants, a row of a table each: the only place with these numbers.

Sources: PVT v1, arXiv 2102.12122, table 1; PVT v2, arXiv 2106.13797, table 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields

from mmpvt.errors import ConfigError

NUM_STAGES = 4
STRIDES = (4, 8, 16, 32)  # of each stage's map, in pixels of the image

# of the images that the published weights were trained on: RGB, 0 to 255
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class Arch:
    """The sizes of a variant; each tuple holds one number a stage.

    Args:
        embed_dims (tuple[int, ...]): channels of a token, and of the map.
        depths (tuple[int, ...]): blocks.
        num_heads (tuple[int, ...]): of attention.
        mlp_ratios (tuple[int, ...]): hidden channels, as a multiple of ``embed_dims``.
        sr_ratios (tuple[int, ...]): spatial reduction, per side, of the map that keys and values
            are computed from.
        linear (bool): keys and values are computed from a 7x7 pooled map (v2 only, linear SRA).

    Raises:
        ConfigError: a tuple hasn't a positive int for each stage, or ``embed_dims`` can't be
            divided into ``num_heads``.
    """

    embed_dims: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    num_heads: tuple[int, ...] = (1, 2, 5, 8)
    mlp_ratios: tuple[int, ...] = (8, 8, 4, 4)
    sr_ratios: tuple[int, ...] = (8, 4, 2, 1)
    linear: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name == "linear":
                continue
            values = tuple(getattr(self, field.name))
            positive = all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in values)
            if len(values) != NUM_STAGES or not positive:
                raise ConfigError(
                    f"arch: {field.name} takes {NUM_STAGES} positive integers, one a stage, "
                    f"not {values}"
                )
            object.__setattr__(self, field.name, values)
        for dims, heads in zip(self.embed_dims, self.num_heads, strict=True):
            if dims % heads:
                raise ConfigError(f"arch: embed_dims {dims} can't be divided into {heads} heads")


PVT_ARCHS = {
    "tiny": Arch(depths=(2, 2, 2, 2)),
    "small": Arch(depths=(3, 4, 6, 3)),
    "medium": Arch(depths=(3, 4, 18, 3)),
    "large": Arch(depths=(3, 8, 27, 3)),
}

PVT_V2_ARCHS = {
    "b0": Arch(embed_dims=(32, 64, 160, 256), depths=(2, 2, 2, 2)),
    "b1": Arch(depths=(2, 2, 2, 2)),
    "b2": Arch(depths=(3, 4, 6, 3)),
    "b2_li": Arch(depths=(3, 4, 6, 3), linear=True),
    "b3": Arch(depths=(3, 4, 18, 3)),
    "b4": Arch(depths=(3, 8, 27, 3)),
    "b5": Arch(depths=(3, 6, 40, 3), mlp_ratios=(4, 4, 4, 4)),
}


def resolve_arch(arch: str | Mapping | Arch, table: Mapping[str, Arch]) -> Arch:
    """The variant that ``arch`` names or describes.

    Args:
        arch (str | Mapping | Arch): a name in ``table``, or some of :class:`Arch`'s fields; the
            others default to those of ``Arch()``.
        table (Mapping[str, Arch]): the known names.

    Raises:
        ConfigError: the name or a field is unknown, or a field's value is not valid.
    """
    if isinstance(arch, Arch):
        return arch
    known = [field.name for field in fields(Arch)]
    names = ", ".join(known)
    if isinstance(arch, Mapping):
        unknown = ", ".join(map(repr, sorted(set(arch) - set(known))))
        if unknown:
            raise ConfigError(f"arch: unknown field {unknown}; the fields are {names}")
        return Arch(**arch)
    if arch not in table:
        hint = f"take one of {', '.join(table)}, or a dict of {names}"
        raise ConfigError(f"unknown arch {arch!r}", hint=hint)
    return table[arch]


@dataclass(frozen=True)
class Variant:
    """A published variant: its name in the table, the version of PVT (1 or 2), its sizes."""

    name: str
    version: int
    arch: Arch

    @property
    def full_name(self) -> str:
        """As the published files are named: ``pvt_small``, ``pvt_v2_b2``."""
        return ("pvt_" if self.version == 1 else "pvt_v2_") + self.name

    @property
    def weights(self) -> str:
        """URL of the published ImageNet weights."""
        return f"https://github.com/whai362/PVT/releases/download/v2/{self.full_name}.pth"


VARIANTS = tuple(
    Variant(name, version, arch)
    for version, table in ((1, PVT_ARCHS), (2, PVT_V2_ARCHS))
    for name, arch in table.items()
)


def find_variant(name: str) -> Variant:
    """The published variant of a name, short (``small``, ``b2_li``) or full (``pvt_v2_b2_li``).

    Raises:
        ConfigError: there is none of this name.
    """
    named = {key: v for v in VARIANTS for key in (v.name, v.full_name)}
    if name not in named:
        near = difflib.get_close_matches(name, named, n=1)
        hint = f"did you mean {near[0]}? The archs are" if near else "take one of"
        names = ", ".join(v.name for v in VARIANTS)
        raise ConfigError(f"unknown arch {name!r}", hint=f"{hint} {names}")
    return named[name]
