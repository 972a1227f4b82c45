"""Folders of label maps beside images: indices, palettes, or colours with a table of them."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from mmpvt.datasets.formats.reading import (
    Content,
    Files,
    Reading,
    split_of_path,
    stem,
)
from mmpvt.datasets.formats.records import ALL, Colour, ImageRecord
from mmpvt.datasets.formats.voc import image_sets
from mmpvt.errors import DatasetError
from mmpvt.utils.constants import IGNORE_LABEL
from mmpvt.utils.processors import usable_processors
from mmpvt.utils.progress import with_progress
from mmpvt.utils.text import counted, few

_MAP_FOLDER = re.compile(
    r"(.*?)[_-]?(?:label_?(?:map|id)?s?|masks?|annot(?:ation)?s?|ann_dir|gt|ground_?truth|"
    r"segmentation(?:class|s)?|segmaps?)",
    re.IGNORECASE,
)
_IMAGE_FOLDER = re.compile(r"(.*?)[_-]?(?:images?|imgs?|jpegimages|img_dir|rgb)", re.IGNORECASE)
_MAP_STEM = re.compile(r"(.+?)(?:_masks?|_labels?|_labelIds|_L|_seg|_segmentation|_gt)")
_LOSSLESS = {".png", ".bmp", ".tif", ".tiff", ".gif", ".pgm"}
TABLES = ("labelmap.txt", "label_colors.txt", "class_dict.csv", "_classes.csv")
NAMES = ("classes.txt", "class_names.txt", "labels.txt")
VOID = (224, 224, 192)  # VOC's borders around objects
MAX_COLOURS = 4096  # of one label map


class Pairs(NamedTuple):
    """Images and label maps of the same names."""

    pairs: list[tuple[str, str]]
    no_map: list[str]
    no_image: list[str]
    keys: list[str]  # of the pairs: their paths without suffixes and folders of images or maps


def find_pairs(files: Files) -> Pairs:
    """Pairs ``images/train/a.jpg`` with ``masks/train/a.png``, and ``a.jpg`` with ``a_mask.png``.

    Raises:
        DatasetError: two images, or two label maps, have one name.
    """
    composed = files.composed
    present = set(map(composed, files.images))
    images: dict[str, list[str]] = defaultdict(list)
    maps: dict[str, list[str]] = defaultdict(list)
    for name in files.images:
        path = PurePosixPath(name)
        if "SegmentationObject" in path.parts:
            continue
        folders, is_map = [], False
        for part in path.parts[:-1]:
            if match := _MAP_FOLDER.fullmatch(part):
                is_map = True
            else:
                match = _IMAGE_FOLDER.fullmatch(part)
            folders += [rest] if (rest := match[1] if match else part) else []
        last = path.stem
        if match := _MAP_STEM.fullmatch(last):
            if not is_map and path.suffix.lower() == ".png":
                is_map = any(composed(f"{stem(name)[: -len(last)]}{match[1]}{s}") in present
                             for s in (".jpg", ".jpeg", ".png"))  # fmt: skip
            last = match[1] if is_map else last
        (maps if is_map else images)[composed("/".join((*folders, last)))].append(name)
    if not maps:
        return Pairs([], [same[0] for same in images.values()], [], [])
    for kind, found in (("images", images), ("label maps", maps)):
        for key, same in found.items():
            if len(same) > 1 and key in images and key in maps:
                raise DatasetError(f"{few(same)} are {kind} of one name")
    both = sorted(images.keys() & maps.keys())
    return Pairs(
        [(images[key][0], maps[key][0]) for key in both],
        [images[key][0] for key in sorted(images.keys() - maps.keys())],
        [name for key in sorted(maps.keys() - images.keys()) for name in maps[key]],
        both,
    )


def read_masks(reading: Reading, found: Pairs) -> Content:
    """Reads label maps: which values or colours they hold, all of them.

    Raises:
        DatasetError: nothing names the classes, or their number doesn't fit; maps are JPEG files.
    """
    for name in found.no_image:
        reading.problem(name, "there is no image of its name")
    lists = image_sets(reading, "Segmentation", set(found.keys), "label map")
    if lists and found.no_map:
        what = "images have no label map and aren't used"
        reading.count(what, found.no_map[0], len(found.no_map))
        found = found._replace(no_map=[])
    if reading.keep_empty and found.no_map:
        raise DatasetError(
            f"{counted(len(found.no_map), 'image has', 'images have')} no label map (the first: "
            f"{found.no_map[0]}), and images without one can't be trained on",
            instead=("on_bad_data", "skip"),
        )
    reading.lacking(found.no_map, len(found.no_map) + len(found.pairs))
    lossy = [m for _, m in found.pairs if os.path.splitext(m)[1].lower() not in _LOSSLESS]  # noqa: PTH122
    if lossy:
        raise DatasetError(
            f"{counted(len(lossy), 'label map is', 'label maps are')} in JPEG or WebP (the first: "
            f"{lossy[0]}), which doesn't keep the values that were drawn",
            hint="export them as PNG",
        )
    names: Sequence[str]
    names, colours, values = _table(reading)
    are_colours = bool(colours) and values is None
    stored = colours if are_colours else values or ()
    for place, one in enumerate(stored):
        if (first := stored.index(one)) < place:
            both = f"{names[first]!r} and {names[place]!r}"
            kind = "colour" if are_colours else "value"
            reading.notes.append(f"{both} have one {kind}, {one}: its pixels are of the latter")
    table = {colour: place for place, colour in enumerate(colours)} if are_colours else {}
    records: dict[str, list[tuple[ImageRecord, set]]] = defaultdict(list)
    seen: Counter = Counter()
    palette: list[Colour] = []
    indexed = []
    with ThreadPoolExecutor(min(8, usable_processors())) as pool:
        paths = [reading.root / name for _, name in found.pairs]
        read = pool.map(lambda path: _read_map(path, table), paths)
        pairs = with_progress(found.pairs, "reading label maps")
        for (image, name), key, (held, size, own) in zip(pairs, found.keys, read, strict=True):
            if size is None:
                reading.problem(name, str(held))
                continue
            record = reading.record(reading.root / image)
            if record is None:
                continue
            if size != (record.width, record.height):
                told = f"{size[0]}x{size[1]}, and its image {record.width}x{record.height}"
                reading.problem(name, f"it is {told} pixels")
                continue
            record.label_map = reading.root / name
            seen.update(held)
            palette = palette or own
            indexed.append((name, own, held))
            split = split_of_path(name)
            own_splits = [split_of_path(image) if split == ALL else split]
            for one in lists.get(key, ()) if lists else own_splits:
                records[one].append((record, set(held)))
            if lists and key not in lists:
                reading.count("label maps are in no list of images and aren't used", name)
    if are_colours:
        mapping = {colour: label for label, colour in enumerate(colours)}
        values = tuple(colours)
    else:
        names, values, mapping = _by_index(reading, names, values, seen)
    _number(reading, records, mapping)
    if not are_colours and (differing := differing_palettes(indexed)):
        reading.notes.append(differing)
    if (
        values is None
        and len(names) == 2
        and (mixed := mixed_binary((m[0], m[2]) for m in indexed))
    ):
        reading.notes.append(mixed)
    own_colours = dict(zip(names, colours or palette, strict=False))
    splits = {split: [record for record, _ in found] for split, found in records.items()}
    return Content(list(names), splits, own_colours, values)


def _number(reading: Reading, records: dict, mapping: dict) -> None:
    for same in records.values():
        for record, held in same:
            record.labels = tuple(sorted({mapping[v] for v in held if v in mapping}))
            odd = sorted(v for v in held if v not in mapping and v not in (IGNORE_LABEL, VOID))
            if odd:
                kind = "colour" if isinstance(odd[0], tuple) else "value"
                what = f"it holds the {kind} {odd[0]}, which is of no class"
                reading.problem(os.path.relpath(record.label_map, reading.root), what)
            if VOID in held and VOID not in mapping:
                reading.count(f"label maps have pixels of {VOID}, which are ignored",
                              os.path.relpath(record.label_map, reading.root))  # fmt: skip
        same[:] = [
            (record, held)
            for record, held in same
            if not any(v not in mapping and v not in (IGNORE_LABEL, VOID) for v in held)
        ]


def _read_map(path: Path, table: dict) -> tuple:
    """What a label map holds (numbers, or colours where there is a table of them), its size, and
    its palette; or a sentence and None."""
    try:
        with Image.open(path) as image:
            own = palette_of(image)
            if table:
                found = image.convert("RGB").getcolors(MAX_COLOURS)
                if found is None:
                    return f"it has more than {MAX_COLOURS} colours", None, None
                return [colour for _, colour in found], image.size, own
            values = map_values(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"it can't be read as a label map ({error})", None, None
    if values is None:
        return "it holds colours, and there is no table of them (labelmap.txt)", None, None
    if values.dtype == np.uint8:
        held = np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist()
    else:
        held = np.unique(values).tolist()
    return held, image.size, own


def mixed_binary(maps: Iterable[tuple[str, Collection[int]]]) -> str | None:
    """Says where some label maps of two classes seem to mean by 255 what others mean by 1.

    Args:
        maps (Iterable[tuple[str, Collection[int]]]): a map's name, and the numbers in it.
    """
    ones = whites = None
    for name, held in maps:
        if 1 in held and IGNORE_LABEL in held:  # 255 is beside 1, not in its place
            return None
        ones = name if 1 in held else ones
        whites = name if IGNORE_LABEL in held else whites
    if not ones or not whites:
        return None
    return (
        f"label maps such as {ones} hold 1, others such as {whites} 255 and no 1, and 255 is "
        "ignored: where it means the second class, write 1 in its place"
    )


def differing_palettes(
    maps: Iterable[tuple[str, Sequence[Colour], Iterable[int]]],
) -> str | None:
    """Says where a number is of one colour in a label map and of another in a second one.

    Args:
        maps (Iterable[tuple[str, Sequence[Colour], Iterable[int]]]): a map's name, its palette,
            which may be empty, and the numbers that it holds.
    """
    first: dict[int, tuple[str, Colour]] = {}
    for name, palette, held in maps:
        for value in held if palette else ():
            if value == IGNORE_LABEL or value >= len(palette):
                continue
            other, colour = first.setdefault(value, (name, palette[value]))
            if colour != palette[value]:
                return (
                    f"the palettes of label maps differ: {value} is {colour} in {other} and "
                    f"{palette[value]} in {name}; they are read by number, so where colours tell "
                    "the classes, name these in a labelmap.txt beside them, which --data and "
                    "convert_dataset.py read (docs/own_data.md)"
                )
    return None


def palette_of(image: Image.Image) -> list[Colour]:
    """The colours of an indexed image by number; none of others."""
    raw = image.getpalette() if image.mode == "P" else None
    return list(zip(raw[::3], raw[1::3], raw[2::3], strict=False)) if raw else []


def map_values(image: Image.Image) -> np.ndarray | None:
    """A label map's numbers, (height, width); None of colours."""
    values = np.asarray(image)
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.ndim == 3:
        count = 1 if image.mode == "LA" else 3
        if (values[..., :count] != values[..., :1]).any():
            return None
        return values[..., 0]
    return values


