"""COCO's annotation files: reading them, and finding annotations that can't be used.

What an image, an annotation and a category must hold is declared as types below, and msgspec
checks it: a second for the 860,000 annotations of train2017, where pydantic takes 5 and jsonschema
minutes.
"""

from __future__ import annotations

import codecs
import itertools
import os
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path
from reprlib import repr as short_repr
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Struct, defstruct

from mmpvt.datasets.listed_files import GET_DATA
from mmpvt.errors import DatasetError
from mmpvt.utils.files import MAX_ANNOTATIONS, parse_json, read_bytes
from mmpvt.utils.text import few

MARGIN = 1  # image sides that a polygon may reach beyond its image
MAX_OUTLINE = 2000  # length of an annotation's polygons, in image sides; rasterising takes memory
MAX_NUMBER = 1e15  # of pixels; beyond, float64 doesn't tell one from the next
MAX_SIDE, MAX_PIXELS = 2**20, 2**30  # of an image: OpenCV's limits
RUN_BITS = 35  # a compressed run length's: seven characters of five bits

UNKNOWN_MASK = "has a mask that is neither polygons nor run-length encoded"
SHARED_ID = "has another's id"
IMAGE_SKIPPED = ("", "")

Number = Annotated[float, Meta(ge=-MAX_NUMBER, le=MAX_NUMBER)]  # NaN isn't either
Side = Annotated[int, Meta(ge=1, le=MAX_SIDE)]
Run = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Text = Annotated[str, Meta(max_length=1000, pattern=r"\A[^\ud800-\udfff]*\Z")]
Id = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | Text
Polygon = Annotated[list[Number], Meta(min_length=6)]
FileName = Annotated[str, Meta(min_length=1)]
Box = tuple[Number, Number, Number, Number]

# Structs, as msgspec parses other types at each call
_Identified = defstruct("_Identified", [("id", Id)])
_Image = defstruct(
    "_Image", [("id", Id), ("file_name", FileName), ("width", Side), ("height", Side)]
)
_Annotation = defstruct("_Annotation", [("image_id", Id), ("category_id", Id), ("bbox", Box)])
# a name with lone surrogates, too: it is escaped
_Category = defstruct("_Category", [("id", Id), ("name", Annotated[str, Meta(max_length=1000)])])
_WithArea = defstruct("_WithArea", [("area", Annotated[float, Meta(gt=0, le=MAX_NUMBER)])])
_Polygons = defstruct("_Polygons", [("segmentation", list[Polygon])])
_RunLengths = defstruct("_RunLengths", [("size", tuple[int, int]), ("counts", list[Run] | str)])
Problem = tuple[str, str]  # a finding's problem and detail


class Finding(NamedTuple):
    """Something in an annotation file that can't be used as it is."""

    kind: str  # 'image' or 'annotation'
    id: object  # or its place in the file's list where it has none
    problem: str  # what is wrong with it, in the same words wherever it is found
    detail: str = ""  # the value at fault, or what is done about it
    fixed: bool = False  # whether it is used all the same

    @property
    def reason(self) -> str:
        """``problem: detail``."""
        return f"{self.problem}: {self.detail}" if self.detail else self.problem

    def __str__(self) -> str:
        return f"{self.kind} {self.id} {self.reason}"


def read_annotations(file: Path) -> dict:
    """Reads annotations in COCO's format.

    Args:
        file (Path): ``instances_train2017.json``, say.

    Returns:
        dict: with lists under ``images``, ``annotations`` and ``categories``. Of files that list
            images without labels, COCO's test-dev's for one, the second is empty.

    Raises:
        DatasetError: the file is missing, empty, no JSON, or lacks one of the lists; a category has
            no id or name.
    """
    try:
        data = read_bytes(file, MAX_ANNOTATIONS)
    except OSError as error:
        raise DatasetError(f"no annotations at {file}: {error.strerror}", **GET_DATA) from error
    return parse_annotations(data, file)


def parse_annotations(data: bytes, file: Path) -> dict:
    """What :func:`read_annotations` gives, of a file's content.

    Raises:
        DatasetError: it is empty, no JSON, not COCO's, or begins with a byte order mark.
    """
    if not data:
        raise DatasetError(f"the annotation file {file} is empty", **GET_DATA)
    if data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DatasetError(
            f"the annotation file {file} begins with a byte order mark, as editors on Windows "
            "write it, with which pycocotools reads none",
            hint="save it as UTF-8 without one",
        )
    try:
        content = parse_json(data)
    except ValueError as error:
        what = f"the annotation file {file} is no JSON ({error})"
        raise DatasetError(what, **GET_DATA) from error
    fields = content if isinstance(content, dict) else {}
    if "images" in fields and "categories" in fields:
        fields.setdefault("annotations", [])
    keys = ("images", "annotations", "categories")
    lacking = [key for key in keys if not isinstance(fields.get(key), list)]
    if lacking:
        raise DatasetError(f"the annotation file {file} is not COCO's: it has no {few(lacking)}")
    if not fields["images"]:
        raise DatasetError(f"the annotation file {file} lists no images", **GET_DATA)
    if problem := category_problem(fields["categories"]):
        raise DatasetError(f"the annotation file {file} can't be used: {problem}")
    return fields


