"""LabelMe: a JSON file an image."""

from __future__ import annotations

import base64
import io
import math
import os
import re
from collections import defaultdict
from pathlib import PurePosixPath
from typing import Annotated, Any

import msgspec
import numpy as np
from PIL import Image
from pycocotools import mask as rle

from mmpvt.datasets.formats.files import split_of_path, stem
from mmpvt.datasets.formats.reading import Content, Reading, join_groups, outlined, read_json
from mmpvt.datasets.formats.records import ImageRecord, Instance
from mmpvt.errors import UserError
from mmpvt.utils.progress import with_progress

_SKIPPED = ("point", "points", "line", "linestrip")
CIRCLE = 64  # corners of the polygon that a circle becomes: off by 0.12% of the radius


Side = Annotated[float, msgspec.Meta(ge=0, le=2**31)]


class _Shape(msgspec.Struct):
    label: str | int
    points: list[tuple[float, float]]
    shape_type: str | None = "polygon"
    group_id: int | str | None = None
    mask: str | None = None


class _File(msgspec.Struct):  # without imageData, which msgspec skips
    shapes: list[_Shape]
    imagePath: str | None = None
    imageWidth: Side | None = None
    imageHeight: Side | None = None


def read_labelme(reading: Reading, names: list[str]) -> Content:
    """Reads annotation files; classes are sorted by name."""
    read: list[tuple[str, ImageRecord, _File]] = []
    decoder = msgspec.json.Decoder(_File)
    used = set()
    by_stem = {stem(image): image for image in reading.files.images}
    for name in with_progress(names, "reading annotations"):
        try:
            data = read_json(reading.root / name)
            file = decoder.decode(data)
            image = _image(reading, name, file, by_stem)
        except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
            reading.problem(name, error.what if isinstance(error, UserError) else str(error))
            continue
        if image is None:
            has_copy = re.search(rb'"imageData"\s*:\s*"', data)
            held = "; imageData holds a copy, to be saved beside it" if has_copy else ""
            reading.problem(name, f"its image {file.imagePath!r} is missing{held}")
            continue
        used.add(image)
        stated = None
        if file.imageWidth is not None and file.imageHeight is not None:
            stated = round(file.imageWidth), round(file.imageHeight)
        record = reading.record(reading.root / image, stated)
        if record is not None:
            read.append((name, record, file))
    others = [image for image in reading.files.images if image not in used]
    take = reading.lacking(others, len(used) + len(others))
    classes = sorted(
        {str(s.label) for _, _, file in read for s in file.shapes if s.shape_type not in _SKIPPED}
    )
    labels = {name: label for label, name in enumerate(classes)}
    splits: dict[str, list[ImageRecord]] = defaultdict(list)
    for name, record, file in read:
        parts = []
        for place, shape in enumerate(file.shapes, 1):
            where = f"{name}, shape {place}"
            if shape.shape_type in _SKIPPED:
                reading.count("points and lines are skipped", where)
                continue
            part = _instance(reading, record, shape, labels[str(shape.label)], where)
            if part is not None:
                parts.append((shape.group_id, part))
        join_groups(record, parts, name, reading)
        splits[split_of_path(name)].append(record)
    for image in others if take else ():
        record = reading.record(reading.root / image)
        if record is not None:
            splits[split_of_path(image)].append(record)
    return Content(classes, dict(splits))


def _image(reading: Reading, name: str, file: _File, by_stem: dict[str, str]) -> str | None:
    near = str(PurePosixPath(name).parent)
    found = None
    if file.imagePath:
        path = file.imagePath.replace("\\", "/")
        beside = os.path.normpath(f"{near}/{path}").replace(os.sep, "/")
        if by_stem.get(stem(beside)) == beside:
            return beside
        found = reading.files.find_image(path, "" if near == "." else near)
    return found or by_stem.get(stem(name))


def _instance(
    reading: Reading, record: ImageRecord, shape: _Shape, label: int, where: str
) -> Instance | None:
    kind, points = shape.shape_type or "polygon", shape.points
    if kind in ("rectangle", "circle", "mask") and len(points) < 2:
        reading.problem(where, f"a {kind} of {len(points)} points")
        return None
    if kind == "mask":
        return _mask(reading, record, shape, label, where)
    if kind == "rectangle":
        xs, ys = zip(*points, strict=True)
        box = reading.clip_box(record, min(xs), min(ys), max(xs), max(ys), where)
        return box and Instance(label, box)
    if kind == "circle":
        (x, y), edge = points[:2]
        outline = ellipse(x, y, *[math.dist((x, y), edge)] * 2)
    elif kind in ("polygon", "oriented_rectangle", "rotation"):  # the last is X-AnyLabeling's
        outline = [value for point in points for value in point]
    else:
        reading.problem(where, f"a shape of an unknown kind, {kind[:40]!r}")
        return None
    return outlined(reading, record, label, outline, where)


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> list[float]:
    """The outline of an ellipse as a polygon; ``turn`` is in degrees."""
    c, s = math.cos(math.radians(turn)), math.sin(math.radians(turn))
    outline = []
    for i in range(CIRCLE):
        a, b = (f(2 * math.pi * i / CIRCLE) for f in (math.cos, math.sin))
        outline += [x + c * rx * a - s * ry * b, y + s * rx * a + c * ry * b]
    return outline


def _mask(
    reading: Reading, record: ImageRecord, shape: _Shape, label: int, where: str
) -> Instance | None:
    try:
        image = Image.open(io.BytesIO(base64.b64decode(shape.mask or "")))
        if image.width > record.width or image.height > record.height:
            raise ValueError("larger than its image")
        part = np.asarray(image.convert("L")) > 0
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        reading.problem(where, "a mask that can't be read")
        return None
    return pasted(reading, record, label, part, shape.points[0], where)


def pasted(
    reading: Reading,
    record: ImageRecord,
    label: int,
    part: np.ndarray,
    corner: tuple[float, float],
    where: str,
) -> Instance | None:
    """An object of a mask, (height, width), bool, whose upper left corner lies at ``corner``."""
    left, top = (round(value) for value in corner)
    full = np.zeros((record.height, record.width), np.uint8, order="F")
    target = full[max(top, 0) : top + part.shape[0], max(left, 0) : left + part.shape[1]]
    source = part[max(-top, 0) :, max(-left, 0) :][: target.shape[0], : target.shape[1]]
    if not source.any() or target.shape != source.shape:
        reading.problem(where, "a mask without pixels in its image")
        return None
    target[...] = source
    encoded: Any = rle.encode(full)
    x, y, w, h = (float(value) for value in rle.toBbox(encoded))
    mask = dict(size=list(full.shape), counts=encoded["counts"].decode())
    return Instance(label, (x, y, w, h), rle=mask)
