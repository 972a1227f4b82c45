"""YOLO: a text file an image, with a line an object; ``data.yaml`` or ``classes.txt`` beside."""

from __future__ import annotations

import os
import re
import reprlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import yaml

from mmpvt.datasets.formats.files import Files, split_of_list, split_of_path
from mmpvt.datasets.formats.reading import TOLERANCE, Content, Reading, outline_box
from mmpvt.datasets.formats.records import ImageRecord, Instance
from mmpvt.errors import DatasetError
from mmpvt.utils.constants import IMAGE_SUFFIXES
from mmpvt.utils.files import check_regular, leaves_folder
from mmpvt.utils.progress import with_progress
from mmpvt.utils.text import counted, few

CLASS_FILES = ("classes.txt", "obj.names", "_darknet.labels", "labels.txt")
_KEYS = dict(train="train", val="val", valid="val", validation="val", test="test")
_LABEL_FOLDERS = ("labels", "Labels", "LABELS")
_IMAGE_FOLDER = re.compile(r"(.*[/\\])images([/\\].*)", re.IGNORECASE | re.DOTALL)
DIGITS = 3  # of a pixel: six decimals of a relative coordinate are hardly finer


def parse_yaml(text: str) -> dict | None:
    """A ``data.yaml``; None of other content.

    Every value is text, so that a class named ``no`` or ``1`` keeps its name; nothing else can be
    made by such a file.

    Raises:
        ValueError: it is no YAML.
    """
    try:
        content = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}{error.problem}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(type(error).__name__) from error
    is_data = isinstance(content, dict) and (
        "names" in content or ("train" in content and "nc" in content)
    )
    return content if is_data else None


def read_yolo(reading: Reading, config: Path | None) -> Content:
    """Reads images and labels.

    Args:
        reading (Reading): the data set.
        config (Path | None): its ``data.yaml``, or None where it has none.

    Raises:
        DatasetError: classes have no names; a folder or list that ``data.yaml`` names is missing.
    """
    keypoints = by_list = False
    if config is not None:
        content = parse_yaml(reading.read_text(config))
        if content is None:
            raise DatasetError(f"{config} is no data.yaml: it has no names", where=config)
        classes = _names(content, config, reading.classes)
        images = _from_yaml(reading, content, config)
        if isinstance(content.get("kpt_shape"), list):
            keypoints = True
            reading.notes.append("keypoints are skipped")
    else:
        classes = _class_file(reading)
        images = _from_lists(reading)
        by_list = bool(images)
        for name in () if by_list else reading.files.images:
            images[split_of_path(name)].append(reading.root / name)
    _check_stems(reading, images)
    composed = reading.files.composed
    texts = {composed(str(p)): p for p in (reading.root / n for n in reading.files.of(".txt"))}
    splits: dict[str, list[ImageRecord]] = {}
    owners: dict[Path, Path] = {}
    for split, paths in images.items():
        labels = [(path, _label_file(reading, path, texts)) for path in paths]
        _check_owners(labels, owners)
        missing = [str(path) for path, label in labels if label is None]
        if len(missing) == len(paths) and len(images) > 1 and not reading.keep_empty:
            bare = counted(len(paths), "image without labels is", "images without labels are")
            reading.notes.append(f"{split}: {bare} unused")
            continue
        take = reading.lacking(missing, len(paths))
        splits[split] = []
        for path, label in with_progress(labels, f"reading {split}"):
            if label is None and not take:
                continue
            record = reading.record(path)
            if record is None:
                continue
            if label is not None:
                _read_labels(reading, record, label, classes, keypoints)
            splits[split].append(record)
    root = reading.root
    used = {Path(os.path.relpath(p, root)).as_posix() for paths in images.values() for p in paths}
    reading.note_unused(used, "in no list" if by_list else "of no split of data.yaml")
    _check_images(reading)
    return Content(classes, splits)


def _names(content: dict, config: Path, given: Sequence[str] | None) -> list[str]:
    names = content.get("names")
    if names is None:
        if not given:
            raise DatasetError(
                f"{config} has no names of classes", where=config, instead=("classes", None)
            )
        names = list(given)
    if isinstance(names, dict):
        try:
            by_index = {int(index): name for index, name in names.items()}
        except (ValueError, TypeError):
            by_index = {}
        if sorted(by_index) != list(range(len(names))):
            raise DatasetError(
                f"{config}: names don't count from 0: {reprlib.repr(list(names))}", where=config
            )
        names = [by_index[index] for index in range(len(by_index))]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise DatasetError(f"{config}: names is neither a list nor a dict of names", where=config)
    count = content.get("nc")
    if count is not None and str(count) != str(len(names)):
        raise DatasetError(
            f"{config}: nc is {reprlib.repr(count)}, and there are {len(names)} names", where=config
        )
    return names


