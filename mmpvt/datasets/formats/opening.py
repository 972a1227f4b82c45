"""Opening a data set in any format: it is recognised, read, and its classes and splits checked."""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mmpvt.datasets.download.archives import unpack
from mmpvt.datasets.formats.coco import read_coco
from mmpvt.datasets.formats.cvat import read_cvat
from mmpvt.datasets.formats.files import VIDEOS, Files
from mmpvt.datasets.formats.folders import read_folders
from mmpvt.datasets.formats.labelme import read_labelme
from mmpvt.datasets.formats.masks import Pairs, read_masks
from mmpvt.datasets.formats.opened import OpenedDataset, distinct_colours
from mmpvt.datasets.formats.reading import Content, Reading
from mmpvt.datasets.formats.recognition import ARCHIVES, choose, recognise
from mmpvt.datasets.formats.records import ALL, ImageRecord, Instance, unique_records
from mmpvt.datasets.formats.voc import read_voc
from mmpvt.datasets.formats.yolo import read_yolo
from mmpvt.errors import ConfigError, DatasetError, OutputError
from mmpvt.utils.atomic import atomic_write
from mmpvt.utils.constants import FORMATS
from mmpvt.utils.text import counted, few

TASKS = ("detection", "instance", "semantic", "classification")
UNPACKED = ".mmpvt-unpacked"  # in an archive's folder: which archive it was

log = logging.getLogger("mmpvt")


def open_dataset(
    path: str | Path,
    *,
    format: str | None = None,
    classes: Sequence[str] | None = None,
    unpack_to: str | Path | None = None,
    task: str | None = None,
    keep_empty: bool = False,
    on_bad_data: str = "auto",
) -> OpenedDataset:
    """Opens a data set in whatever format it is.

    Args:
        path (str | Path): a folder, a zip archive, a ``data.yaml``, a ``.json`` or an ``.xml``.
        format (str | None): one of :data:`FORMATS`. Default: None, recognised by what is there.
        classes (Sequence[str] | None): names: of label maps, in the order of their values; of
            other formats, those to take, in this order. Default: None, all that are there.
        unpack_to (str | Path | None): the new folder that an archive is unpacked to.
        task (str | None): ``'detection'``, ``'instance'``, ``'semantic'`` or ``'classification'``:
            chooses between formats where several fit, and refuses data that lacks what it needs.
            Only the last takes a folder a class for annotations, unless ``format`` does. Default:
            None.
        keep_empty (bool): take images without annotations as images without objects.
        on_bad_data (str): ``'skip'`` goes on without annotations and images that can't be used,
            and notes how many; ``'auto'`` and ``'stop'`` raise. Default: ``'auto'``.

    Raises:
        DatasetError: it can't be used as asked.
        ConfigError: an argument is none of its values.
    """
    for name, value, known in (("format", format, FORMATS), ("task", task, TASKS)):
        if value is not None and value not in known:
            raise ConfigError(f"{value!r} is none of {', '.join(known)}", setting=name)
    if isinstance(classes, str):
        raise ConfigError(f"classes are a list of names, not {classes!r}", setting="classes")
    path = Path(path)
    if not path.exists():
        raise DatasetError(f"there is no {path}", where=path)
    given, within = path, False
    if path.suffix.lower() == ".zip":
        path, within = _unpacked(path, unpack_to), True
    first = {"voc0": 0, "voc1": 1}.get(format or "")
    if first is not None:
        format = "voc"
    named = None if path.is_dir() else path
    root = path if named is None else _root_of(path)
    files = Files(root)
    taken = tuple(classes) if classes is not None else None
    if taken is not None and (not taken or len(set(taken)) < len(taken)):
        raise ConfigError(f"classes are names, each once, not {list(taken)}", setting="classes")
    reading = Reading(files, given, taken, keep_empty, on_bad_data == "skip", within)
    try:
        recognised = (
            {"folders": None}
            if (format or task) in ("folders", "classification")
            else recognise(files, named, format)
        )
        kind, found = choose(recognised, format, task, given, files)
        content = _read(kind, reading, found, first)
        _check_once(reading, content)
        reading.finish()
    except (RecursionError, msgspec.MsgspecError) as error:
        raise DatasetError(f"{given} can't be read: {error}", where=given) from error
    opened = _opened(reading, kind, content)
    _check_task(opened, task, files)
    log.info(opened.describe())
    for note in opened.notes:
        log.warning("%s: %s", given, note)
    return opened


