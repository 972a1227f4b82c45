"""Pascal VOC: an XML file an image, in Annotations/ with ImageSets/, or beside the images."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from pathlib import PurePosixPath
from xml.etree.ElementTree import Element

from mmpvt.datasets.formats.reading import (
    Content,
    Reading,
    outline_box,
    parse_xml,
    split_of_path,
    stem,
    with_progress,
)
from mmpvt.datasets.formats.records import ALL, Colour, ImageRecord, Instance
from mmpvt.errors import UserError
from mmpvt.utils.files import read_bytes

_LABEL_MAP = re.compile(r"([^:#]+):(?:(\d+),(\d+),(\d+))?:[^:]*:[^:]*")  # name:r,g,b:parts:actions
_FOLDER = re.compile(r"(^|/)(?:[Aa]nnotations|xmls?|labels)/")
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "img")
_MAPS = re.compile(r"(^|/)Segmentation(Class|Object)/")
_IMAGE_SETS = re.compile(r"(?:.*/)?ImageSets/(?:Main/)?(train|val|test|trainval|default)\.txt")


def read_voc(reading: Reading, names: list[str]) -> Content:
    """Reads annotation files; classes are those of a ``labelmap.txt``, or sorted by name.

    VOC counts pixels from 1, its boxes' last ones included: a box over the first two columns is
    from 1 to 2. Tools that write 0 for the first are taken at their word, in all of the data.
    """
    pairs = _images(reading, names)
    lists = _listed(reading, names)
    used = set(pairs.values())
    others = [i for i in reading.files.images if i not in used and not _MAPS.search(i)]
    if lists and others:
        reading.count("images have no annotation file and aren't used", others[0], len(others))
        others = []
    take = reading.lacking(others, len(used) + len(others))
    read: list[tuple[str, ImageRecord, Element]] = []
    found: set[str] = set()
    for name in with_progress(list(pairs), "reading annotations"):
        try:
            element = parse_xml(read_bytes(reading.root / name))
        except (OSError, ValueError) as error:
            reading.problem(name, error.what if isinstance(error, UserError) else str(error))
            continue
        record = reading.record(reading.root / pairs[name], _stated(element))
        if record is not None:
            read.append((name, record, element))
            found.update((one.findtext("name") or "").strip() for one in element.iterfind("object"))
    found.discard("")
    order, colours = _label_map(reading)
    order = [name for name in order if name in found or name != "background"]
    classes = [*order, *sorted(found - set(order))]
    labels = {name: label for label, name in enumerate(classes)}
    lows = Counter(min(value, 2) for _, _, e in read for value in _lows(e))
    from_zero = sum(n for value, n in lows.items() if value < 1) > lows[1]
    if from_zero:
        reading.notes.append("the boxes count pixels from 0, where VOC's own count from 1")
    splits: dict[str, list[ImageRecord]] = defaultdict(list)
    for name, record, element in read:
        for place, one in enumerate(element.iterfind("object"), 1):
            _add(reading, record, one, f"{name}, object {place}", labels, not from_zero)
        key = _key(name)
        for split in lists.get(key, ()) if lists else (split_of_path(name),):
            splits[split].append(record)
        if lists and key not in lists:
            reading.count("annotated images are in no list of ImageSets and aren't used", name)
    for image in others if take else ():
        record = reading.record(reading.root / image)
        if record is not None:
            splits[split_of_path(image)].append(record)
    return Content(classes, dict(splits), colours)


def _key(name: str) -> str:
    """An annotation file's name as the lists of its data set's folder have it."""
    return re.sub(r"(^|/)Annotations/", r"\1", stem(name))


def _images(reading: Reading, names: list[str]) -> dict[str, str]:
    """The image of each annotation file."""
    by_stem: dict[str, list[str]] = defaultdict(list)
    for image in reading.files.images:
        by_stem[stem(image)].append(image)
    pairs: dict[str, str] = {}
    for name in names:
        at = stem(name)
        places = [at, *(_FOLDER.sub(rf"\1{folder}/", at) for folder in _IMAGE_FOLDERS)]
        found = next((by_stem[place] for place in places if place in by_stem), [])
        if not found:
            last = PurePosixPath(at).name
            known = (reading.files.find_image(f"{last}{end}") for end in (".jpg", ".jpeg", ".png"))
            found = [image for image in known if image]
        if not found:
            reading.problem(name, "there is no image of its name")
        elif len(found) > 1:
            reading.problem(name, f"it may be of any of {', '.join(found)}")
        else:
            pairs[name] = found[0]
    return pairs


def _listed(reading: Reading, names: list[str]) -> dict[str, list[str]]:
    """The splits that ImageSets' lists put an annotation file in, by :func:`_key`."""
    lists: dict[str, dict[str, str]] = defaultdict(dict)  # by folder, by list
    for name in reading.files.of(".txt"):
        if match := _IMAGE_SETS.fullmatch(name):
            lists[name[: name.index("ImageSets/")]][match[1]] = name
    splits: dict[str, list[str]] = defaultdict(list)
    known = {_key(name) for name in names}
    for folder, files in lists.items():
        if "train" in files and "val" in files:
            files.pop("trainval", None)
        for which, name in files.items():
            split = {"trainval": "train", "default": ALL}.get(which, which)
            for line in reading.read_text(reading.root / name).splitlines():
                if not line.strip():
                    continue
                key = folder + line.split()[0]
                if key not in known:
                    reading.problem(name, f"{line.split()[0]} has no annotation file")
                elif split not in splits[key]:
                    splits[key].append(split)
    return {key: found for key, found in splits.items() if found}


