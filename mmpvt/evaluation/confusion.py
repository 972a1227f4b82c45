"""Which class is taken for which: confusion matrices of detections and of label maps."""

from __future__ import annotations

import numpy as np

from mmpvt.evaluation.detection_arrays import DetectionArrays, ObjectArrays
from mmpvt.evaluation.matching import FOREGROUND_IOU, match


def detection_confusion(
    objects: ObjectArrays,
    detections: DetectionArrays,
    num_classes: int,
    score: float,
    iou: float = FOREGROUND_IOU,
) -> np.ndarray:
    """Counts the classes of objects and of the detections that lie on them.

    Each detection lies on one object at most, and each object has one at most, as
    :func:`~mmpvt.evaluation.matching.match` matches them, within classes first: the diagonal counts
    COCO's true positives, a row's sum is the number of a class's objects, a column's that of its
    detections. MMDetection's
    ``tools/analysis_tools/confusion_matrix.py`` counts each pair of a high enough IoU instead, so
    that duplicates count as correct, and an object of another class's detection as missed, too.
    Ultralytics and supervision match one with one as well, but the highest IoU first.

    Args:
        objects (ObjectArrays): of all images. Crowds don't count, nor do detections in a crowd of
            their class.
        detections (DetectionArrays): of all images.
        num_classes (int): of the data set.
        score (float): the least of a detection that counts.
        iou (float): the least intersection over union. Default: 0.5.

    Returns:
        np.ndarray: (num_classes + 1, num_classes + 1), int64: by class of the object and class of
        the detection. The last column holds false negatives, the last row false positives, where
        there is no object.
    """
    detections = detections.select(detections.scores >= score)
    matches = match(objects, detections, iou, across_classes=True)
    truth_labels = np.append(objects.labels, num_classes)[matches.objects]
    missed = objects.labels[(matches.detections < 0) & ~objects.crowd]
    counts = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    found = detections.labels[~matches.ignored]
    np.add.at(counts, (truth_labels[~matches.ignored], found), 1)
    np.add.at(counts, (missed, num_classes), 1)
    return counts


def precision_and_recall(confusion: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each class's precision and recall, as shares of 1, each (classes,).

    They are MMSegmentation's: NaN where no prediction, or no truth, is of the class.

    Args:
        confusion (np.ndarray): (classes, classes), ints, by true class and predicted class.
    """
    correct = np.diag(confusion)
    with np.errstate(invalid="ignore"):
        return correct / confusion.sum(0), correct / confusion.sum(1)