def _unpacked(path: Path, folder: str | Path | None) -> Path:
    """The folder that an archive is in, unpacked now or before."""
    if folder is None:
        raise DatasetError(f"{path} is an archive", where=path, instead=("unpack_to", None))
    folder = Path(folder)
    status = path.stat()
    mark = json.dumps([path.name, status.st_size, status.st_mtime_ns]).encode()
    if (folder / UNPACKED).is_file() and (folder / UNPACKED).read_bytes() == mark:
        return folder
    if folder.exists():
        raise DatasetError(f"{folder} exists and isn't {path}'s", hint="name a new folder",
                           setting="unpack_to")  # fmt: skip
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unpack(path, folder)
        atomic_write(folder / UNPACKED, mark)  # last: a folder without it isn't complete
    except OSError as error:
        raise OutputError(
            f"{path} can't be unpacked to {folder}: {error.strerror}", where=folder
        ) from error
    return folder


def _root_of(path: Path) -> Path:
    suffix = path.suffix.lower()
    if suffix in VIDEOS:
        raise DatasetError(f"{path} is a video", hint="give a folder of annotated frames",
                           where=path)  # fmt: skip
    if suffix not in (".yaml", ".yml", ".json", ".xml"):
        raise DatasetError(
            f"{path} is no folder, .zip, data.yaml, .json or .xml", where=path,
            hint="unpack other archives yourself" if suffix in ARCHIVES else None,
        )  # fmt: skip
    is_in = path.parent.name.lower() == "annotations"
    return path.parent.parent if is_in else path.parent


def _read(kind: str, reading: Reading, found: object, first: int | None) -> Content:
    if kind == "yolo":
        assert found is None or isinstance(found, Path)
        return read_yolo(reading, found)
    if kind == "masks":
        assert isinstance(found, Pairs)
        return read_masks(reading, found)
    if kind == "folders":
        return read_folders(reading)
    assert isinstance(found, list)
    if kind == "voc":
        return read_voc(reading, found, first)
    readers = dict(coco=read_coco, labelme=read_labelme, cvat=read_cvat)
    return readers[kind](reading, found)


def _check_once(reading: Reading, content: Content) -> None:
    """Leaves one of a split's annotations of one image: which of them holds isn't known."""
    for split, records in content.splits.items():
        by_path = {record.path: record for record in reversed(records)}
        if len(by_path) == len(records):
            continue
        for path, number in Counter(record.path for record in records).items():
            if number > 1:
                where = "" if split == ALL else f" for {split}"
                reading.problem(reading.name_of(path), f"it is annotated {number} times{where}")
        content.splits[split] = list(by_path.values())


def _opened(reading: Reading, kind: str, content: Content) -> OpenedDataset:
    order = {name: place for place, name in enumerate(("train", "val", "test", ALL))}
    splits = {
        split: sorted(records, key=lambda record: record.path.as_posix())
        for split, records in sorted(content.splits.items(), key=lambda one: order[one[0]])
        if records
    }
    if not splits:
        raise DatasetError(f"no image in {reading.source} can be used", where=reading.source)
    if ALL in splits and len(splits) > 1:
        left = splits.pop(ALL)
        unused = counted(len(left), "image is", "images are")
        reading.notes.append(f"{unused} of no split and unused")
    twice = [name for name, number in Counter(content.classes).items() if number > 1 or not name]
    if twice:
        raise DatasetError(
            f"{reading.source} has two classes of the name {twice[0]!r}" if twice[0]
            else f"a class of {reading.source} has no name",
            where=reading.source,
        )  # fmt: skip
    classes = _take_classes(reading, kind, content, splits)
    if not classes:
        raise DatasetError(f"no object in {reading.source} has a class", where=reading.source)
    _note_alike(reading, classes)
    _drop_copies(reading, splits)
    colours = distinct_colours(len(classes))
    opened = OpenedDataset(
        reading.source,
        kind,
        classes,
        [content.colours.get(name, own) for name, own in zip(classes, colours, strict=True)],
        kind == "masks",
        splits,
        reading.notes,
        content.label_values,
        content.remark,
    )
    opened.fill_outlines()
    opened.note_copies()
    opened.note_classes()
    return opened


