"""Which of COCO's annotations can be used, and what is wrong with the others.

What an image, an annotation and a category must hold is declared as types below, and msgspec
checks it: a second for the 860,000 annotations of train2017, where pydantic takes 5 and jsonschema
minutes.
"""

from __future__ import annotations

import itertools
import os
import re
import reprlib
from collections import Counter
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct

MARGIN = 1  # image sides that a polygon may reach beyond its image
MAX_OUTLINE = 2000  # length of an annotation's polygons, in image sides; rasterising takes memory
MAX_NUMBER = 1e15  # of pixels; beyond, float64 doesn't tell one from the next
MAX_SIDE, MAX_PIXELS = 2**20, 2**30  # of an image: OpenCV's limits
RUN_BITS = 35  # a compressed run length's: seven characters of five bits

UNKNOWN_MASK = "has a mask that is neither polygons nor run-length encoded"


Number = Annotated[float, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]  # NaN isn't either
Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]
Run = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Text = Annotated[str, Meta(max_length=1000, pattern=r"\A[^\ud800-\udfff]*\Z")]
Id = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | Text
Polygon = Annotated[list[Number], Meta(min_length=6)]


class _Identified(Struct):  # as a Struct's field: msgspec parses other types at each call
    id: Id


class _Image(Struct):
    id: Id
    file_name: Annotated[str, Meta(min_length=1)]
    width: Side
    height: Side


class _Annotation(Struct):
    image_id: Id
    category_id: Id
    bbox: tuple[Number, Number, Number, Number]


class _Category(Struct):
    id: Id
    name: Annotated[str, Meta(max_length=1000)]  # with lone surrogates, too: it is escaped


class _WithArea(Struct):
    area: Number


class _Polygons(Struct):
    segmentation: list[Polygon]


class _RunLengths(Struct):
    size: tuple[int, int]
    counts: list[Run] | str


class Finding(NamedTuple):
    """Something in an annotation file that can't be used as it is.

    Attributes:
        kind: ``'image'`` or ``'annotation'``.
        id: its ``id``, or its place in the file's list where it has none.
        reason: what is wrong with it.
        mended: whether it is used all the same.
    """

    kind: str
    id: object
    reason: str
    mended: bool = False


def _misfit(value: object, kind: type[Struct]) -> str | None:
    """The field that is missing or of another type; ``''`` for the value itself."""
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeError) as error:
        return "".join(re.findall(r"(?:\$\.|field `)(\w+)", str(error))[:1])
    return None


def category_problem(categories: list) -> str | None:
    """What is wrong with the list of categories, which says what all labels mean.

    Args:
        categories (list): of an annotation file.

    Returns:
        str | None: the first that has no id or no name, or another's id.
    """
    seen: set[int | str] = set()
    for place, category in enumerate(categories):
        field = _misfit(category, _Category)
        if field:
            return f"{field!r} of category {place} is missing or invalid: {_short(category)}"
        if field is not None:
            return f"category {place} is {_short(category)}, where a dict is expected"
        if category["id"] in seen:
            return f"two categories have the id {_short(category['id'])}"
        seen.add(category["id"])
    return None


def usable(content: dict, masks: bool) -> tuple[dict, list[Finding]]:
    """COCO's annotations without those that can't be used.

    Args:
        content (dict): with lists under ``images``, ``annotations`` and ``categories``, of
            :func:`~mmpvt.engine.data_check.read_annotations`.
        masks (bool): whether the masks are used, too.

    Returns:
        tuple[dict, list[Finding]]: a file's content again, and what was left out or mended.
    """
    images, findings = _usable_images(content["images"])
    known = {category["id"] for category in content["categories"]}
    listed = {image["id"] for image in content["images"] if _has_id(image)}
    annotations: list[dict] = []
    ids = Counter(a["id"] for a in content["annotations"] if _has_id(a))
    fresh = 1 + max((i for i in ids if isinstance(i, int)), default=0)
    for place, annotation in enumerate(content["annotations"]):
        has_id = _has_id(annotation)
        name = annotation["id"] if has_id else place
        reason = _problem(annotation, images, listed, known)
        polygons = None
        if masks and reason is None:
            mask = annotation.get("segmentation")
            polygons = _polygons(mask) if isinstance(mask, list) else None
            reason = _mask_problem(mask, polygons, images[annotation["image_id"]])
        if reason:
            findings.append(Finding("annotation", name, reason))
        if reason is not None:
            continue
        changes = {}
        if not has_id or ids[name] > 1:
            ids[name] -= 1
            reason = "has another's id" if has_id else "has no id"
            findings.append(Finding("annotation", name, f"{reason}: it gets a new one", True))
            changes["id"], fresh = fresh, fresh + 1
        if polygons is not None and len(polygons) < len(annotation["segmentation"]):
            reason = "has a polygon of less than three points, which is left out"
            findings.append(Finding("annotation", name, reason, True))
            changes["segmentation"] = polygons
        if _misfit(annotation, _WithArea) is not None:
            findings.append(Finding("annotation", name, "has no area: its box's is taken", True))
            changes["area"] = annotation["bbox"][2] * annotation["bbox"][3]
        if annotation.get("iscrowd") not in (0, 1):
            findings.append(Finding("annotation", name, "doesn't say iscrowd: taken as 0", True))
            changes["iscrowd"] = 0
        annotations.append({**annotation, **changes} if changes else annotation)
    return {**content, "images": list(images.values()), "annotations": annotations}, findings


