"""Which detection finds which object, as COCO's evaluation matches them."""

from __future__ import annotations

from dataclasses import dataclass

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
        any_ious (np.ndarray): (detections,), the highest IoU with an object that it may take.
    """

    objects: np.ndarray
    detections: np.ndarray
    ignored: np.ndarray
    detection_ious: np.ndarray
    object_ious: np.ndarray
    any_ious: np.ndarray


def match(
    objects: ObjectArrays,
    detections: DetectionArrays,
    iou: float = FOREGROUND_IOU,
    across_classes: bool = False,
) -> Matches:
    """Matches detections with objects by their boxes, one with one, the best-scored first.

    Each takes the object of the highest IoU that is still free, and a crowd only where there is
    none, as in pycocotools' ``COCOeval.evaluateImg``. Within classes, the matches of only those
    detections that reach a score are a part of these.

    Args:
        objects (ObjectArrays): of the images.
        detections (DetectionArrays): of the same images.
        iou (float): the least intersection over union; of a crowd, over the detection's area.
            Default: 0.5.
        across_classes (bool): whether the detections that are left over then take the objects of
            other classes that are left over, the best-scored first; crowds of other classes they
            may not. Default: False.
    """
    pairs = [np.zeros((0, 3))]  # detection, object, IoU
    object_ious = np.zeros(len(objects.images))
    detection_ious, any_ious = np.zeros((2, len(detections.images)))
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
        any_ious[found] = (ious * allowed).max(1)
        i, j = np.nonzero(allowed & (ious >= min(iou, 1 - 1e-10)))
        pairs.append(np.stack([found[i], own[j], ious[i, j]], axis=1))

    columns = np.concatenate(pairs).T
    (first, second), overlap = columns[:2].astype(np.int64), columns[2]
    crowd = objects.crowd[second]
    is_other = detections.labels[first] != objects.labels[second]
    # pycocotools takes the last object of equal ones
    order = np.lexsort((-second, -overlap, crowd, first, -detections.scores[first], is_other))
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
        any_ious=any_ious,
    )


def _by_image(arrays: ObjectArrays | DetectionArrays, count: int) -> list[np.ndarray]:
    """The indices of each image's objects or detections."""
    order = np.argsort(arrays.images, kind="stable")
    return np.split(order, np.searchsorted(arrays.images[order], np.arange(1, count)))