def _label_map(reading: Reading) -> tuple[list[str], dict[str, Colour]]:
    """Names and colours of ``labelmap.txt``, which CVAT writes."""
    order, colours = [], {}
    for name in reading.files.of(".txt"):
        if PurePosixPath(name).name != "labelmap.txt":
            continue
        for line in reading.read_text(reading.root / name).splitlines():
            if match := _LABEL_MAP.fullmatch(line.strip()):
                order.append(match[1])
                if match[2]:
                    colours[match[1]] = int(match[2]), int(match[3]), int(match[4])
    return order, colours


def _stated(element: Element) -> tuple[int, int] | None:
    try:
        size = tuple(int(float(element.findtext(f"size/{s}", ""))) for s in ("width", "height"))
    except ValueError:
        return None
    return size if min(size) > 0 else None  # type: ignore[return-value]


def _lows(element: Element) -> list[float]:
    """Where an image's boxes begin, in both directions."""
    values = []
    for one in element.iterfind("object"):
        for side in ("xmin", "ymin"):
            try:
                values.append(float(one.findtext(f"bndbox/{side}", "")))
            except ValueError:
                continue  # said when the box is read
    return values


def _add(
    reading: Reading,
    record: ImageRecord,
    one: Element,
    where: str,
    labels: dict[str, int],
    from_one: bool,
) -> None:
    name = (one.findtext("name") or "").strip()
    if not name:
        reading.problem(where, "it has no name")
        return
    shift = 1 if from_one else 0
    try:
        sides = [float(one.findtext(f"bndbox/{s}", "")) for s in ("xmin", "ymin", "xmax", "ymax")]
        outline = [float(e.text or "") - shift for e in one.findall("polygon/*")]
    except ValueError:
        reading.problem(where, "it has no box of four numbers")
        return
    x1, y1, x2, y2 = sides
    box = reading.clip_box(record, x1 - shift, y1 - shift, x2, y2, where)
    if box is None:
        return
    polygons = None
    if outline:
        if len(outline) < 6 or len(outline) % 2:
            reading.problem(where, "it has a polygon of less than three points")
            return
        polygons = [outline]
        box = reading.clip_box(record, *outline_box(polygons), where) or box
    ignored = (one.findtext("difficult") or "0").strip() == "1"
    if ignored:
        reading.count("difficult objects are neither trained on nor scored", where)
    record.instances.append(Instance(labels[name], box, polygons, ignored=ignored))