def is_mask(mask: object, width: int, height: int) -> bool:
    """Whether a mask out of an annotation file can be decoded, all of it.

    Args:
        mask (object): an annotation's ``segmentation``.
        width (int): of its image, in pixels.
        height (int): of its image, in pixels.
    """
    polygons = _polygons(mask) if isinstance(mask, list) else None
    problem = _mask_problem(mask, polygons, dict(width=width, height=height))
    return problem is None and (polygons is None or len(polygons) == len(mask))


def _usable_images(images: list) -> tuple[dict, list[Finding]]:
    findings, by_id = [], {}
    for place, image in enumerate(images):
        if not _has_id(image):
            findings.append(Finding("image", place, "has no id"))
        elif image not in by_id.setdefault(image["id"], []):
            by_id[image["id"]].append(image)
    good = {}
    for name, same in by_id.items():
        if len(same) == 1 and (sides := _sides_as_floats(same[0])):
            findings.append(Finding("image", name, "has a size in floats: taken as ints", True))
            same = [{**same[0], **sides}]
        reason = _image_problem(same)
        if reason:
            findings.append(Finding("image", name, reason))
        else:
            good[name] = same[0]
    return good, findings


def _sides_as_floats(image: dict) -> dict[str, int]:
    sides = {key: image.get(key) for key in ("width", "height")}
    return {k: int(v) for k, v in sides.items() if isinstance(v, float) and v.is_integer()}


def _image_problem(same: list[dict]) -> str | None:
    if len(same) > 1:
        return f"is the id of {len(same)} images, and which one an annotation means isn't said"
    (image,) = same
    field = _misfit(image, _Image)
    if field == "file_name":
        return "has no file_name"
    if field is not None:
        sides = [_short(image.get(key)) for key in ("width", "height")]
        return f"has no size (width {sides[0]}, height {sides[1]})"
    if image["width"] * image["height"] > MAX_PIXELS:
        return f"has a size that can't be loaded (width {image['width']}, height {image['height']})"
    try:
        os.fsencode(image["file_name"])
    except UnicodeError:
        return f"has a file_name that no file can have ({_short(image['file_name'])})"
    if "\0" in image["file_name"]:
        return f"has a file_name that no file can have ({_short(image['file_name'])})"
    return None


def _problem(annotation: object, images: dict, listed: set, categories: set) -> str | None:
    """Why an annotation can't be used; ``''`` where its image can't, which is said already."""
    field = _misfit(annotation, _Annotation)
    if field == "":
        return "is no annotation"
    if field == "image_id" or annotation.get("image_id") not in listed:
        return "is of an image that is not listed"
    if annotation["image_id"] not in images:
        return ""
    if field == "category_id" or annotation.get("category_id") not in categories:
        return f"is of an unknown category ({_short(annotation.get('category_id'))})"
    if field == "bbox":
        return f"has a box that is not four numbers ({_short(annotation.get('bbox'))})"
    image = images[annotation["image_id"]]
    x, y, w, h = annotation["bbox"]
    if w <= 0 or h <= 0:
        return f"has a box of no area ({w} x {h})"
    if x >= image["width"] or y >= image["height"] or x + w <= 0 or y + h <= 0:
        return f"has a box outside its image ({x}, {y})"
    return None


def _mask_problem(mask: object, polygons: list[list] | None, image: dict) -> str | None:
    width, height = image["width"], image["height"]
    if isinstance(mask, dict):
        field = _misfit(mask, _RunLengths)
        if field == "size" or mask.get("size") != [height, width]:
            return f"has a mask of another size than its image ({_short(mask.get('size'))})"
        if field is not None or _run_lengths(mask["counts"]) != width * height:
            return "has a run-length encoded mask that is damaged"
        return None
    if not polygons:
        return UNKNOWN_MASK
    bound = 0.0
    for polygon in polygons:
        for values, side in ((polygon[::2], width), (polygon[1::2], height)):
            low, high = min(values), max(values)
            if low < -MARGIN * side or high > (1 + MARGIN) * side:
                return "has a polygon that reaches far outside its image"
            bound += len(values) * (high - low)
    if bound > MAX_OUTLINE * (width + height):  # rarely: the outline itself takes long to measure
        length = sum(
            abs(a - b)
            for polygon in polygons
            for values in (polygon[::2], polygon[1::2])
            for a, b in itertools.pairwise(values)
        )
        if length > MAX_OUTLINE * (width + height):
            return f"has polygons of a huge outline ({length:.0f} pixels)"
    return None


def _polygons(mask: list) -> list[list]:
    """Those of a mask's polygons that have three points or more."""
    if _are_polygons(mask):
        return mask
    return [polygon for polygon in mask if _are_polygons([polygon])]


def _are_polygons(mask: list) -> bool:
    fit = _misfit(dict(segmentation=mask), _Polygons) is None
    return fit and not any(len(polygon) % 2 for polygon in mask)


def _run_lengths(counts: list[int] | str) -> int | None:
    """The pixels that a run-length encoding covers, or None where it is damaged.

    Compressed ones are in COCO's variant of LEB128 (cocoapi, common/maskApi.c, rleFrString),
    which pycocotools decodes without a look at where it ends.
    """
    if isinstance(counts, list):
        return sum(counts)
    runs: list[int] = []
    value = shift = 0
    for code in (ord(c) - 48 for c in counts):
        if not 0 <= code < 64 or shift >= RUN_BITS:
            return None
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        if not 0 <= runs[-1] < 2**32:
            return None
        value = shift = 0
    return None if shift else sum(runs)


def _short(value: object) -> str:
    return reprlib.repr(value)


def _has_id(entry: object) -> bool:
    return _misfit(entry, _Identified) is None
