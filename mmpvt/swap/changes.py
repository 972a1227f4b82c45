"""What a swap says of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Change(NamedTuple):
    """One change of a config, for people.

    Attributes:
        where: dotted path in the config.
        what: from what to what, and why.
    """

    where: str
    what: str


def width_change(
    path: str, before: object, after: object, stages: Sequence[int], key: str = "in_channels"
) -> Change:
    """That a reader's width changes.

    Args:
        path (str): the reader.
        before (object): its width, or widths.
        after (object): likewise, PVT's.
        stages (Sequence[int]): PVT's stages that it reads, counted from 0.
        key (str): the entry that holds them.

    Returns:
        Change: in words.
    """
    names = " ".join(str(stage + 1) for stage in stages)
    of = "stage" if len(stages) == 1 else "stages"
    before = before if isinstance(before, int) else list(before)
    return Change(f"{path}.{key}", f"{before} -> {after}, the channels of PVT's {of} {names}")
