"""COCO's JSON: a file, or one a split, with images in folders or beside it."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

from pycocotools import mask as rle

from mmpvt.datasets.coco import clean_annotations, mask_problem, parse_annotations
from mmpvt.datasets.formats.files import split_of, split_of_path
from mmpvt.datasets.formats.reading import Content, Reading, read_json
from mmpvt.datasets.formats.records import ALL, Colour, ImageRecord, Instance
from mmpvt.errors import DatasetError
from mmpvt.utils.progress import with_progress
from mmpvt.utils.text import counted, few

OUTSIDE = 1.5  # pixels that a box may reach beyond its image: COCO's own are rounded
CORNERS = 0.2  # of the boxes; x, y, width and height reach out of images less often


def read_coco(reading: Reading, names: list[str]) -> Content:
    """Reads annotation files, a split each.

    Raises:
        DatasetError: a file can't be read, or two are of one split.
    """
    contents = {split: (name, _content(reading, name)) for split, name in _splits(names).items()}
    order = [split for split in ("train", ALL, "val", "test") if split in contents]
    categories = [c for split in order for c in _by_id(contents[split][1])]
    used = {name for _, content in contents.values() for name in _used_names(content)}
    parents = {c.get("supercategory") for c in categories if c.get("supercategory") != c["name"]}
    classes: list[str] = []
    colours: dict[str, Colour] = {}
    for category in categories:
        name = category["name"]
        # Roboflow's first category is the project, which all others are of
        is_top = category.get("supercategory") in (None, "", "none")
        if is_top and name in parents and name not in used:
            note = f"the category {name!r} is of no object and is skipped"
            if note not in reading.notes:
                reading.notes.append(note)
            continue
        if name not in classes:
            classes.append(name)
        colour = category.get("color")
        if isinstance(colour, (list, tuple)) and len(colour) == 3:
            colours.setdefault(name, tuple(int(c) for c in colour))  # type: ignore[arg-type]
    labels = {name: label for label, name in enumerate(classes)}
    splits: dict[str, list[ImageRecord]] = {}
    used_images: set[str] = set()
    for split in order:
        name, content = contents[split]
        if len(order) > 1 and not content["annotations"]:
            images = counted(len(content["images"]), "image is", "images are")
            reading.notes.append(f"{name} has no annotations: {images} unused")
            continue
        splits[split] = _read(reading, name, split, content, labels, used_images)
    reading.note_unused(used_images, "in no annotation file")
    return Content(classes, splits, colours)


def _splits(names: list[str]) -> dict[str, str]:
    """The annotation file of each split."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        split = split_of(PurePosixPath(name).stem) or split_of_path(name)
        found[split].append(name)
    chosen = {}
    for split, same in found.items():
        if len(same) > 1:
            same = [name for name in same if "instances" in PurePosixPath(name).name] or same
        if len(same) > 1:
            what = "unsplit" if split == ALL else f"for {split}"
            raise DatasetError(
                f"{len(same)} annotation files are {what}: {few(same)}", hint="give one's path"
            )
        chosen[split] = same[0]
    if ALL in chosen and len(chosen) > 1:
        raise DatasetError(
            f"{chosen[ALL]} is of no split, and others are: {few(chosen.values())}",
            hint="give one's path",
        )
    return chosen


def _content(reading: Reading, name: str) -> dict:
    file = reading.root / name
    try:
        content = parse_annotations(read_json(file), file)
    except OSError as error:
        raise DatasetError(f"{file} can't be read: {error.strerror}", where=file) from error
    _drop_namesakes(content, name)
    content, findings = clean_annotations(content, masks=False)
    for finding in findings:
        if finding.fixed:
            reading.count(f"an {finding.kind} {finding.reason}", f"{name}, {finding.id}")
        else:
            reading.problem(name, str(finding))
    _note_reaching(reading, name, content)
    boxes = [annotation["bbox"] for annotation in content["annotations"]]
    if boxes and all(max(box) <= 1 and box != list(map(round, box)) for box in boxes):
        raise DatasetError(
            f"the boxes of {file} are within 0 and 1, and COCO's are in pixels", where=file
        )
    return content


