"""What a detector confuses, and its precision and recall over the score, from its errors.

All at an intersection over union of 0.5, as :mod:`.detection_errors` compares boxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from pycocotools import mask as coco_mask

from mmpvt.reproduction.detection_errors import FOREGROUND_IOU

SCORES = np.linspace(0, 1, 51)  # thresholds of the curves


def curves_over_score(errors: Iterable[dict], names: Sequence[str]) -> dict:
    """Precision, recall and F1 of the detections whose score is at least a threshold.

    Args:
        errors (Iterable[dict]): of :func:`~.detection_errors.find_errors`, an image each, with
            detections of any score.
        names (Sequence[str]): of the classes, by label.

    Returns:
        dict: ``scores``, the thresholds; ``classes``, for each class its ``name``, ``objects`` and
        ``precision``, ``recall`` and ``F1`` at each threshold, NaN where there is none, and
        ``best``, the index of the threshold of the highest F1 (None without one); ``mean``, the
        same averaged over the classes that have objects.
    """
    objects = np.zeros(len(names), dtype=int)
    found: list[tuple[int, float, bool]] = []
    for image in errors:
        for one in image["truth"]:
            objects[one["label"]] += one["kind"] != "crowd"
        found += [
            (one["label"], one["score"], one["kind"] == "correct")
            for one in image["detections"]
            if not _is_crowds(image, one)
        ]
    labels, scores, correct = np.array(found, dtype=float).reshape(-1, 3).T
    table = []  # of each class, (3, thresholds)
    for label, count in enumerate(objects):
        own = labels == label
        above = scores[own][None] >= SCORES[:, None]
        positives, hits = above.sum(1), (above & (correct[own] > 0)).sum(1)
        with np.errstate(invalid="ignore"):
            precision, recall = hits / positives, hits / np.float64(count)
            table.append([precision, recall, 2 * hits / np.float64(count + positives)])
    values = np.array(table).reshape(-1, 3, len(SCORES))
    present = values[objects > 0]
    with np.errstate(invalid="ignore"):
        known = ~np.isnan(present)
        mean = np.where(known, present, 0).sum(0) / known.sum(0)
    return dict(
        scores=SCORES.round(2),
        classes=[
            dict(name=name, objects=count, **_named(own))
            for name, count, own in zip(names, objects, values, strict=True)
        ],
        mean=dict(name="mean of all classes", objects=objects.sum(), **_named(mean)),
    )


def _named(values: np.ndarray) -> dict:
    f1 = np.nan_to_num(values[2])
    best = int(f1.argmax()) if f1.any() else None
    precision, recall, f1 = (line.round(3) for line in values)
    return dict(precision=precision, recall=recall, F1=f1, best=best)


def confusion_matrix(errors: Iterable[dict], num_classes: int) -> np.ndarray:
    """How often an object of a class was detected as another.

    What is detected as its own class counts as that; of the other objects and detections, those
    that overlap most belong together. Crowds, and detections on them, don't count.

    Args:
        errors (Iterable[dict]): of :func:`~.detection_errors.find_errors`, an image each.
        num_classes (int): how many classes there are.

    Returns:
        np.ndarray: (num_classes + 1, num_classes + 1), int64: a row for each true class and one for
        what is no object, a column for each detected class and one for what isn't detected.
    """
    matrix = np.zeros((num_classes + 1, num_classes + 1), dtype=np.int64)
    for image in errors:
        missed = [one for one in image["truth"] if one["kind"] == "missed"]
        wrong = [one for one in image["detections"] if one["kind"] != "correct"]
        for one in image["detections"]:
            if one["kind"] == "correct" and not _is_crowds(image, one):
                matrix[one["label"], one["label"]] += 1
        truth, detected = [num_classes] * len(wrong), [num_classes] * len(missed)
        if missed and wrong:
            sides = [np.array([m["box"] for m in side], dtype=float) for side in (wrong, missed)]
            iou = np.asarray(coco_mask.iou(*sides, [0] * len(missed)))
            while iou.max() >= FOREGROUND_IOU:
                i, j = np.unravel_index(iou.argmax(), iou.shape)
                iou[i], iou[:, j] = 0, 0
                truth[i], detected[j] = missed[j]["label"], wrong[i]["label"]
        for label, one in zip(truth, wrong, strict=True):
            matrix[label, one["label"]] += 1
        for label, one in zip(detected, missed, strict=True):
            matrix[one["label"], label] += label == num_classes  # the others are counted above
    return matrix


def _is_crowds(image: dict, detection: dict) -> bool:
    place = detection["object"]
    return place is not None and image["truth"][place]["kind"] == "crowd"
