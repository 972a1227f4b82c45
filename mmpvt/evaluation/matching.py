"""Which detection finds which object, as COCO's evaluation matches them, and the worst errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from mmpvt.evaluation.detection_arrays import DetectionArrays, ObjectArrays

FOREGROUND_IOU = 0.5


@dataclass(frozen=True)
class Matches:
    """Detections and the objects that they find.

    Attributes:
        objects (np.ndarray): (detections,), index of the detection's object, a crowd's too, or -1.
        detections (np.ndarray): (objects,), index of the object's detection, or -1; a crowd has
            none.
        ignored (np.ndarray): (detections,), bool: it lies in a crowd of its class, and is neither
            a true nor a false positive.
        detection_ious (np.ndarray): (detections,), the highest IoU with an object of its class.
        object_ious (np.ndarray): (objects,), the highest IoU with a detection of its class.
    """

    objects: np.ndarray
    detections: np.ndarray
    ignored: np.ndarray
    detection_ious: np.ndarray
    object_ious: np.ndarray


def match(
    objects: ObjectArrays,
    detections: DetectionArrays,
    iou: float = FOREGROUND_IOU,
    across_classes: bool = False,
) -> Matches:
    """Matches detections with objects by their boxes, one with one, the best-scored first.

    Each takes the object of the highest IoU that is still free, and a crowd only where there is
    none, as in pycocotools' ``COCOeval.evaluateImg``. The matches of only those detections that
    reach a score are a part of these.

    Args:
        objects (ObjectArrays): of the images.
        detections (DetectionArrays): of the same images.
        iou (float): the least intersection over union; of a crowd, over the detection's area.
            Default: 0.5.
        across_classes (bool): whether a detection may take an object of another class where none
            of its own is free; crowds of other classes it may not. Default: False.
    """
    pairs = [np.zeros((0, 3))]  # detection, object, IoU
    object_ious, detection_ious = np.zeros(len(objects.images)), np.zeros(len(detections.images))
    count = 1 + max(objects.images.max(initial=-1), detections.images.max(initial=-1))
    for own, found in zip(_by_image(objects, count), _by_image(detections, count), strict=True):
        if not len(own) or not len(found):
            continue
        # an infinite box, of a model that diverged, has an IoU of NaN
        ious = np.nan_to_num(
            coco_mask.iou(detections.boxes[found], objects.boxes[own], objects.crowd[own])
        )
        same_class = detections.labels[found][:, None] == objects.labels[own]
        class_ious = ious * same_class
        detection_ious[found], object_ious[own] = class_ious.max(1), class_ious.max(0)
        allowed = same_class | ~objects.crowd[own] if across_classes else same_class
        i, j = np.nonzero(allowed & (ious >= min(iou, 1 - 1e-10)))
        pairs.append(np.stack([found[i], own[j], ious[i, j]], axis=1))

    columns = np.concatenate(pairs).T
    (first, second), overlap = columns[:2].astype(np.int64), columns[2]
    crowd = objects.crowd[second]
    is_other = detections.labels[first] != objects.labels[second]
    # pycocotools takes the last object of equal ones
    order = np.lexsort((-second, -overlap, crowd, is_other, first, -detections.scores[first]))
    taken_by = np.full(len(objects.images), -1).tolist()
    taken = np.full(len(detections.images), -1).tolist()
    for detection, one, is_crowd in zip(
        first[order].tolist(), second[order].tolist(), crowd[order].tolist(), strict=True
    ):
        if taken[detection] < 0 and taken_by[one] < 0:
            taken[detection] = one
            if not is_crowd:
                taken_by[one] = detection
    matched = np.array(taken, np.int64)
    return Matches(
        objects=matched,
        detections=np.array(taken_by, np.int64),
        ignored=(matched >= 0) & np.append(objects.crowd, False)[matched],
        detection_ious=detection_ious,
        object_ious=object_ious,
    )


def _by_image(arrays: ObjectArrays | DetectionArrays, count: int) -> list[np.ndarray]:
    """The indices of each image's objects or detections."""
    order = np.argsort(arrays.images, kind="stable")
    return np.split(order, np.searchsorted(arrays.images[order], np.arange(1, count)))


class DetectionError(NamedTuple):
    """A false positive or a false negative.

    Attributes:
        image_id: its image's.
        box: left, top, width, height, in pixels.
        label: index of its class.
        score: of a false positive; None of a false negative.
        iou: the highest with an object of its class, or with a detection of its class.
    """

    image_id: Any
    box: tuple[float, ...]
    label: int
    score: float | None
    iou: float


def worst_false_positives(
    detections: DetectionArrays, matches: Matches, image_ids: Sequence, most: int = 100
) -> list[DetectionError]:
    """The highest-scored detections that are of no object.

    Args:
        detections (DetectionArrays): all that count: those above a score, say.
        matches (Matches): of these, within classes.
        image_ids (Sequence): by index of the image.
        most (int): how many. Default: 100.
    """
    wrong = np.flatnonzero(matches.objects < 0)
    worst = wrong[np.argsort(-detections.scores[wrong], kind="stable")[:most]]
    return [
        DetectionError(
            image_ids[detections.images[i]],
            tuple(detections.boxes[i].tolist()),
            int(detections.labels[i]),
            float(detections.scores[i]),
            float(matches.detection_ious[i]),
        )
        for i in worst
    ]


def worst_false_negatives(
    objects: ObjectArrays, matches: Matches, image_ids: Sequence, most: int = 100
) -> list[DetectionError]:
    """The largest objects that no detection comes near.

    They are in the order of the square root of an object's share of its image, times 1 - IoU with
    the closest detection of its class.

    Args:
        objects (ObjectArrays): all.
        matches (Matches): of the detections that count, within classes.
        image_ids (Sequence): by index of the image.
        most (int): how many. Default: 100.
    """
    missed = np.flatnonzero((matches.detections < 0) & ~objects.crowd)
    severity = np.sqrt(objects.shares[missed]) * (1 - matches.object_ious[missed])
    return [
        DetectionError(
            image_ids[objects.images[i]],
            tuple(objects.boxes[i].tolist()),
            int(objects.labels[i]),
            None,
            float(matches.object_ious[i]),
        )
        for i in missed[np.argsort(-severity, kind="stable")[:most]]
    ]
