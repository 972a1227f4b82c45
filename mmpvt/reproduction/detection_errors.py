"""False negatives and false positives of an image, of the kinds that TIDE tells apart.

A detection is a true positive if it has the object's class and their boxes' intersection over
union is at least 0.5, the best-scored detection first, as in COCO's evaluation.

Source of the kinds: TIDE, arXiv 2008.08115, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from pycocotools import mask as coco_mask

from mmpvt.datasets.coco import is_valid_mask
from mmpvt.evaluation.matching import FOREGROUND_IOU

MIN_SCORE = 0.3  # of detections that count as such here
BACKGROUND_IOU = 0.1


def find_errors(image: dict, annotations: Sequence[dict], min_score: float = MIN_SCORE) -> dict:
    """Compares an image's detections with its annotations.

    Args:
        image (dict): from :meth:`~.detection_collector.DetectionCollector.collect`.
        annotations (Sequence[dict]): COCO's, with a ``label`` each.
        min_score (float): of detections that count. Default: 0.3.

    Returns:
        dict: ``truth`` and ``detections``, a dict for each object and each detection with
        ``label``, ``box`` (left, top, width, height), ``mask`` (as COCO stores it, or None),
        ``kind`` (an object's is detected, missed or crowd; a detection's correct, duplicate,
        classification, localization or background), ``iou``, ``severity`` (0 without an error),
        and for a detection ``score`` and ``true_label``, of the object that it has the wrong class
        for; ``false_negative`` and ``false_positive``, the highest severity of each.

        A false negative's severity is the square root of the object's share of the image, times
        1 - IoU with the closest detection of its class; a false positive's is its score.
    """
    chosen = np.flatnonzero(image["scores"] >= min_score)
    chosen = chosen[np.argsort(-image["scores"][chosen], kind="stable")]
    boxes = image["boxes"][chosen].astype(float)
    boxes[:, 2:] -= boxes[:, :2]
    labels = image["labels"][chosen]
    crowd = np.array([bool(a.get("iscrowd")) for a in annotations], dtype=bool)
    truth_boxes = np.array([a["bbox"] for a in annotations], dtype=float).reshape(-1, 4)
    truth_labels = np.array([a["label"] for a in annotations], dtype=int)
    iou: np.ndarray = np.zeros((len(boxes), len(annotations)))
    if iou.size:
        iou = np.asarray(coco_mask.iou(boxes, truth_boxes, crowd.tolist())).reshape(iou.shape)
    same_class = labels[:, None] == truth_labels[None]
    class_iou = iou * same_class

    assigned = _assign(class_iou, crowd)
    detections = []
    for i, index in enumerate(chosen):
        kind, true_label = "correct", None
        if assigned[i] is None:
            kind, true_label = _error(class_iou[i], iou[i] * ~same_class[i], truth_labels)
        score = float(image["scores"][index])
        detections.append(
            dict(
                label=int(labels[i]),
                box=boxes[i],
                mask=image["masks"][index] if image["masks"] is not None else None,
                kind=kind,
                true_label=true_label,
                iou=float(class_iou[i].max(initial=0)),
                score=score,
                severity=0.0 if kind == "correct" else score,
            )
        )
    area = image["size"][0] * image["size"][1]
    truth = []
    for j, annotation in enumerate(annotations):
        best = float(class_iou[:, j].max(initial=0))
        kind = "crowd" if crowd[j] else "detected" if j in assigned else "missed"
        share = annotation.get("area", truth_boxes[j, 2] * truth_boxes[j, 3]) / area
        mask = annotation.get("segmentation")
        has_mask = image["masks"] is not None and is_valid_mask(mask, *image["size"])
        truth.append(
            dict(
                label=annotation["label"],
                box=truth_boxes[j],
                mask=mask if has_mask else None,
                kind=kind,
                iou=best,
                severity=np.sqrt(share) * (1 - best) if kind == "missed" else 0.0,
            )
        )
    return dict(
        truth=truth,
        detections=detections,
        false_negative=_worst(truth),
        false_positive=_worst(detections),
    )


def worst_first(errors: Mapping[object, dict]) -> list:
    """The images with errors, in turns the one of the worst false negative and false positive."""
    rankings = [
        sorted((key for key in errors if errors[key][sort] > 0), key=lambda key: -errors[key][sort])
        for sort in ("false_negative", "false_positive")
    ]
    longest = max(map(len, rankings))
    turns = (ranking[i] for i in range(longest) for ranking in rankings if i < len(ranking))
    return list(dict.fromkeys(turns))


def _worst(marks: list[dict]) -> float:
    return round(float(max((mark["severity"] for mark in marks), default=0)), 4)


def _assign(class_iou: np.ndarray, crowd: np.ndarray) -> list[int | None]:
    """Each detection's object: the best that is still free; a crowd stays free."""
    free = np.ones(class_iou.shape[1], dtype=bool)
    assigned: list[int | None] = []
    for row in class_iou:
        candidates = np.where(free, row, 0)
        best = int(candidates.argmax()) if candidates.max(initial=0) >= FOREGROUND_IOU else None
        if best is not None:
            free[best] = crowd[best]
        assigned.append(best)
    return assigned


def _error(
    class_iou: np.ndarray, other_iou: np.ndarray, labels: np.ndarray
) -> tuple[str, int | None]:
    """A false positive's kind, and the label of the object that it has the wrong class for."""
    if class_iou.max(initial=0) >= FOREGROUND_IOU:
        return "duplicate", None
    if other_iou.max(initial=0) >= FOREGROUND_IOU:
        return "classification", int(labels[other_iou.argmax()])
    return ("localization" if class_iou.max(initial=0) >= BACKGROUND_IOU else "background"), None
