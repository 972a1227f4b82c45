"""Writing a data set in other formats."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree import ElementTree

import yaml
from PIL import Image
from pycocotools import mask as rle

from mmpvt.datasets.formats.files import stem
from mmpvt.datasets.formats.instances import area, as_loaded, decoded
from mmpvt.datasets.formats.painting import check_paintable, label_map_png, map_classes
from mmpvt.datasets.formats.reading import clip_outline
from mmpvt.datasets.formats.records import ALL, ImageRecord, Instance, unique_records
from mmpvt.datasets.shapes import mask_to_polygons
from mmpvt.errors import ConfigError, DatasetError, OutputError
from mmpvt.utils.atomic import PART
from mmpvt.utils.constants import WRITTEN_FORMATS
from mmpvt.utils.outputs import Outputs
from mmpvt.utils.progress import with_progress
from mmpvt.utils.text import encodable, to_json

if TYPE_CHECKING:
    from mmpvt.datasets.formats.opened import OpenedDataset

log = logging.getLogger("mmpvt")


class LabelMaps(NamedTuple):
    """Images and label maps as the arguments of MMSegmentation's ``BaseSegDataset``."""

    lists: dict[str, Path]  # ann_file, by split
    img_path: Path  # of data_prefix
    seg_map_path: Path  # of data_prefix
    img_suffix: str
    seg_map_suffix: str
    classes: tuple[str, ...]
    palette: list[tuple[int, int, int]]


def write_coco(
    opened: OpenedDataset, folder: Path, undo: ExitStack | None = None
) -> dict[str, Path]:
    """:meth:`OpenedDataset.write_coco`."""
    out = Outputs(folder, undo=undo)
    names = [f"{split}.json" for split in opened.splits]
    out.check(*names)
    written, first = {}, 1
    for split, records in opened.splits.items():
        content = _coco(opened, records, [opened.name_of(record) for record in records], first)
        written[split] = out.write(f"{split}.json", content)
        first += len(records)
    return written


def _coco(
    opened: OpenedDataset, records: list[ImageRecord], names: list[str], first: int = 1
) -> bytes:
    """A COCO JSON whose images are numbered from ``first``: no two splits share an id."""
    if opened.is_semantic:
        raise DatasetError(f"{opened.path} holds label maps, which have no objects")
    _check_utf8(names)
    colours = map(list, opened.palette)
    categories = [
        dict(id=label, name=name, color=colour)
        for label, (name, colour) in enumerate(zip(opened.classes, colours, strict=True), 1)
    ]
    images: list[dict] = []
    annotations: list[dict] = []
    for i, (record, name) in enumerate(zip(records, names, strict=True), first):
        images.append(dict(id=i, file_name=name, width=record.width, height=record.height))
        for one in record.instances:
            annotation = dict(
                id=len(annotations) + 1,
                image_id=i,
                category_id=one.label + 1,
                bbox=list(one.box),
                area=area(one),
                iscrowd=int(one.ignored),
            )
            if one.polygons or one.rle:
                annotation["segmentation"] = one.rle or one.polygons
            annotations.append(annotation)
    content = dict(images=images, annotations=annotations, categories=categories)
    return to_json(content, separators=(",", ":"))


def write_labels(
    opened: OpenedDataset, folder: Path, undo: ExitStack | None = None
) -> dict[str, Path]:
    """:meth:`OpenedDataset.write_labels`."""
    _check_utf8(opened.name_of(r) for records in opened.splits.values() for r in records)
    out = Outputs(folder, undo=undo)
    out.check(*(f"{split}.txt" for split in opened.splits))
    return {
        split: out.write(
            f"{split}.txt",
            os.fsencode("".join(f"{opened.name_of(r)} {r.labels[0]}\n" for r in records)),
        )
        for split, records in opened.splits.items()
    }


def write_label_maps(
    opened: OpenedDataset, folder: Path, undo: ExitStack | None = None
) -> LabelMaps:
    """:meth:`OpenedDataset.write_label_maps`."""
    check_paintable(opened)
    out = Outputs(folder, undo=undo)
    out.check(*(f"{split}.txt" for split in opened.splits), "label_maps")
    own = _own_maps(opened)
    lists, everything = {}, [r for records in opened.splits.values() for r in records]
    suffix = "" if own is None else own[1]
    lines = {
        split: [opened.name_of(record).removesuffix(suffix) for record in records]
        for split, records in opened.splits.items()
    }
    _check_utf8(itertools.chain.from_iterable(lines.values()))
    _check_lines(itertools.chain.from_iterable(lines.values()))
    if own is None:
        for record in with_progress(everything, "writing label maps"):
            out.write(f"label_maps/{opened.name_of(record)}.png", label_map_png(opened, record))
    for split, names in lines.items():
        text = "".join(f"{name}\n" for name in names)
        lists[split] = out.write(f"{split}.txt", os.fsencode(text))
    root, map_suffix = (folder / "label_maps", ".png") if own is None else (own[0], own[2])
    return LabelMaps(lists, opened.image_root, root, suffix, map_suffix, *map_classes(opened))


