"""Which class is taken for which: confusion matrices of detections and of label maps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmpvt.evaluation.detection_arrays import DetectionArrays, ObjectArrays
from mmpvt.evaluation.matching import FOREGROUND_IOU, match
from mmpvt.utils.constants import IGNORE_LABEL


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
    return _count(
        np.append(truth_labels[~matches.ignored], missed),
        np.append(detections.labels[~matches.ignored], np.full(len(missed), num_classes)),
        num_classes + 1,
    )


def label_map_confusion(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts an image's pixels by their classes. The sum over images is a data set's.

    Args:
        truth (np.ndarray): (height, width), ints; pixels of 255 are ignored.
        predicted (np.ndarray): (height, width), ints.
        num_classes (int): of the data set.

    Returns:
        np.ndarray: (num_classes, num_classes), int64: by true class and predicted class.

    Raises:
        ValueError: a label that is no class's.
    """
    counted = truth != IGNORE_LABEL
    return _count(truth[counted], predicted[counted], num_classes)


def _count(rows: np.ndarray, columns: np.ndarray, size: int) -> np.ndarray:
    for labels in (rows, columns):
        if labels.size and not 0 <= labels.min() <= labels.max() < size:
            raise ValueError(f"labels from {labels.min()} to {labels.max()}, of {size} classes")
    codes = rows.astype(np.int64) * size + columns
    return np.bincount(codes, minlength=size * size).reshape(size, size)


@dataclass(frozen=True)
class LabelMapScores:
    """Scores of label maps, as shares of 1, as MMSegmentation defines them.

    Attributes:
        iou (np.ndarray): (classes,), NaN where neither truth nor prediction has the class.
        precision (np.ndarray): (classes,), NaN where the prediction doesn't have it.
        recall (np.ndarray): (classes,), MMSegmentation's ``Acc``, NaN where the truth doesn't.
        accuracy (float): the share of all pixels that are right, MMSegmentation's ``aAcc``.
    """

    iou: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    accuracy: float


def label_map_scores(confusion: np.ndarray) -> LabelMapScores:
    """Each class's scores.

    Args:
        confusion (np.ndarray): (classes, classes), of :func:`label_map_confusion`, the sum over
            all images.
    """
    correct, truth, predicted = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    with np.errstate(invalid="ignore"):
        return LabelMapScores(
            iou=correct / (truth + predicted - correct),
            precision=correct / predicted,
            recall=correct / truth,
            accuracy=float(correct.sum() / confusion.sum()),
        )
