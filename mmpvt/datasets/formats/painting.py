"""Label maps as PNG files: those of a data set, or made of its objects' masks."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mmpvt.datasets.formats.instances import area, as_loaded, decoded
from mmpvt.datasets.formats.masks import VOID, map_values
from mmpvt.datasets.formats.records import ImageRecord
from mmpvt.errors import DatasetError
from mmpvt.utils.constants import IGNORE_LABEL

if TYPE_CHECKING:
    from mmpvt.datasets.formats.opened import OpenedDataset

BACKGROUND = "background"  # pixels of no object, in label maps made of objects


def check_paintable(opened: OpenedDataset) -> None:
    """Checks that label maps can be made of a data set.

    Raises:
        DatasetError: it has boxes only, or more classes than a label map of 8 bits.
    """
    if not opened.is_semantic and not opened.has_masks:
        raise DatasetError(
            f"{opened.path} holds boxes only, and label maps take outlines", where=opened.path
        )
    number = len(map_classes(opened)[0])
    if number > IGNORE_LABEL:
        of_which = "" if opened.is_semantic else f" with {BACKGROUND!r}"
        raise DatasetError(
            f"{opened.path} has {number} classes{of_which}, and label maps hold {IGNORE_LABEL}: "
            f"the value {IGNORE_LABEL} is ignored",
            where=opened.path,
        )


def map_classes(opened: OpenedDataset) -> tuple[tuple[str, ...], list[tuple[int, int, int]]]:
    """Names and RGB colours of the classes of its label maps; of objects, with the background."""
    if opened.is_semantic:
        return opened.classes, opened.palette
    pairs = zip(opened.classes, opened.palette, strict=True)
    colours = {BACKGROUND: (0, 0, 0)} | {n: colour for n, colour in pairs if n != BACKGROUND}
    return tuple(colours), list(colours.values())


def label_map_png(opened: OpenedDataset, record: ImageRecord) -> bytes:
    """An image's label map as a PNG file, indexed, with the classes' colours for viewers."""
    labels = _labels(opened, record) if opened.is_semantic else _painted(opened, record)
    image = Image.fromarray(labels)
    palette = map_classes(opened)[1]
    # of fewer than 256 colours Pillow stores fewer bits a pixel, in which 255 is another label
    colours = [*palette, *[VOID] * 256][:256]
    image.putpalette([value for colour in colours for value in colour])
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def _labels(opened: OpenedDataset, record: ImageRecord) -> np.ndarray:
    assert record.label_map is not None
    values: list = list(opened.label_values or range(len(opened.classes)))
    with Image.open(record.label_map) as image:
        if isinstance(values[0], tuple):
            codes = np.array((1 << 16, 1 << 8, 1))
            stored = np.asarray(image.convert("RGB")).astype(np.int64) @ codes
            values = [int(np.dot(value, codes)) for value in values]
        else:
            stored = np.asarray(map_values(image))
    labels = np.full(stored.shape, IGNORE_LABEL, np.uint8)
    for label, value in enumerate(values):
        labels[stored == value] = label
    return labels


def _painted(opened: OpenedDataset, record: ImageRecord) -> np.ndarray:
    """The labels of an image's objects in the classes of the label maps; smaller objects over
    larger ones."""
    record = as_loaded(record)
    names = map_classes(opened)[0]
    labels = np.zeros((record.height, record.width), np.uint8)
    for one in sorted(record.instances, key=area, reverse=True):
        mask = decoded(one, record.height, record.width).astype(bool)
        labels[mask] = IGNORE_LABEL if one.ignored else names.index(opened.classes[one.label])
    return labels
