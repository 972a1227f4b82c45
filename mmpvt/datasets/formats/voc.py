"""Pascal VOC: an XML file an image, in Annotations/ with ImageSets/, or beside the images."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath
from xml.etree.ElementTree import Element

from mmpvt.datasets.formats.files import split_of_list, split_of_path, stem
from mmpvt.datasets.formats.reading import Content, Reading, outlined, parse_xml
from mmpvt.datasets.formats.records import Colour, ImageRecord, Instance
from mmpvt.errors import UserError
from mmpvt.utils.files import read_bytes
from mmpvt.utils.progress import with_progress

_LABEL_MAP = re.compile(r"([^#].*):(?:(\d+),(\d+),(\d+))?:[^:]*:[^:]*")  # name:r,g,b:parts:actions
_FOLDER = re.compile(r"(^|/)(?:[Aa]nnotations|xmls?|labels)/")
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images", "img")
_MAPS = re.compile(r"(^|/)Segmentation(Class|Object)/")
_LISTS = re.compile(
    r"((?:.*?/)??)(ImageSets/(?:(Main|Segmentation)/)?|splits/)?([^/]+)\.txt", re.DOTALL
)
_FRACTIONS = 0.5  # of the coordinates: pixels have none, places between them do


def read_voc(reading: Reading, names: list[str], first: int | None = None) -> Content:
    """Reads annotation files; classes are those of a ``labelmap.txt``, or sorted by name.

    VOC counts pixels from 1, its boxes' last ones included: a box over the first two columns is
    from 1 to 2. Other tools (CVAT, for one) write the box's edges, from 0 to 2: which of both is
    taken for all of the data where nothing says so is told by boxes that begin at 0 or have
    fractions.

    Args:
        reading (Reading): the data set.
        names (list[str]): of the annotation files.
        first (int | None): 1 or 0. Default: None, by the data.
    """
    pairs = _images(reading, names)
    lists = image_sets(reading, "Main", {_key(reading, name) for name in names}, "annotation file")
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
    if first is None:
        first, remark = _first_pixel([element for _, _, element in read])
    else:
        remark = f"coordinates from {first}, as asked for"
    splits: dict[str, list[ImageRecord]] = defaultdict(list)
    for name, record, element in read:
        for place, one in enumerate(element.iterfind("object"), 1):
            _add(reading, record, one, f"{name}, object {place}", labels, first)
        key = _key(reading, name)
        for split in lists.get(key, ()) if lists else (split_of_path(name),):
            splits[split].append(record)
        if lists and key not in lists:
            reading.count("annotated images are in no list of images and aren't used", name)
    for image in others if take else ():
        record = reading.record(reading.root / image)
        if record is not None:
            splits[split_of_path(image)].append(record)
    return Content(classes, dict(splits), colours, remark=remark)


def _key(reading: Reading, name: str) -> str:
    """An annotation file's name as the lists of its data set's folder have it."""
    return reading.files.composed(re.sub(r"(^|/)Annotations/", r"\1", stem(name)))


def _images(reading: Reading, names: list[str]) -> dict[str, str]:
    """The image of each annotation file."""
    by_stem: dict[str, list[str]] = defaultdict(list)
    by_last: dict[str, list[str]] = defaultdict(list)
    composed = reading.files.composed
    for image in reading.files.images:
        by_stem[composed(stem(image))].append(image)
        if not _MAPS.search(image):
            by_last[composed(PurePosixPath(image).stem)].append(image)
    pairs: dict[str, str] = {}
    for name in names:
        at = composed(stem(name))
        places = [at, *(_FOLDER.sub(rf"\1{folder}/", at) for folder in _IMAGE_FOLDERS)]
        found = next((by_stem[place] for place in places if place in by_stem), [])
        if not found:
            found = by_last[PurePosixPath(at).name] or _by_file_name(reading, name)
        if not found:
            reading.problem(name, "there is no image of its name")
        elif len(found) > 1:
            reading.problem(name, f"it may be of any of {', '.join(found)}")
        else:
            pairs[name] = found[0]
    return pairs


def _by_file_name(reading: Reading, name: str) -> list[str]:
    """The image that an annotation file names, which has another name itself."""
    try:
        file_name = parse_xml(read_bytes(reading.root / name)).findtext("filename")
    except (OSError, ValueError):
        return []
    found = reading.files.find_image(file_name.strip()) if file_name else None
    return [found] if found else []


def image_sets(
    reading: Reading, kind: str, known: Collection[str], what: str
) -> dict[str, list[str]]:
    """The splits that ImageSets' lists put images in.

    Args:
        reading (Reading): the data set.
        kind (str): the folder of the lists, ``'Main'`` or ``'Segmentation'``. Lists in ImageSets
            itself or in splits count, too, and those of the other kind where there are no others;
            then lists beside the folders of images, of training and another split.
        known (Collection[str]): the annotated images, as ``VOC2012/2007_000027``.
        what (str): an image that a list names lacks if it isn't known.

    Returns:
        dict[str, list[str]]: by image; empty where there are no lists.
    """
    composed = reading.files.composed
    splits: dict[str, list[str]] = defaultdict(list)
    for folder, files in _find_lists(reading, kind, known).items():
        if "train" in files and "val" in files:
            files.pop("trainval", None)
        for which, name in files.items():
            split = {"trainval": "train"}.get(which, which)
            for line in reading.read_text(reading.root / name).splitlines():
                if not line.strip():
                    continue
                key = _listed_image(composed(line.strip()), composed(folder), known)
                if key is None:
                    reading.problem(name, f"{line.strip()} has no {what}")
                elif split not in splits[key]:
                    splits[key].append(split)
    return {key: found for key, found in splits.items() if found}


def _find_lists(reading: Reading, kind: str, known: Collection[str]) -> dict[str, dict[str, str]]:
    """The lists that :func:`image_sets` takes: by folder, a file a split."""
    lists: dict[str, dict[str, dict[str, str]]] = {}  # by folder, kind, split
    beside: dict[str, dict[str, str]] = {}  # by folder, split
    for name in reading.files.of(".txt"):
        if (match := _LISTS.fullmatch(name)) and (split := split_of_list(match[4])):
            if match[2]:
                lists.setdefault(match[1], {}).setdefault(match[3] or kind, {})[split] = name
            else:
                beside.setdefault(match[1], {})[split] = name
    if lists:
        return {
            folder: kinds.get(kind) or next(iter(kinds.values())) for folder, kinds in lists.items()
        }
    composed = reading.files.composed
    return {
        folder: files
        for folder, files in beside.items()
        if "train" in files
        and len(files) > 1
        and any(key.startswith(composed(folder)) for key in known)
    }


def _listed_image(line: str, folder: str, known: Collection[str]) -> str | None:
    """The image that a list's line names: a name (in quotes, perhaps) or path, with 1 or -1 or its
    label map behind it."""
    if line.startswith('"'):
        line = line[1:].partition('"')[0] or line
    for text in (line, line.rsplit(maxsplit=1)[0], line.split()[0]):
        parts = text.replace("\\", "/").split("/")
        for i in range(len(parts)):
            tail = "/".join(parts[i:])
            for one in (tail, stem(tail)):
                if f"{folder}{one}" in known:
                    return f"{folder}{one}"
    return None


def _label_map(reading: Reading) -> tuple[list[str], dict[str, Colour]]:
    """Names and colours of ``labelmap.txt``, which CVAT writes."""
    order, colours = [], {}
    for name in reading.files.of(".txt"):
        if PurePosixPath(name).name.lower() != "labelmap.txt":
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


def _first_pixel(elements: Iterable[Element]) -> tuple[int, str]:
    """Where the boxes' coordinates begin, 0 or 1, and a sentence on why that is taken."""
    lows: Counter[float] = Counter()
    fractions = number = 0
    for box in (box for element in elements for box in element.iterfind("object/bndbox")):
        for side in ("xmin", "ymin", "xmax", "ymax"):
            try:
                value = float(box.findtext(side, ""))
            except ValueError:
                continue  # said when the box is read
            number += 1
            fractions += value % 1 != 0
            if side in ("xmin", "ymin"):
                lows[min(value, 2)] += 1
    zeros = sum(n for value, n in lows.items() if value < 1)
    if zeros > lows[1]:
        return 0, f"coordinates from 0 ({zeros:,} begin at 0, {lows[1]:,} at 1)"
    if fractions > _FRACTIONS * number:
        return 0, "coordinates from 0 (they have fractions)"
    at = f"{lows[1]:,} begin at 1, {zeros:,} at 0" if lows[1] else "none begins at 0 or 1"
    return 1, f"coordinates from 1 (as PASCAL VOC; {at})"


def _add(
    reading: Reading,
    record: ImageRecord,
    one: Element,
    where: str,
    labels: dict[str, int],
    shift: int,
) -> None:
    name = (one.findtext("name") or "").strip()
    if not name:
        reading.problem(where, "it has no name")
        return
    try:
        sides = [float(one.findtext(f"bndbox/{s}", "")) for s in ("xmin", "ymin", "xmax", "ymax")]
        outline = [float(e.text or "") - shift for e in one.findall("polygon/*")]
    except ValueError:
        reading.problem(where, "it has no box of four numbers")
        return
    (x1, x2), (y1, y2) = sorted(sides[::2]), sorted(sides[1::2])
    box = reading.clip_box(record, x1 - shift, y1 - shift, x2, y2, where)
    if box is None:
        return
    instance: Instance | None = Instance(labels[name], box)
    if len(outline) % 2:
        reading.problem(where, "it has a polygon of half a point")
        return
    if outline:
        instance = outlined(reading, record, labels[name], outline, where)
    if instance is None:
        return
    instance.ignored = (one.findtext("difficult") or "0").strip() == "1"
    if instance.ignored:
        reading.count("difficult objects are neither trained on nor scored", where)
    record.instances.append(instance)
