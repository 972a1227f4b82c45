"""Folders of label maps beside images: indices, palettes, or colours with a table of them."""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from mmpvt.datasets.formats.files import Files, split_of_path, stem
from mmpvt.datasets.formats.reading import Content, Reading
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


class _Values(NamedTuple):
    """What is in the file of a label map."""

    held: list  # its numbers, or its colours, each once
    size: tuple[int, int]  # width, height
    palette: list[Colour]  # empty where it isn't indexed


class _LabelMap(NamedTuple):
    """A label map of an image."""

    name: str  # its path from the data set's folder
    record: ImageRecord
    splits: list[str]  # empty where no list of images names it
    held: list
    palette: list[Colour]


def read_masks(reading: Reading, found: Pairs) -> Content:
    """Reads label maps: which values or colours they hold, all of them.

    Args:
        reading (Reading): the data set.
        found (Pairs): of :func:`find_pairs`.

    Raises:
        DatasetError: nothing names the classes, or their number doesn't fit; maps are JPEG files.
    """
    for name in found.no_image:
        reading.problem(name, "there is no image of its name")
    lists = image_sets(reading, "Segmentation", set(found.keys), "label map")
    _check_pairs(reading, found, are_listed=bool(lists))
    names: Sequence[str]
    names, colours, values = _table(reading)
    are_colours = bool(colours) and values is None
    _note_repeated(reading, names, colours if are_colours else values or (), are_colours)
    maps = _read_maps(reading, found, lists, are_colours)
    if are_colours:
        values = tuple(colours)
        labels = {colour: label for label, colour in enumerate(colours)}
    else:
        held = sorted({value for one in maps for value in one.held})
        names, values, labels = _by_index(reading, names, values, held)
    splits: dict[str, list[ImageRecord]] = defaultdict(list)
    for one in maps:
        if one.splits and _set_labels(reading, one, labels):
            for split in one.splits:
                splits[split].append(one.record)
    notes = []
    if not are_colours:
        notes.append(differing_palettes((m.name, m.palette, m.held) for m in maps))
    if values is None and len(names) == 2:
        notes.append(mixed_binary((m.name, m.held) for m in maps))
    reading.notes += filter(None, notes)
    palette = colours or next((one.palette for one in maps if one.palette), [])
    own_colours = dict(zip(names, palette, strict=False))
    return Content(list(names), splits, own_colours, values)


def _check_pairs(reading: Reading, found: Pairs, are_listed: bool) -> None:
    """Checks that images have label maps, unless lists leave some out, and which keep values."""
    if are_listed and found.no_map:
        what = "images have no label map and aren't used"
        reading.count(what, found.no_map[0], len(found.no_map))
    elif reading.keep_empty and found.no_map:
        raise DatasetError(
            f"{counted(len(found.no_map), 'image has', 'images have')} no label map (the first: "
            f"{found.no_map[0]}), and images without one can't be trained on",
            instead=("on_bad_data", "skip"),
        )
    else:
        reading.lacking(found.no_map, len(found.no_map) + len(found.pairs))
    lossy = [m for _, m in found.pairs if PurePosixPath(m).suffix.lower() not in _LOSSLESS]
    if lossy:
        raise DatasetError(
            f"{counted(len(lossy), 'label map is', 'label maps are')} in JPEG or WebP (the first: "
            f"{lossy[0]}), which doesn't keep the values that were drawn",
            hint="export them as PNG",
        )


def _note_repeated(
    reading: Reading, names: Sequence[str], stored: Sequence, are_colours: bool
) -> None:
    """Notes classes to which their table gives the colour or value of another."""
    for place, one in enumerate(stored):
        if (first := stored.index(one)) < place:
            both = f"{names[first]!r} and {names[place]!r}"
            kind = "colour" if are_colours else "value"
            reading.notes.append(f"{both} have one {kind}, {one}: its pixels are of the latter")


def _read_maps(
    reading: Reading, found: Pairs, lists: dict[str, list[str]], are_colours: bool
) -> list[_LabelMap]:
    """Reads the label maps, and the sizes of their images."""
    maps = []
    with ThreadPoolExecutor(min(8, usable_processors())) as pool:
        paths = [reading.root / name for _, name in found.pairs]
        read = pool.map(lambda path: _read_map(path, are_colours), paths)
        pairs = with_progress(found.pairs, "reading label maps")
        for (image, name), key, one in zip(pairs, found.keys, read, strict=True):
            if isinstance(one, str):
                reading.problem(name, one)
                continue
            record = reading.record(reading.root / image)
            if record is None:
                continue
            if one.size != (record.width, record.height):
                told = f"{one.size[0]}x{one.size[1]}, and its image {record.width}x{record.height}"
                reading.problem(name, f"it is {told} pixels")
                continue
            record.label_map = reading.root / name
            if lists:
                splits = lists.get(key, [])
            else:
                split = split_of_path(name)
                splits = [split_of_path(image) if split == ALL else split]
            if not splits:
                reading.count("label maps are in no list of images and aren't used", name)
            maps.append(_LabelMap(name, record, splits, one.held, one.palette))
    return maps


def _set_labels(reading: Reading, label_map: _LabelMap, labels: dict) -> bool:
    """Sets the labels that an image's label map holds; False where it holds others."""
    name, held = label_map.name, label_map.held
    label_map.record.labels = tuple(sorted({labels[value] for value in held if value in labels}))
    others = sorted(v for v in held if v not in labels and v not in (IGNORE_LABEL, VOID))
    if others:
        kind = "colour" if isinstance(others[0], tuple) else "value"
        reading.problem(name, f"it holds the {kind} {others[0]}, which is of no class")
    if VOID in held and VOID not in labels:
        reading.count(f"label maps have pixels of {VOID}, which are ignored", name)
    return not others


def _read_map(path: Path, are_colours: bool) -> _Values | str:
    """What a label map holds, or a sentence on why it can't be read."""
    try:
        with Image.open(path) as image:
            palette = palette_of(image)
            if are_colours:
                found = image.convert("RGB").getcolors(MAX_COLOURS)
                if found is None:
                    return f"it has more than {MAX_COLOURS} colours"
                return _Values([colour for _, colour in found], image.size, palette)
            values = map_values(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"it can't be read as a label map ({error})"
    if values is None:
        return "it holds colours, and there is no table of them (labelmap.txt)"
    if values.dtype == np.uint8:
        held = np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist()
    else:
        held = np.unique(values).tolist()
    return _Values(held, image.size, palette)


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
    reading: Reading, names: Sequence[str], values: tuple | None, held: list
) -> tuple[Sequence[str], tuple | None, dict]:
    """Names, the number of each class (None: its label), and the label of each number."""
    names = names or reading.classes or ()
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
