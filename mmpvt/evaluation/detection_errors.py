"""False negatives and false positives, of the kinds that TIDE tells apart.

Source of the kinds: TIDE, arXiv 2008.08115, section 2. A detection takes one object at most here,
so that the kinds sum up to :func:`~mmpvt.evaluation.confusion.detection_confusion`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmpvt.evaluation.detection_arrays import DetectionArrays, ObjectArrays
from mmpvt.evaluation.matching import FOREGROUND_IOU, match

BACKGROUND_IOU = 0.1


@dataclass(frozen=True)
class DetectionErrors:
    """What objects and detections are.

    Attributes:
        detections (DetectionArrays): of the score or more.
        true_labels (np.ndarray): (detections,), of the object that a detection takes, or -1.
        detection_kinds (np.ndarray): (detections,), str: ``'correct'``; ``'ignored'``, in a crowd
            of its class; ``'classification'``, it takes an object of another class;
            ``'duplicate'``, on an object that another detection takes; ``'localization'``, of an
            IoU of 0.1 or more with an object of its class; ``'background'``.
        object_kinds (np.ndarray): (objects,), str: ``'detected'``; ``'misclassified'``, taken by a
            detection of another class; ``'missed'``; ``'crowd'``.
        detection_ious (np.ndarray): (detections,), the highest IoU with an object of its class.
        object_ious (np.ndarray): (objects,), the highest IoU with a detection of its class.
        false_positives (np.ndarray): (detections,), how bad each is: its score, or 0 if it is
            correct or ignored.
        false_negatives (np.ndarray): (objects,), how bad each is: the square root of a missed
            object's share of its image, times 1 - its IoU; 0 of others.
    """

    detections: DetectionArrays
    true_labels: np.ndarray
    detection_kinds: np.ndarray
    object_kinds: np.ndarray
    detection_ious: np.ndarray
    object_ious: np.ndarray
    false_positives: np.ndarray
    false_negatives: np.ndarray


def find_errors(
    objects: ObjectArrays, detections: DetectionArrays, score: float
) -> DetectionErrors:
    """Compares detections with the objects of their images, boxes at an IoU of 0.5.

    Args:
        objects (ObjectArrays): of all images.
        detections (DetectionArrays): of all images.
        score (float): the least of a detection that counts.
    """
    detections = detections.select(detections.scores >= score)
    matches = match(objects, detections, across_classes=True)
    is_match = matches.objects >= 0
    true_labels = np.append(objects.labels, -1)[matches.objects]
    detection_kinds = np.select(
        [
            matches.ignored,
            is_match & (true_labels == detections.labels),
            is_match,
            matches.any_ious >= FOREGROUND_IOU,
            matches.detection_ious >= BACKGROUND_IOU,
        ],
        ["ignored", "correct", "classification", "duplicate", "localization"],
        "background",
    )
    taken_as = np.append(detections.labels, -1)[matches.detections]
    object_kinds = np.select(
        [objects.crowd, matches.detections < 0, taken_as == objects.labels],
        ["crowd", "missed", "detected"],
        "misclassified",
    )
    severity = np.sqrt(objects.shares) * (1 - matches.object_ious)
    return DetectionErrors(
        detections=detections,
        true_labels=true_labels,
        detection_kinds=detection_kinds,
        object_kinds=object_kinds,
        detection_ious=matches.detection_ious,
        object_ious=matches.object_ious,
        false_positives=np.where(
            np.isin(detection_kinds, ("correct", "ignored")), 0.0, detections.scores
        ),
        false_negatives=np.where(object_kinds == "missed", severity, 0.0),
    )