def _class_file(reading: Reading) -> list[str]:
    """Names of a file of classes, a line each, or those that the user gave."""
    found = list(filter(is_class_file, reading.files.of(".txt", ".names", ".labels")))
    # beside classes.txt, Labels.txt may be those of Labels.jpg
    found = [name for name in found if PurePosixPath(name).name in CLASS_FILES] or found
    lists = {tuple(reading.read_names(reading.root / name)) for name in found}
    if len(lists) > 1:
        raise DatasetError(f"{few(found)} name different classes", hint="keep one of them")
    if lists:
        return list(lists.pop())
    if reading.classes:
        return list(reading.classes)
    raise DatasetError(
        f"nothing names the classes of the YOLO labels in {reading.source}: there is no data.yaml "
        "and no classes.txt",
        instead=("classes", None),
    )


def _from_yaml(reading: Reading, content: dict, config: Path) -> dict[str, list[Path]]:
    """The images of each split that ``data.yaml`` names."""
    here = config.parent
    base = content.get("path")
    bases = [here / base, here.parent / base, here] if isinstance(base, str) and base else [here]
    images: dict[str, list[Path]] = {}
    for key, split in _KEYS.items():
        entries = content.get(key)
        if not entries:
            continue
        entries = entries if isinstance(entries, list) else [entries]
        found: list[Path] = []
        for entry in map(str, entries):
            place = _find(entry, bases, here)
            if place is None:
                if split != "train":
                    reading.notes.append(f"{config.name} names {entry} for {key}: it isn't there")
                    continue
                raise DatasetError(f"{config}: {key} is {entry}, which isn't there", where=config)
            _check_within(reading, place)
            if place.is_dir():
                found.extend(place / name for name in Files(place).images)
            else:
                found.extend(_image_list(reading, place, bases))
        if found:
            images[split] = list(dict.fromkeys(found))
    if not images:
        raise DatasetError(f"{config} names no images: train is missing or empty", where=config)
    return images


def _from_lists(reading: Reading) -> dict[str, list[Path]]:
    """The images of Darknet's lists, ``train.txt`` and ``val.txt`` or ``test.txt``; none where one
    of both is missing."""
    lists: dict[str, list[Path]] = defaultdict(list)
    for name in reading.files.of(".txt"):
        split, file = split_of_list(PurePosixPath(name).stem), reading.root / name
        if split and split in _KEYS.values() and _names_images(reading.read_text(file)):
            lists[split].append(file)
    images: dict[str, list[Path]] = defaultdict(list)
    if "train" in lists and len(lists) > 1:
        for split, files in lists.items():
            found = [path for file in files for path in _image_list(reading, file, [reading.root])]
            images[split] = list(dict.fromkeys(found))
    return images


def _names_images(text: str) -> bool:
    lines = filter(None, map(str.strip, text.splitlines()))
    return PurePosixPath(next(lines, "")).suffix.lower() in IMAGE_SUFFIXES


def _find(entry: str, bases: list[Path], here: Path) -> Path | None:
    """A file or folder that ``data.yaml`` names; Roboflow's leads one folder too far up, and
    absolute ones are often of another machine."""
    entry = entry.replace("\\", "/")
    parts = [part for part in PurePosixPath(entry).parts if part not in ("/", ".", "..")]
    tails = [here.joinpath(*parts[i:]) for i in range(len(parts))]
    places = [*(base / entry for base in bases), *tails]
    return next((Path(os.path.normpath(p)) for p in places if p.exists()), None)


def _check_within(reading: Reading, place: Path) -> None:
    root, at = (os.path.join(os.path.abspath(p), "") for p in (reading.root, place))  # noqa: PTH100, PTH118
    inside = at.startswith(root)
    if not inside and reading.within:
        raise DatasetError(f"{reading.source} names {place}, outside of it", where=place)
    if not inside:
        reading.notes.append(f"{place} lies outside of {reading.root}")


def _image_list(reading: Reading, file: Path, bases: list[Path]) -> list[Path]:
    if file.suffix != ".txt":
        raise DatasetError(f"{file} is neither a folder nor a list (.txt) of images", where=file)
    found, missing = [], []
    for line in filter(None, map(str.strip, reading.read_text(file).splitlines())):
        if reading.within and leaves_folder(line):
            raise DatasetError(f"{file} names {line!r}, outside of the folder", where=file)
        path = _find(line, [file.parent, *bases], file.parent)
        if path is None or path.suffix.lower() not in IMAGE_SUFFIXES:
            missing.append(line)
        else:
            found.append(path)
    if missing:
        reading.problem(str(file), f"{len(missing):,} of its images are missing ({few(missing)})")
    return found


def _check_stems(reading: Reading, images: dict[str, list[Path]]) -> None:
    """Refuses two images that one label file would be of."""
    seen: dict[str, Path] = {}
    for path in (path for paths in images.values() for path in paths):
        key = reading.files.composed(os.path.splitext(path)[0])  # noqa: PTH122
        if seen.setdefault(key, path) != path:
            raise DatasetError(f"{seen[key]} and {path} would share one label file", where=path)