def _by_index(
    reading: Reading, names: Sequence[str], values: tuple | None, seen: Counter
) -> tuple[Sequence[str], tuple | None, dict]:
    """Names, the number of each class (None: its label), and the label of each number."""
    names = names or reading.classes or ()
    held = sorted(seen)
    numbers = [value for value in held if value != IGNORE_LABEL]
    if not names:
        raise DatasetError(
            f"nothing names the classes of the label maps in {reading.source}, which hold "
            f"{few(held, 8)}: name them in the order of these values"
            f"{', 255 apart, which is ignored' if IGNORE_LABEL in held[2:] else ''}",
            instead=("classes", None),
        )
    if values is None and held == [0, IGNORE_LABEL] and len(names) == 2:
        values = (0, IGNORE_LABEL)  # an image editor's black and white
    fits = all(0 <= value < len(names) for value in numbers)
    # grey levels, of which 255 is one, are far apart; of labels it is the ignored one
    are_levels = all(value > len(names) for value in numbers if value)
    listed = held if are_levels and len(held) == len(names) else numbers
    if values is None and not fits and len(listed) == len(names):
        values = tuple(listed)
        said = ", ".join(f"{v} {n}" for v, n in zip(values, names, strict=True))
        reading.notes.append(f"the values of the label maps are taken as {said}")
    if values is None and not fits and not reading.skip:
        apart = ", and 255, which is ignored" * (IGNORE_LABEL in held)
        raise DatasetError(
            f"the label maps in {reading.source} hold {len(numbers)} values ({few(numbers, 8)}"
            f"{apart}), and there are {len(names)} classes ({few(names)})",
            hint="name every value in order, that of unlabelled pixels too",
            setting="classes" if reading.classes else None,
        )
    stored = values if values is not None else range(len(names))
    return names, values, {value: label for label, value in enumerate(stored)}