def _check_lines(names: Iterable[str]) -> None:
    """Refuses names that a list of images, a line each, can't hold."""
    for name in names:
        if name != name.strip() or len(name.splitlines()) > 1:
            raise DatasetError(
                f"the name of the image {name!r} begins or ends with a space or has line breaks, "
                "which lists of images can't hold",
                hint="rename it",
            )


def _check_utf8(names: Iterable[str]) -> None:
    """Refuses names that JSON, XML and lists can't hold, of bytes that the encoding lacks."""
    encoding = sys.getfilesystemencoding()
    for name in names:
        if encodable(name) != name:
            raise DatasetError(
                f"the name of the image {encodable(name)} isn't in {encoding}, and JSON, XML "
                "and lists can't hold it",
                hint="rename it" if encoding == "utf-8" else "set PYTHONUTF8=1",
            )


def _own_maps(opened: OpenedDataset) -> tuple[Path, str, str] | None:
    """The folder of the user's label maps, the suffix of images' and maps' names, where
    MMSegmentation can read them as they are."""
    if not opened.is_semantic or opened.label_values is not None:
        return None
    records = [record for same in opened.splits.values() for record in same]
    maps = [Path(os.path.abspath(r.label_map)) if r.label_map else None for r in records]  # noqa: PTH100
    root = Path(os.path.commonpath({m.parent for m in maps if m}))
    first_image, first_map = opened.name_of(records[0]), os.path.relpath(maps[0] or "", root)
    suffix = first_image[len(stem(first_image)) :]
    map_suffix = first_map.replace(os.sep, "/").removeprefix(stem(first_image))
    for record, label_map in zip(records, maps, strict=True):
        name = opened.name_of(record)
        fits = name.removesuffix(suffix) + map_suffix
        if label_map is None or label_map != root / fits or not name.endswith(suffix):
            return None
        with Image.open(label_map) as image:
            if image.mode not in ("L", "P"):
                return None
    return root, suffix, map_suffix


def write(opened: OpenedDataset, folder: Path, to: str) -> Path:
    """:meth:`OpenedDataset.write`."""
    if to not in WRITTEN_FORMATS:
        raise ConfigError(f"{to!r} is none of {', '.join(WRITTEN_FORMATS)}", setting="to")
    if opened.is_semantic and to != "masks":
        raise DatasetError(f"{opened.path} holds label maps, which have no objects", setting="to")
    if to == "masks":
        check_paintable(opened)
    # an empty folder stays: it may be a link, a mount point, or the one that the user is in
    is_there = folder.is_dir()
    part = folder / PART if is_there else folder.with_name(f".{folder.name}{PART}")
    if folder.exists() and (not is_there or {*folder.iterdir()} - {part}):
        raise OutputError(f"{folder} exists", where=folder, hint="name a new folder")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        writers = dict(coco=_write_coco, voc=_write_voc, yolo=_write_yolo, masks=_write_masks)
        writers[to](opened, part, _output_names(opened))
        if is_there:
            for written in list(part.iterdir()):
                written.rename(folder / written.name)
        else:
            part.rename(folder)
        for loss in _losses(opened, to):
            log.warning("%s: %s", folder, loss)
    except OSError as error:
        raise OutputError(f"{folder} can't be written ({error.strerror})", where=folder) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _losses(opened: OpenedDataset, to: str) -> list[str]:
    """What a format can't hold of the data, a sentence each."""
    instances = [one for same in opened.splits.values() for r in same for one in r.instances]
    crowds = sum(one.ignored for one in instances)
    losses = []
    if to == "voc" and opened.has_masks:
        losses.append("VOC's files hold boxes, not outlines, which aren't written")
    if to == "voc" and any(value != round(value) for one in instances for value in one.box):
        losses.append("VOC's boxes are of whole pixels: they are rounded")
    if to == "yolo" and crowds:
        losses.append(f"YOLO has no ignored objects: {crowds:,} aren't written")
    return losses


Names = dict[str, list[tuple[ImageRecord, str]]]


def _output_names(opened: OpenedDataset) -> Names:
    """A file name for each image, by split, of which no two have one stem."""
    ends = Counter(record.path.stem.casefold() for record in unique_records(opened.splits))
    taken: dict[str, int] = {}
    made: Names = {}
    for split, same in opened.splits.items():
        made[split] = []
        for record in same:
            name = record.path.name
            if ends[record.path.stem.casefold()] > 1:
                name = opened.name_of(record).replace("/", "__")
            first, number = stem(name), 1
            while taken.setdefault(stem(name).casefold(), id(record)) != id(record):
                number += 1
                name = f"{first}_{number}{record.path.suffix}"
            made[split].append((record, name))
    return made