def _check_owners(labels: list[tuple[Path, Path | None]], owners: dict[Path, Path]) -> None:
    """Refuses two images, of two folders beside the labels', that have one label file."""
    for path, label in labels:
        if label is not None and owners.setdefault(label, path) != path:
            raise DatasetError(
                f"{owners[label]} and {path} share the label file {label}", where=path
            )


def _label_file(reading: Reading, image: Path, texts: Mapping[str, Path]) -> Path | None:
    """An image's labels: in ``labels/`` for ``images/``, beside it, or in ``labels/`` beside its
    folder."""
    text = os.path.splitext(image)[0]  # noqa: PTH122
    places = [text, *(str(image.parent.parent / name / image.stem) for name in _LABEL_FOLDERS)]
    if match := _IMAGE_FOLDER.fullmatch(text):
        places = [*(f"{match[1]}{name}{match[2]}" for name in _LABEL_FOLDERS), *places]
    files = [place + end for place in places for end in (".txt", ".TXT")]
    if found := next((file for file in files if os.path.exists(file)), None):  # noqa: PTH110
        return Path(found)
    names = map(reading.files.composed, files)
    return next((texts[name] for name in names if name in texts), None)


def _check_images(reading: Reading) -> None:
    """Label files of no image, in folders of labels."""
    composed = reading.files.composed
    known = {composed(PurePosixPath(name).stem) for name in reading.files.images}
    for name in reading.files.of(".txt"):
        path = PurePosixPath(name)
        folders = [part.lower() for part in path.parts[:-1]]
        is_known = composed(path.stem) in known
        if "labels" in folders and not is_known and not is_class_file(name):
            reading.problem(name, "there is no image of its name")


def _read_labels(
    reading: Reading, record: ImageRecord, file: Path, classes: list[str], keypoints: bool
) -> None:
    name = reading.name_of(file)
    try:
        text = reading.read_text(file)
    except DatasetError as error:
        reading.problem(name, error.what)
        return
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where = f"{name}, line {number}"
        try:
            values = [float(word) for word in words]
        except ValueError:
            reading.problem(where, f"it isn't of numbers: {reprlib.repr(line)}")
            continue
        label, *places = values
        if keypoints:
            places = places[:4]
        if problem := _line_problem(label, places, len(classes)):
            reading.problem(where, problem)
        else:
            _add(reading, record, int(label), places, where)


def _line_problem(label: float, places: list[float], num_classes: int) -> str | None:
    """Why a line of a label file can't be used."""
    if not (label.is_integer() and label >= 0):
        return f"the class is {label:g}, which is no index"
    if label >= num_classes:
        return f"the class is {int(label)}, and the names end at {num_classes - 1}"
    count = len(places)
    if count != 4 and (count % 2 or count < 6):
        if count == 2:
            return "it holds a polygon of less than three points"
        if count == 5:
            return "it holds 6 numbers: a box and a score, as predictions have, or half a point"
        return f"it holds {count + 1} numbers, neither a box (5) nor a polygon (7, 9, …)"
    if not all(-TOLERANCE <= value <= 1 + TOLERANCE for value in places):
        worst = max(places, key=lambda value: abs(value - 0.5))
        return f"a coordinate is {worst:g}, and they go from 0 to 1"
    return None


def _add(
    reading: Reading, record: ImageRecord, label: int, places: list[float], where: str
) -> None:
    width, height = record.width, record.height
    if any(not 0 <= value <= 1 for value in places):
        reading.count("objects have coordinates a little beyond their images, clipped", where)
        places = [min(max(value, 0.0), 1.0) for value in places]
    if len(places) > 4:
        sides = [width, height] * (len(places) // 2)
        polygon = [round(v * side, DIGITS) for v, side in zip(places, sides, strict=True)]
        box = reading.clip_box(record, *outline_box([polygon]), where)
        if box is not None:
            record.instances.append(Instance(label, _rounded(box), [polygon]))
        return
    x, y, w, h = (v * side for v, side in zip(places, [width, height] * 2, strict=True))
    box = reading.clip_box(record, x - w / 2, y - h / 2, x + w / 2, y + h / 2, where)
    if box is not None:
        record.instances.append(Instance(label, _rounded(box)))


def _rounded(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x, y, width, height = (round(value, DIGITS) for value in box)
    return x, y, width, height


def is_class_file(name: str) -> bool:
    """Whether a file of this name lists the classes, in whatever case."""
    return PurePosixPath(name).name.lower() in CLASS_FILES


def holds_labels(file: Path) -> bool:
    """Whether a text file looks like an image's labels; an empty one may be."""
    try:
        check_regular(file)
        with file.open(encoding="utf-8-sig", errors="strict") as lines:
            words = lines.readline(2**16).split()
        return not words or (len(words) >= 5 and all(float(w) > -1e9 for w in words))
    except (OSError, ValueError, DatasetError):
        return False
