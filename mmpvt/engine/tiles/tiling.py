"""How an image is cut into tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from mmengine.config import Config

from mmpvt.engine.class_names import is_classifier
from mmpvt.engine.config_parts import iter_dicts
from mmpvt.errors import ConfigError

OVERLAP = 0.2  # of a tile's side


class Box(NamedTuple):
    """Pixels of an image, the last ones excluded."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class Tiling:
    """How images are cut into tiles.

    Args:
        size (int): of a tile's sides, in pixels.
        overlap (float): share of its side that a tile has in common with the next. Default: 0.2.
        also_whole (bool): whether the whole image is predicted on, too, for what is larger than a
            tile. Default: False.

    Raises:
        ConfigError: there are no such tiles.
    """

    size: int
    overlap: float = OVERLAP
    also_whole: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise ConfigError(
                f"a tile's side is an int of pixels from 1 on, not {self.size!r}", setting="tiles"
            )
        if not 0 <= self.overlap < 1:  # nan, too
            raise ConfigError(
                f"{self.overlap}: the share that tiles have in common is a number from 0 to below "
                "1, such as 0.2",
                setting="overlap",
            )

    def cuts(self, height: int, width: int) -> bool:
        """Whether an image of that size has more than one tile."""
        return max(height, width) > self.size

    def boxes(self, height: int, width: int) -> list[Box]:
        """The tiles of an image, row by row, evenly spread from edge to edge."""
        tops, lefts = (self._starts(length) for length in (height, width))
        return [
            Box(left, top, min(left + self.size, width), min(top + self.size, height))
            for top in tops
            for left in lefts
        ]

    def _starts(self, length: int) -> list[int]:
        step = max(1, round(self.size * (1 - self.overlap)))
        last = max(0, length - self.size)
        steps = math.ceil(last / step)
        # Even steps: logits of the widest overlap of two rows wait in memory (_average_logits).
        return [last * i // max(1, steps) for i in range(steps + 1)]


def tiling_of(tiles: int | None, overlap: float | None, also_whole: bool) -> Tiling | None:
    """The tiling that options ask for.

    Args:
        tiles (int | None): side of a tile in pixels; None for none.
        overlap (float | None): share of its side that a tile has in common with the next. Default:
            0.2.
        also_whole (bool): whether the whole image is predicted on, too.

    Returns:
        Tiling | None: None without ``tiles``.

    Raises:
        ConfigError: the other options are given without ``tiles``, or are out of range.
    """
    if tiles is not None:
        return Tiling(tiles, OVERLAP if overlap is None else overlap, also_whole)
    for setting, given in (("overlap", overlap is not None), ("also_whole", also_whole)):
        if given:
            raise ConfigError(
                f"it is for {ConfigError.name_setting('tiles')}, which isn't given",
                setting=setting,
            )
    return None


def check_tiled(config: Config) -> None:
    """Refuses models that need the whole image.

    Raises:
        ConfigError: it is a classifier or panoptic.
    """
    if is_classifier(config.model):
        raise ConfigError("a classifier gives the class of a whole image", setting="tiles")
    kind = str(config.model.get("type"))
    if "PanopticFPN" in kind or any(d.get("panoptic_on") for d in iter_dicts(config.model)):
        raise ConfigError(
            f"{kind} gives panoptic segments, which aren't merged from tiles", setting="tiles"
        )