def _copy(pairs: list[tuple[ImageRecord, str]], folder: Path, what: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for record, name in with_progress(pairs, f"copying {what}"):
        shutil.copyfile(record.path, folder / name)


def _write_coco(opened: OpenedDataset, folder: Path, names: Names) -> None:
    (folder / "annotations").mkdir()
    first = 1
    for split, pairs in names.items():
        paths = [f"{split}/{name}" for _, name in pairs]
        content = _coco(opened, [record for record, _ in pairs], paths, first)
        (folder / "annotations" / f"instances_{split}.json").write_bytes(content)
        _copy(pairs, folder / split, split)
        first += len(pairs)


def _write_masks(opened: OpenedDataset, folder: Path, names: Names) -> None:
    for split, pairs in names.items():
        _copy(pairs, folder / "images" / split, split)
        masks = folder / "masks" / split
        masks.mkdir(parents=True)
        for record, name in pairs:
            (masks / f"{stem(name)}.png").write_bytes(label_map_png(opened, record))
    (folder / "classes.txt").write_text(
        "".join(f"{name}\n" for name in map_classes(opened)[0]), encoding="utf-8"
    )


def _write_yolo(opened: OpenedDataset, folder: Path, names: Names) -> None:
    content: dict[str, Any] = {}  # no path: Ultralytics takes a relative one from elsewhere
    for split, pairs in names.items():
        _copy(pairs, folder / "images" / split, split)
        labels = folder / "labels" / split
        labels.mkdir(parents=True)
        for stored, name in pairs:
            record = as_loaded(stored)
            lines = [_yolo_line(record, one) for one in record.instances if not one.ignored]
            (labels / f"{stem(name)}.txt").write_text("".join(lines))
        content["train" if split == ALL else split] = f"images/{split}"
    content["names"] = list(opened.classes)
    (folder / "data.yaml").write_text(
        yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )


def _yolo_line(record: ImageRecord, one: Instance) -> str:
    sides = (record.width, record.height)
    polygons = [part for p in one.polygons or () if (part := clip_outline(p, *sides))]
    if one.rle is not None or _overlap(polygons, *sides):
        polygons = mask_to_polygons(decoded(one, record.height, record.width))
    if polygons:
        # one outline an object: the parts, each closed, with seams of no width between them
        outline = list(polygons[0])
        for part in polygons[1:]:
            outline += [*polygons[0][:2], *part, *part[:2], *polygons[0][:2]]
    else:
        x1, y1, x2, y2 = _clipped(record, one)
        outline = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    values = [v / side for v, side in zip(outline, sides * (len(outline) // 2), strict=True)]
    return f"{one.label} {' '.join(f'{min(max(v, 0), 1):.9g}' for v in values)}\n"


def _overlap(polygons: list[list[float]], width: int, height: int) -> bool:
    """Whether parts cover the same pixels, which in one outline would be a hole."""
    if len(polygons) < 2:
        return False
    parts = rle.frPyObjects(polygons, height, width)
    return sum(int(rle.area(part)) for part in parts) > rle.area(rle.merge(parts))


def _clipped(record: ImageRecord, one: Instance) -> tuple[float, float, float, float]:
    """The corners of an object's box within its image, which COCO's may reach out of."""
    x, y, width, height = one.box
    return max(x, 0), max(y, 0), min(x + width, record.width), min(y + height, record.height)


def _write_voc(opened: OpenedDataset, folder: Path, names: Names) -> None:
    (folder / "Annotations").mkdir()
    sets = folder / "ImageSets" / "Main"
    sets.mkdir(parents=True)
    stems = [stem(name) for pairs in names.values() for _, name in pairs]
    _check_utf8(stems)
    _check_lines(stems)
    for split, pairs in names.items():
        _copy(pairs, folder / "JPEGImages", split)
        for record, name in pairs:
            (folder / "Annotations" / f"{stem(name)}.xml").write_bytes(_voc(opened, record, name))
        which = "default" if split == ALL else split
        (sets / f"{which}.txt").write_text(
            "".join(f"{stem(name)}\n" for _, name in pairs), encoding="utf-8"
        )
    lines = ["# label:color_rgb:parts:actions"]
    for name, colour in zip(opened.classes, opened.palette, strict=True):
        lines.append(f"{name}:{','.join(map(str, colour))}::")
    (folder / "labelmap.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _voc(opened: OpenedDataset, record: ImageRecord, name: str) -> bytes:
    root = ElementTree.Element("annotation")

    def add(parent: ElementTree.Element, tag: str, text: object) -> None:
        ElementTree.SubElement(parent, tag).text = str(text)

    add(root, "filename", name)
    size = ElementTree.SubElement(root, "size")
    for tag, side in (("width", record.width), ("height", record.height), ("depth", 3)):
        add(size, tag, side)
    for one in record.instances:
        element = ElementTree.SubElement(root, "object")
        add(element, "name", opened.classes[one.label])
        add(element, "difficult", int(one.ignored))
        x1, y1, x2, y2 = _clipped(record, one)
        # pixels count from 1, the last ones included; a box has one pixel at least
        low = [min(round(x1) + 1, record.width), min(round(y1) + 1, record.height)]
        high = [max(low[0], round(x2)), max(low[1], round(y2))]
        box = ElementTree.SubElement(element, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), (*low, *high), strict=True):
            add(box, tag, value)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8")
