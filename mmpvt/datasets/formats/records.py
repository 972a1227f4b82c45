"""Images and their objects, whatever the format that they were read from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ALL = "all"  # the one split of a data set that isn't split

Colour = tuple[int, int, int]  # RGB


@dataclass(slots=True)
class Instance:
    """An object in an image; all coordinates are pixels from the image's upper left corner."""

    label: int  # of the data set's classes
    box: tuple[float, float, float, float]  # x, y, width, height
    polygons: list[list[float]] | None = None  # x, y, x, y, …
    rle: dict | None = None  # COCO's, compressed: size (height, width), counts (str)
    ignored: bool = False  # a crowd, or VOC's difficult: neither trained on nor scored
    area: float | None = None  # of the mask, where the file says it


@dataclass(slots=True)
class ImageRecord:
    """An image and what is annotated in it."""

    path: Path
    width: int  # as mmpvt.LoadImageFromFile loads it
    height: int
    instances: list[Instance] = field(default_factory=list)
    label_map: Path | None = None  # of semantic data
    labels: tuple[int, ...] = ()  # that are in it


def unique_records(splits: Mapping[str, Iterable[ImageRecord]]) -> list[ImageRecord]:
    """The images of all splits; one that is in several counts once."""
    return list({id(record): record for same in splits.values() for record in same}.values())