def image_files(content: dict) -> list[str]:
    """The names of the image files in the content of an annotation file."""
    images = (image for image in content["images"] if isinstance(image, dict))
    names = (image.get("file_name") for image in images)
    return [name for name in names if isinstance(name, str) and name]


def files_by_id(content: dict | None) -> dict[int | str, str]:
    """The names of the image files in the content of an annotation file, by their images' ids."""
    images = (content or {}).get("images", ())
    return {image["id"]: str(image.get("file_name")) for image in images if has_id(image)}


def has_id(entry: object) -> bool:
    """Whether an image, annotation or category has an id: a 64-bit int or a string."""
    return _invalid_field(entry, _Identified) is None


def _invalid_field(value: object, kind: type[Struct]) -> str | None:
    """The field that is missing or of another type; ``''`` for the value itself."""
    try:
        msgspec.convert(value, kind)
    except (msgspec.ValidationError, UnicodeError) as error:
        return "".join(re.findall(r"(?:\$\.|field `)(\w+)", str(error))[:1])
    return None


def category_problem(categories: list) -> str | None:
    """The first category without an id or a name, or with another's id, in a sentence; or None."""
    seen: set[int | str] = set()
    for place, category in enumerate(categories):
        field = _invalid_field(category, _Category)
        if field:
            return f"{field!r} of category {place} is missing or invalid: {short_repr(category)}"
        if field is not None:
            return f"category {place} is {short_repr(category)}, where a dict is expected"
        if category["id"] in seen:
            return f"two categories have the id {short_repr(category['id'])}"
        seen.add(category["id"])
    return None


def clean_annotations(content: dict, masks: bool) -> tuple[dict, list[Finding]]:
    """COCO's annotations without those that can't be used.

    Args:
        content (dict): of :func:`read_annotations`; it stays as it is.
        masks (bool): whether the masks are used, too.

    Returns:
        tuple[dict, list[Finding]]: a file's content again, and what was skipped or fixed.
    """
    images, findings = _clean_images(content["images"])
    known = {category["id"] for category in content["categories"]}
    listed = {image["id"] for image in content["images"] if has_id(image)}
    annotations: list[dict] = []
    ids = Counter(a["id"] for a in content["annotations"] if has_id(a))
    fresh = 1 + max((i for i in ids if isinstance(i, int)), default=0)
    for place, annotation in enumerate(content["annotations"]):
        is_identified = has_id(annotation)
        name = annotation["id"] if is_identified else place
        problem = _problem(annotation, images, listed, known)
        polygons = None
        if masks and problem is None:
            mask = annotation.get("segmentation")
            polygons = _polygons(mask)
            problem = _mask_problem(mask, polygons, images[annotation["image_id"]])
        if problem is not None:
            if problem != IMAGE_SKIPPED:
                findings.append(Finding("annotation", name, *problem))
            continue
        fixes: list[tuple[str, str, str, object]] = []  # problem, detail, field, value
        if not is_identified or ids[name] > 1:
            ids[name] -= 1
            what = SHARED_ID if is_identified else "has no id"
            fixes.append((what, "it gets a new one", "id", fresh))
            fresh += 1
        if polygons is not None and len(polygons) < len(annotation["segmentation"]):
            what = "has a polygon of less than three points"
            fixes.append((what, "it is skipped", "segmentation", polygons))
        if _invalid_field(annotation, _WithArea) is not None:
            area = annotation["bbox"][2] * annotation["bbox"][3]
            fixes.append(("has no area", "its box's is taken", "area", area))
        if annotation.get("iscrowd") not in (0, 1):
            fixes.append(("doesn't say iscrowd", "taken as 0", "iscrowd", 0))
        for what, detail, field, value in fixes:
            findings.append(Finding("annotation", name, what, detail, fixed=True))
            annotation = {**annotation, field: value}
        annotations.append(annotation)
    return {**content, "images": list(images.values()), "annotations": annotations}, findings


def is_valid_mask(mask: Any, width: int, height: int) -> bool:
    """Whether a mask can be decoded, all of it.

    Args:
        mask (Any): an annotation's ``segmentation``.
        width (int): of its image, in pixels.
        height (int): of its image, in pixels.
    """
    return mask_problem(mask, width, height) is None