def _note_reaching(reading: Reading, name: str, content: dict) -> None:
    """Notes boxes that reach out of their images: many do where they are corners."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    reaching = []
    for annotation in content["annotations"]:
        (x, y, w, h), (width, height) = annotation["bbox"], sizes[annotation["image_id"]]
        if max(-x, -y, x + w - width, y + h - height) > OUTSIDE:
            reaching.append(annotation["id"])
    if reaching:
        boxes = counted(
            len(reaching), "box reaches out of its image", "boxes reach out of their images"
        )
        is_often = len(reaching) > CORNERS * len(content["annotations"])
        hint = ": COCO's are x, y, width and height, not corners" * is_often
        reading.notes.append(f"{name}: {boxes} (the first: annotation {reaching[0]}){hint}")


def _drop_namesakes(content: dict, name: str) -> None:
    """Leaves one category of each name: of a project named after its one class, Roboflow writes a
    first category of no object.

    Raises:
        DatasetError: two categories of one name have objects.
    """
    by_name: dict[str, list[dict]] = defaultdict(list)
    for category in content["categories"]:
        by_name[category["name"]].append(category)
    if len(by_name) == len(content["categories"]):
        return
    used = {a.get("category_id") for a in content["annotations"] if isinstance(a, dict)
            if isinstance(a.get("category_id"), (int, str))}  # fmt: skip
    kept = []
    for title, same in by_name.items():
        with_objects = [category for category in same if category["id"] in used]
        if len(with_objects) > 1:
            raise DatasetError(f"two categories of {name} have the name {title!r}")
        kept.append((with_objects or same)[0])
    content["categories"] = kept


def _by_id(content: dict) -> list[dict]:
    ids = [category["id"] for category in content["categories"]]
    if all(isinstance(i, int) for i in ids):
        return sorted(content["categories"], key=lambda category: category["id"])
    return content["categories"]


def _used_names(content: dict) -> list[str]:
    """The names of the categories that have annotations."""
    ids = {annotation["category_id"] for annotation in content["annotations"]}
    return [category["name"] for category in content["categories"] if category["id"] in ids]


def _read(
    reading: Reading,
    name: str,
    split: str,
    content: dict,
    labels: dict[str, int],
    used: set[str],
) -> list[ImageRecord]:
    by_id = {c["id"]: labels.get(c["name"]) for c in content["categories"]}
    by_image: dict[object, list[dict]] = defaultdict(list)
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    near = str(PurePosixPath(name).parent)
    records, missing = [], []
    for image in with_progress(content["images"], f"reading images of {Path(name).name}"):
        found = reading.files.find_image(
            image["file_name"], "" if near == "." else near, split, PurePosixPath(name).stem
        )
        if found is None:
            missing.append(image["file_name"])
            continue
        used.add(found)
        record = reading.record(
            reading.root / found, (image["width"], image["height"]), image["file_name"]
        )
        if record is None:
            continue
        for annotation in by_image[image["id"]]:
            label = by_id[annotation["category_id"]]
            instance = None
            if any(annotation.get("keypoints") or ()):
                reading.count("objects have keypoints, which are skipped", f"{name}, {found}")
            if label is not None:
                instance = _instance(reading, name, annotation, label, record)
            if instance is not None:
                record.instances.append(instance)
        records.append(record)
    if missing:
        total = len(content["images"])
        reading.problem(
            name, f"{len(missing):,} of its {total:,} images are missing ({few(missing)})"
        )
    return records


def _instance(
    reading: Reading, name: str, annotation: dict, label: int, record: ImageRecord
) -> Instance | None:
    box = tuple(map(float, annotation["bbox"]))
    mask: Any = annotation.get("segmentation")
    polygons = encoded = None
    if mask and mask != [[]]:  # as scripts of one's own write it for boxes
        problem = mask_problem(mask, record.width, record.height)
        if problem is not None:
            reason = ": ".join(filter(None, problem))
            reading.problem(name, f"annotation {annotation['id']} {reason}")
            return None
        if isinstance(mask, list):
            polygons = [list(map(float, polygon)) for polygon in mask]
        elif isinstance(mask["counts"], str):
            encoded = dict(size=list(mask["size"]), counts=mask["counts"])
        else:
            packed: Any = rle.frPyObjects(mask, *mask["size"])
            encoded = dict(size=list(mask["size"]), counts=packed["counts"].decode())
    ignored = bool(annotation["iscrowd"] or annotation.get("ignore"))
    area = float(annotation["area"])
    return Instance(label, box, polygons, encoded, ignored, area)  # type: ignore[arg-type]