def _note_alike(reading: Reading, classes: Sequence[str]) -> None:
    """Notes classes whose names may be one, typed in several ways."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        by_name["".join(name.split()).casefold()].append(repr(name))
    for same in by_name.values():
        if len(same) > 1:
            names = " and ".join(same)
            reading.notes.append(f"{names} are classes of their own: they differ in case or spaces")


def _drop_copies(reading: Reading, splits: dict[str, list[ImageRecord]]) -> None:
    """Leaves one of the objects of an image that are equal."""
    gone, first = 0, None
    for record in unique_records(splits):
        places = {(one.label, one.box) for one in record.instances}
        if len(places) < len(record.instances):
            kept: list[Instance] = []
            for one in record.instances:
                if one not in kept:
                    kept.append(one)
            if len(kept) < len(record.instances):
                gone += len(record.instances) - len(kept)
                first = first or reading.name_of(record.path)
            record.instances = kept
    if gone:
        twice = counted(gone, "object is", "objects are")
        reading.notes.append(f"{twice} annotated twice; one is taken (first: {first})")


def _take_classes(
    reading: Reading, kind: str, content: Content, splits: dict[str, list[ImageRecord]]
) -> tuple[str, ...]:
    """The classes, those that the user named in their order; objects of others go."""
    wanted = reading.classes
    if wanted is None or list(wanted) == content.classes:
        return tuple(content.classes)
    if kind == "masks":
        if len(wanted) != len(content.classes):
            raise DatasetError(
                f"{len(wanted)} names are given, and the label maps have {len(content.classes)} "
                f"classes ({few(content.classes)})",
                setting="classes",
            )
        _rename(content, wanted, splits)
        return wanted
    missing = [name for name in wanted if name not in content.classes]
    if missing:
        raise DatasetError(
            f"{few(missing)} is no class of {reading.source}, which has {few(content.classes, 8)}",
            setting="classes",
        )
    labels = {content.classes.index(name): label for label, name in enumerate(wanted)}
    gone = 0
    for record in unique_records(splits):
        before = len(record.instances)
        record.instances = [one for one in record.instances if one.label in labels]
        gone += before - len(record.instances)
        for one in record.instances:
            one.label = labels[one.label]
    if gone:
        reading.notes.append(f"skipped: {counted(gone, 'object')} of other classes")
    return wanted


def _rename(content: Content, wanted: Sequence[str], splits: dict[str, list[ImageRecord]]) -> None:
    """Gives label maps' classes the user's names: to one that has such a name, wherever it is in
    their table, and to others by their place."""
    known = content.classes
    places = [known.index(name) if name in known else i for i, name in enumerate(wanted)]
    if len(set(places)) < len(places):
        raise DatasetError(
            f"{few(wanted, 8)}: some of these names are those of classes at other places of the "
            f"label maps' {few(known, 8)}, so that it isn't clear which the others are",
            setting="classes",
            hint="name them in the table's order",
        )
    colours = [content.colours.get(known[place]) for place in places]
    content.colours = {n: c for n, c in zip(wanted, colours, strict=True) if c}
    if places == sorted(places):
        return
    stored = content.label_values or range(len(known))
    content.label_values = tuple(stored[place] for place in places)
    for record in unique_records(splits):
        record.labels = tuple(sorted(places.index(label) for label in record.labels))


def _check_task(opened: OpenedDataset, task: str | None, files: Files) -> None:
    lacks = {
        "semantic": not opened.is_semantic and not opened.has_masks,
        "instance": not opened.has_masks,
        "detection": opened.is_semantic or opened.format == "folders",
        "classification": opened.format != "folders",
    }
    if task is not None and lacks[task]:
        takes = dict(
            semantic="a semantic segmenter takes label maps or outlines",
            instance="instance segmentation takes outlines",
            detection="a detector takes boxes",
            classification="a classifier takes a folder a class",
        )
        holds = "label maps" if opened.is_semantic else "boxes only"
        if opened.format == "folders":
            holds = "images in a folder a class"
        unread = None
        if task == "instance" and any("SegmentationObject/" in name for name in files.images):
            unread = "give the objects' masks in COCO's format, as SegmentationObject/ isn't read"
        raise DatasetError(
            f"{opened.path} holds {holds}, and {takes[task]}",
            where=opened.path,
            hint=unread,
        )