def mask_problem(mask: Any, width: int, height: int) -> Problem | None:
    """What keeps a mask from being decoded, all of it; takes what :func:`is_valid_mask` takes."""
    polygons = _polygons(mask)
    problem = _mask_problem(mask, polygons, dict(width=width, height=height))
    if problem is None and polygons is not None and len(polygons) < len(mask):
        return "has a polygon of less than three points", ""
    return problem


def _clean_images(images: list) -> tuple[dict, list[Finding]]:
    findings: list[Finding] = []
    by_id: dict[int | str, list[dict]] = {}
    for place, image in enumerate(images):
        if not has_id(image):
            findings.append(Finding("image", place, "has no id"))
        elif image not in by_id.setdefault(image["id"], []):
            by_id[image["id"]].append(image)
    good = {}
    for name, same in by_id.items():
        sides = {key: same[0].get(key) for key in ("width", "height")}
        whole = {k: int(v) for k, v in sides.items() if isinstance(v, float) and v.is_integer()}
        if len(same) == 1 and whole:
            findings.append(Finding("image", name, "has a size in floats", "taken as ints", True))
            same = [{**same[0], **whole}]
        if problem := _image_problem(same):
            findings.append(Finding("image", name, *problem))
        else:
            good[name] = same[0]
    return good, findings


def _image_problem(same: list[dict]) -> Problem | None:
    if len(same) > 1:
        return f"is the id of {len(same)} images", "which one an annotation means isn't said"
    (image,) = same
    field = _invalid_field(image, _Image)
    if field == "file_name":
        return "has no file_name", ""
    if field is not None or image["width"] * image["height"] > MAX_PIXELS:
        sides = ", ".join(f"{key} {short_repr(image.get(key))}" for key in ("width", "height"))
        return "has no size" if field is not None else "has a size that can't be loaded", sides
    with suppress(UnicodeError):
        if b"\0" not in os.fsencode(image["file_name"]):
            return None
    return "has a file_name that no file can have", short_repr(image["file_name"])


def _problem(annotation: Any, images: dict, listed: set, categories: set) -> Problem | None:
    """Why an annotation can't be used; IMAGE_SKIPPED where its image can't, which is said there."""
    field = _invalid_field(annotation, _Annotation)
    if field == "":
        return "is no annotation", ""
    if field == "image_id" or annotation.get("image_id") not in listed:
        return "is of an image that is not listed", ""
    if annotation["image_id"] not in images:
        return IMAGE_SKIPPED
    if field == "category_id" or annotation.get("category_id") not in categories:
        return "is of an unknown category", short_repr(annotation.get("category_id"))
    if field == "bbox":
        return "has a box that is not four numbers", short_repr(annotation.get("bbox"))
    image = images[annotation["image_id"]]
    x, y, w, h = annotation["bbox"]
    if w <= 0 or h <= 0:
        return "has a box of no area", f"{w} x {h}"
    if x >= image["width"] or y >= image["height"] or x + w <= 0 or y + h <= 0:
        return "has a box outside its image", f"{x}, {y}"
    return None


def _mask_problem(mask: object, polygons: list[list] | None, image: dict) -> Problem | None:
    width, height = image["width"], image["height"]
    if isinstance(mask, dict):
        field = _invalid_field(mask, _RunLengths)
        if field == "size" or mask.get("size") != [height, width]:
            return "has a mask of another size than its image", short_repr(mask.get("size"))
        if field is not None or _run_lengths(mask["counts"]) != width * height:
            return "has a run-length encoded mask that is damaged", ""
        return None
    if not polygons:
        return UNKNOWN_MASK, ""
    bound = 0.0
    for polygon in polygons:
        for values, side in ((polygon[::2], width), (polygon[1::2], height)):
            low, high = min(values), max(values)
            if low < -MARGIN * side or high > (1 + MARGIN) * side:
                return "has a polygon that reaches far outside its image", ""
            bound += len(values) * (high - low)
    if bound > MAX_OUTLINE * (width + height):  # rarely: the outline itself takes long to measure
        length = sum(
            abs(a - b)
            for polygon in polygons
            for values in (polygon[::2], polygon[1::2])
            for a, b in itertools.pairwise(values)
        )
        if length > MAX_OUTLINE * (width + height):
            return "has polygons of a huge outline", f"{length:.0f} pixels"
    return None


def _polygons(mask: object) -> list[list] | None:
    """Those of a mask's polygons that have three points or more; None of another kind of mask."""
    if not isinstance(mask, list):
        return None
    if _invalid_field(dict(segmentation=mask), _Polygons) is not None:
        mask = [p for p in mask if _invalid_field(dict(segmentation=[p]), _Polygons) is None]
    return [polygon for polygon in mask if len(polygon) % 2 == 0]


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
