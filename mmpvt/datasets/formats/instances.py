"""Objects of images: their masks and areas, and turning them with their image."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from mmpvt.datasets.formats.reading import image_size, orientation
from mmpvt.datasets.formats.records import ImageRecord, Instance


def area(one: Instance) -> float:
    """An object's area in pixels: what its file says, its mask's, or its box's."""
    if one.area is not None:
        return one.area
    mask = one.rle
    if one.polygons:
        # not from their corners: parts may overlap, or be joined in one outline and turn either way
        height, width = (math.ceil(max(0, *(max(p[k::2]) for p in one.polygons))) for k in (1, 0))
        mask = rle.merge(rle.frPyObjects(one.polygons, height, width))
    pixels = float(rle.area(mask)) if mask else 0.0
    return pixels or one.box[2] * one.box[3]


def decoded(one: Instance, height: int, width: int) -> np.ndarray:
    """An object's mask, (height, width), uint8."""
    if one.rle is not None:
        return rle.decode(one.rle)
    return rle.decode(rle.merge(rle.frPyObjects(one.polygons, height, width)))


def as_loaded(record: ImageRecord) -> ImageRecord:
    """An image's record with annotations turned as its EXIF orientation turns the image, where they
    are of the image as stored: label maps and YOLO's files can't say which they are of."""
    size, stored = image_size(record.path)
    if (record.width, record.height) != stored or size == stored:
        return record
    with Image.open(record.path) as image:
        how = orientation(image)
    instances = [_turned(one, *stored, how) for one in record.instances]
    return replace(record, width=size[0], height=size[1], instances=instances)


def _turned(one: Instance, width: int, height: int, how: int) -> Instance:
    """An object of an image of ``width`` and ``height``, turned by EXIF orientation ``how``, 5 to
    8."""
    from_right, from_below = how in (6, 7), how in (7, 8)  # where the turned image's axes begin

    def turn(points: list[float]) -> list[float]:
        xs, ys = np.array(points[::2]), np.array(points[1::2])
        pairs = (height - ys if from_right else ys, width - xs if from_below else xs)
        return np.stack(pairs, 1).ravel().tolist()

    x, y, w, h = one.box
    x1, y1, x2, y2 = turn([x, y, x + w, y + h])
    mask = one.rle
    if mask is not None:
        turned = rle.decode(mask).T[:: -1 if from_below else 1, :: -1 if from_right else 1]
        mask = rle.encode(np.asfortranarray(turned))
        mask["counts"] = mask["counts"].decode()
    return replace(
        one,
        box=(min(x1, x2), min(y1, y2), h, w),
        polygons=one.polygons and [turn(polygon) for polygon in one.polygons],
        rle=mask,
    )
