"""What is confused, and precision and recall over the score, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mmpvt.reproduction.detection_errors import find_errors
from mmpvt.reproduction.detection_summary import confusion_matrix, curves_over_score

FAR = 1000


def image(detections: list[tuple], truth: list[tuple]) -> dict:
    """Errors of boxes of 100 x 100 pixels: (left, label, score), and (left, label, is a crowd)."""
    boxes = np.array([[x, 0, x + 100, 100] for x, *_ in detections], float).reshape(-1, 4)
    found = dict(
        boxes=boxes,
        labels=np.array([label for _, label, _ in detections], int),
        scores=np.array([score for *_, score in detections], float),
        masks=None,
        size=(2000, 100),
    )
    annotations = [
        dict(bbox=[x, 0, 100, 100], label=label, iscrowd=crowd) for x, label, crowd in truth
    ]
    return find_errors(found, annotations, min_score=0.1)


IMAGE = image(
    [(0, 0, 0.9), (5, 0, 0.8), (200, 1, 0.7), (FAR, 1, 0.6), (600, 0, 0.5), (800, 0, 0.05)],
    [(0, 0, 0), (200, 0, 0), (400, 1, 0), (600, 0, 1), (800, 1, 0)],
)  # right, a duplicate, another class, background, on a crowd, below the threshold


def test_confusion_matrix():
    assert confusion_matrix([IMAGE], 2).tolist() == [[1, 1, 0], [0, 0, 2], [1, 1, 0]]
    assert confusion_matrix([], 2).tolist() == [[0] * 3] * 3
    own_first = image([(0, 0, 0.3), (0, 1, 0.9)], [(0, 0, 0)])
    assert confusion_matrix([own_first], 2).tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_curves_over_score():
    found = curves_over_score([IMAGE], ["a", "b", "c"])
    a, b, c = found["classes"]
    assert [one["objects"] for one in found["classes"]] == [2, 2, 0]
    at = [int(np.flatnonzero(np.isclose(found["scores"], score))[0]) for score in (0.1, 0.86, 0.94)]
    assert a["precision"][at][:2].tolist() == [0.5, 1] and np.isnan(a["precision"][at[2]])
    assert a["recall"][at].tolist() == [0.5, 0.5, 0]
    assert a["F1"][at].tolist() == pytest.approx([0.5, 2 / 3, 0], abs=1e-3)
    assert 0.8 < found["scores"][a["best"]] <= 0.9
    assert b["recall"].max() == 0 and b["best"] is None and np.isnan(c["recall"]).all()
    assert found["mean"]["recall"][at[0]] == 0.25  # of the classes with objects
    nothing = curves_over_score([], ["a"])
    assert nothing["mean"]["best"] is None
