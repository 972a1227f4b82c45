"""CVAT for images 1.1: one XML file, with the labels in its ``meta``."""

from __future__ import annotations

from collections import defaultdict
from xml.etree.ElementTree import Element

import numpy as np

from mmpvt.datasets.formats.files import split_of, split_of_path
from mmpvt.datasets.formats.labelme import ellipse, pasted
from mmpvt.datasets.formats.reading import Content, Reading, join_groups, outlined, parse_xml
from mmpvt.datasets.formats.records import ALL, Colour, ImageRecord, Instance
from mmpvt.errors import DatasetError
from mmpvt.utils.files import MAX_ANNOTATIONS, read_bytes
from mmpvt.utils.progress import with_progress

_SHAPES = ("box", "polygon", "mask", "ellipse")
_SKIPPED = ("points", "polyline", "cuboid", "skeleton", "tag")


def read_cvat(reading: Reading, names: list[str]) -> Content:
    """Reads a file of annotations, or several; classes are in the order of the labels in ``meta``.

    Raises:
        DatasetError: a file is no XML, or of CVAT's video format.
    """
    classes: list[str] = []
    colours: dict[str, Colour] = {}
    splits: dict[str, list[ImageRecord]] = defaultdict(list)
    roots = {}
    for name in names:
        path = reading.root / name
        try:
            roots[name] = parse_xml(read_bytes(path, MAX_ANNOTATIONS))
        except (OSError, ValueError) as error:
            raise DatasetError(f"{path} can't be read: {error}", where=path) from error
        if roots[name].find("track") is not None:
            raise DatasetError(
                f"{path} is of the format CVAT for video",
                where=path,
                hint="export the task as CVAT for images 1.1",
            )
        for label in roots[name].iterfind("meta/*/labels/label"):
            title = (label.findtext("name") or "").strip()
            if title and not label.findtext("parent") and title not in classes:
                classes.append(title)
                if colour := _colour(label.findtext("color") or ""):
                    colours[title] = colour
    labels = {name: label for label, name in enumerate(classes)}
    used = set()
    for name, root in roots.items():
        near = name.rpartition("/")[0]
        for image in with_progress(root.findall("image"), f"reading {name}"):
            file_name, subset = image.get("name", ""), split_of(image.get("subset", ""))
            found = reading.files.find_image(file_name, near, subset)
            if found is None:
                reading.problem(name, f"the image {file_name!r} is missing")
                continue
            used.add(found)
            stated = _size(image)
            record = reading.record(reading.root / found, stated)
            if record is None:
                continue
            _read_shapes(reading, record, image, labels, f"{name}, {file_name}")
            split = subset or split_of_path(found)
            splits[split_of_path(name) if split == ALL else split].append(record)
    reading.note_unused(used, "in no annotation file")
    return Content(classes, dict(splits), colours)


def _colour(text: str) -> Colour | None:
    try:
        value = int(text.removeprefix("#"), 16)
    except ValueError:
        return None
    return (value >> 16 & 255, value >> 8 & 255, value & 255) if len(text) == 7 else None


def _size(image: Element) -> tuple[int, int] | None:
    try:
        return int(image.get("width", "")), int(image.get("height", ""))
    except ValueError:
        return None


def _read_shapes(
    reading: Reading, record: ImageRecord, image: Element, labels: dict[str, int], where: str
) -> None:
    parts = []
    for place, shape in enumerate(image, 1):
        at = f"{where}, shape {place}"
        if shape.tag in _SKIPPED:
            reading.count("points, lines, cuboids, skeletons and tags are skipped", at)
            continue
        if shape.tag not in _SHAPES:
            reading.problem(at, f"a shape of an unknown kind, {shape.tag[:40]!r}")
            continue
        label = labels.get(shape.get("label", ""))
        if label is None:
            reading.problem(at, f"the label {shape.get('label')!r} isn't in meta")
            continue
        try:
            part = _instance(reading, record, shape, label, at)
        except (ValueError, OverflowError) as error:
            reading.problem(at, f"a {shape.tag} that can't be read ({error})")
            continue
        if part is not None:
            group = shape.get("group_id", "0")
            parts.append((None if group in ("0", "") or shape.tag == "box" else group, part))
    join_groups(record, parts, where, reading)


def _instance(
    reading: Reading, record: ImageRecord, shape: Element, label: int, where: str
) -> Instance | None:
    def number(key: str) -> float:
        return float(shape.get(key, ""))

    if shape.tag == "polygon":
        points = [pair.split(",") for pair in shape.get("points", "").split(";") if pair.strip()]
        if any(len(point) != 2 for point in points):
            raise ValueError("its points aren't pairs of numbers")
        outline = [float(value) for point in points for value in point]
        return outlined(reading, record, label, outline, where)
    turn = float(shape.get("rotation", "0"))
    if shape.tag == "ellipse":
        outline = ellipse(number("cx"), number("cy"), number("rx"), number("ry"), turn)
        return outlined(reading, record, label, outline, where)
    if shape.tag == "box":
        x1, y1, x2, y2 = (number(key) for key in ("xtl", "ytl", "xbr", "ybr"))
        if turn % 360:
            outline = _turned(x1, y1, x2, y2, turn)
            return outlined(reading, record, label, outline, where)
        box = reading.clip_box(record, x1, y1, x2, y2, where)
        return box and Instance(label, box)
    width, height = int(number("width")), int(number("height"))
    runs = [int(run) for run in shape.get("rle", "").split(",") if run.strip()]
    fits = 0 < width <= record.width and 0 < height <= record.height
    if not fits or sum(runs) != width * height or min(runs) < 0:
        raise ValueError("its run lengths don't fill its box")
    values = np.arange(len(runs)) % 2 == 1  # background first, row after row
    part = np.repeat(values, runs).reshape(height, width)
    return pasted(reading, record, label, part, (number("left"), number("top")), where)


def _turned(x1: float, y1: float, x2: float, y2: float, turn: float) -> list[float]:
    """The corners of a box turned about its middle, clockwise on the screen, by degrees."""
    middle = np.array(((x1 + x2) / 2, (y1 + y2) / 2))
    c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    around = np.array(((x1, y1), (x2, y1), (x2, y2), (x1, y2))) - middle
    return (around @ np.array(((c, s), (-s, c))) + middle).ravel().tolist()
