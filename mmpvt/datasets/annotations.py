"""Which of COCO's annotations can be used, and what is wrong with the others."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

MARGIN = 1  # image sides that a polygon may reach beyond its image
MAX_OUTLINE = 2000  # length of an annotation's polygons, in image sides; rasterising takes memory


UNKNOWN_MASK = "has a mask that is neither polygons nor run-length encoded"


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


def usable(content: dict, masks: bool) -> tuple[dict, list[Finding]]:
    """COCO's annotations without those that can't be used.

    Args:
        content (dict): with lists under ``images``, ``annotations`` and ``categories``.
        masks (bool): whether the masks are used, too.

    Returns:
        tuple[dict, list[Finding]]: a file's content again, and what was left out or mended.
    """
    images, findings = _usable_images(content["images"])
    categories = [c for c in content["categories"] if isinstance(c, dict) and _is_id(c.get("id"))]
    known = {category["id"] for category in categories}
    listed = {image["id"] for image in content["images"] if _has_id(image)}
    annotations: list[dict] = []
    ids = Counter(a.get("id") for a in content["annotations"] if _has_id(a))
    fresh = 1 + max((i for i in ids if isinstance(i, int)), default=0)
    for place, annotation in enumerate(content["annotations"]):
        name = annotation["id"] if _has_id(annotation) else place
        image_id = annotation.get("image_id") if isinstance(annotation, dict) else None
        if _is_id(image_id) and image_id in listed and image_id not in images:
            continue  # its image has been said
        reason = _problem(annotation, images, known, masks)
        if reason:
            findings.append(Finding("annotation", name, reason))
            continue
        mended = dict(annotation)
        if not _has_id(annotation) or ids[name] > 1:
            ids[name] -= 1
            reason = "has another's id" if _has_id(annotation) else "has no id"
            findings.append(Finding("annotation", name, f"{reason}: it gets a new one", True))
            mended["id"], fresh = fresh, fresh + 1
        polygons = annotation.get("segmentation")
        if masks and isinstance(polygons, list):
            mended["segmentation"] = [polygon for polygon in polygons if _is_polygon(polygon)]
            if len(mended["segmentation"]) < len(polygons):
                reason = "has a polygon of less than three points, which is left out"
                findings.append(Finding("annotation", name, reason, True))
        if not _is_number(annotation.get("area")):
            findings.append(Finding("annotation", name, "has no area: its box's is taken", True))
            mended["area"] = annotation["bbox"][2] * annotation["bbox"][3]
        if annotation.get("iscrowd") not in (0, 1):
            findings.append(Finding("annotation", name, "doesn't say iscrowd: taken as 0", True))
            mended["iscrowd"] = 0
        annotations.append(mended)
    return (
        {
            **content,
            "images": list(images.values()),
            "annotations": annotations,
            "categories": categories,
        },
        findings,
    )


def _usable_images(images: list) -> tuple[dict, list[Finding]]:
    findings, by_id = [], {}
    for place, image in enumerate(images):
        if not isinstance(image, dict) or not _is_id(image.get("id")):
            findings.append(Finding("image", place, "has no id"))
        elif image not in by_id.setdefault(image["id"], []):
            by_id[image["id"]].append(image)
    good = {}
    for name, same in by_id.items():
        reason = _image_problem(same)
        if reason:
            findings.append(Finding("image", name, reason))
        else:
            good[name] = same[0]
    return good, findings


def _image_problem(same: list[dict]) -> str | None:
    if len(same) > 1:
        return f"is the id of {len(same)} images, and which one an annotation means isn't said"
    (image,) = same
    if not isinstance(image.get("file_name"), str) or not image["file_name"]:
        return "has no file_name"
    sides = (image.get("width"), image.get("height"))
    if not all(_is_number(side) and side > 0 for side in sides):
        return f"has no size (width {sides[0]}, height {sides[1]})"
    return None


def _problem(annotation: object, images: dict, categories: set, masks: bool) -> str | None:
    if not isinstance(annotation, dict):
        return "is no annotation"
    if not _is_id(annotation.get("image_id")) or annotation["image_id"] not in images:
        return "is of an image that is not listed"
    if not _is_id(annotation.get("category_id")) or annotation["category_id"] not in categories:
        return f"is of an unknown category ({annotation.get('category_id')})"
    image = images[annotation["image_id"]]
    width, height = image["width"], image["height"]
    reason = _box_problem(annotation.get("bbox"), width, height)
    if reason or not masks:
        return reason
    return next(_mask_problems(annotation.get("segmentation"), width, height), None)


def _box_problem(box: object, width: float, height: float) -> str | None:
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return f"has a box that is not four numbers ({str(box)[:60]})"
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return f"has a box of no area ({w} x {h})"
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        return f"has a box outside its image ({x}, {y})"
    return None


def _mask_problems(mask: object, width: float, height: float) -> Iterator[str]:
    if isinstance(mask, dict):
        if mask.get("size") != [height, width]:
            yield f"has a mask of another size than its image ({str(mask.get('size'))[:40]})"
        total = _run_lengths(mask.get("counts"))
        if total != width * height:
            yield "has a run-length encoded mask that is damaged"
    elif not isinstance(mask, list) or not any(map(_is_polygon, mask)):
        yield UNKNOWN_MASK
    else:
        length = 0.0
        for polygon in filter(_is_polygon, mask):
            for values, side in ((polygon[::2], width), (polygon[1::2], height)):
                if min(values) < -MARGIN * side or max(values) > (1 + MARGIN) * side:
                    yield "has a polygon that reaches far outside its image"
                length += sum(abs(a - b) for a, b in itertools.pairwise(values))
        if length > MAX_OUTLINE * (width + height):
            yield f"has polygons of a huge outline ({length:.0f} pixels)"


def _is_polygon(polygon: object) -> bool:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        return False
    try:
        return all(map(math.isfinite, polygon))
    except TypeError:
        return False


def _run_lengths(counts: object) -> int | None:
    """The pixels that a run-length encoding covers, or None where it is damaged.

    Compressed ones are in COCO's variant of LEB128 (cocoapi, common/maskApi.c, rleFrString),
    which pycocotools decodes without a look at where it ends.
    """
    if isinstance(counts, list):
        good = all(isinstance(count, int) and count >= 0 for count in counts)
        return sum(counts) if good else None
    if not isinstance(counts, str) or any(not 48 <= ord(c) <= 111 for c in counts):
        return None
    runs: list[int] = []
    value = shift = 0
    for code in (ord(c) - 48 for c in counts):
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return sum(runs) if not shift and all(run >= 0 for run in runs) else None


def _has_id(annotation: object) -> bool:
    return isinstance(annotation, dict) and _is_id(annotation.get("id"))


def _is_id(value: object) -> bool:
    return isinstance(value, int | str)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
