"""Precision, recall and F1 over the score that a detection must have, by class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mmpvt.evaluation.detection_arrays import DetectionArrays, ObjectArrays
from mmpvt.evaluation.matching import Matches


class OperatingPoint(NamedTuple):
    """What a class's detections of a score or more are worth."""

    score: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ScoreCurve:
    """A class's precision and recall at every score that one of its detections has.

    Attributes:
        objects (int): of the class, without crowds.
        scores (np.ndarray): (points,), the least score of a detection that counts, falling.
        precision (np.ndarray): (points,), from 0 to 1.
        recall (np.ndarray): (points,), from 0 to 1, rising; NaN without objects.
    """

    objects: int
    scores: np.ndarray
    precision: np.ndarray
    recall: np.ndarray

    @property
    def f1(self) -> np.ndarray:
        """(points,), the harmonic mean of precision and recall; NaN without objects."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / np.where(total == 0, 1, total)

    @property
    def best(self) -> OperatingPoint | None:
        """Where F1 is highest, at the highest such score; None without objects or detections."""
        if not self.objects or not len(self.scores):
            return None
        i = int(self.f1.argmax())
        columns = (self.scores, self.precision, self.recall, self.f1)
        return OperatingPoint(*(float(column[i]) for column in columns))

    def at(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Precision, recall and F1 of the detections that have these scores or more.

        Args:
            scores (np.ndarray): (n,), any.

        Returns:
            tuple[np.ndarray, np.ndarray, np.ndarray]: (n,) each. Without a detection, precision is
            NaN, and recall and F1 are 0; without objects, recall and F1 are NaN.
        """
        counted = np.searchsorted(-self.scores, -np.asarray(scores, float), side="right")
        none = 0.0 if self.objects else np.nan
        precision, recall, f1 = (
            np.append(first, column)[counted]
            for first, column in ((np.nan, self.precision), (none, self.recall), (none, self.f1))
        )
        return precision, recall, f1


def score_curves(
    objects: ObjectArrays, detections: DetectionArrays, matches: Matches, num_classes: int
) -> list[ScoreCurve]:
    """Each class's precision and recall over the score.

    Args:
        objects (ObjectArrays): of all images.
        detections (DetectionArrays): of all images, of any score.
        matches (Matches): of these, within classes. Detections in crowds don't count.
        num_classes (int): of the data set.

    Returns:
        list[ScoreCurve]: by label.
    """
    counted = np.flatnonzero(~matches.ignored)
    counted = counted[np.lexsort((-detections.scores[counted], detections.labels[counted]))]
    ends = np.searchsorted(detections.labels[counted], np.arange(1, num_classes))
    totals = np.bincount(objects.labels[~objects.crowd], minlength=num_classes)
    curves = []
    for indices, total in zip(np.split(counted, ends), totals.tolist(), strict=True):
        scores = detections.scores[indices]
        positives = np.cumsum(matches.objects[indices] >= 0)
        last = np.flatnonzero(scores > np.append(scores[1:], -np.inf))  # of those of one score
        positives = positives[last]
        recall = positives / total if total else np.full(len(last), np.nan)
        curves.append(ScoreCurve(total, scores[last], positives / (last + 1), recall))
    return curves