def _table(reading: Reading) -> tuple[list[str], list[Colour], tuple | None]:
    """Names, colours and numbers of the file beside the label maps that names the classes."""
    for wanted in (*TABLES, *NAMES):
        tables = {}
        for name in reading.files.names:
            if PurePosixPath(name).name.lower() != wanted:
                continue
            if wanted in TABLES:
                table = _parse_table(reading.read_text(reading.root / name))
            else:
                table = reading.read_names(reading.root / name), [], None
            if table[0]:
                tables[name] = table
        if tables:
            first, *others = tables.values()
            if any(table != first for table in others):
                raise DatasetError(f"{few(tables)} name different classes")
            return first
    return [], [], None


def _parse_table(text: str) -> tuple[list[str], list[Colour], tuple | None]:
    """``name:r,g,b::`` (CVAT), ``r g b name`` (CamVid), ``name,r,g,b``, ``number,name``."""
    names, colours, numbers = [], [], []
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if match := re.fullmatch(r"([^:]+):(\d+),(\d+),(\d+)(?::.*)?", line):
            names.append(match[1].strip())
            colours.append(_colour(match.groups()[1:]))
        elif match := re.fullmatch(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,]+(\S.*)", line):
            names.append(match[4])
            colours.append(_colour(match.groups()[:3]))
        else:
            row = [cell.strip() for cell in next(csv.reader([line]))]
            if len(row) >= 4 and all(cell.isdigit() for cell in row[1:4]):
                names.append(row[0])
                colours.append(_colour(row[1:4]))
            elif len(row) == 2 and row[0].isdigit():
                names.append(row[1])
                numbers.append(int(row[0]))
    return names, colours, tuple(numbers) if len(numbers) == len(names) else None


def _colour(parts: Sequence[str]) -> Colour:
    red, green, blue = (min(int(part), 255) for part in parts)
    return red, green, blue
