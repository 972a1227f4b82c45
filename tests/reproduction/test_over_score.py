"""Precision, recall and F1 over the score, as the page draws them."""

from __future__ import annotations

import numpy as np

from mmpvt.evaluation.score_curves import ScoreCurve
from mmpvt.reproduction.detection_collector import over_score


def test_classes_without_objects_or_detections_have_no_part_in_the_mean():
    none = np.zeros(0)
    curves = [
        ScoreCurve(2, np.array([0.9, 0.4]), np.array([1.0, 0.5]), np.array([0.5, 0.5])),
        ScoreCurve(4, none, none, none),
        ScoreCurve(0, np.array([0.8]), np.array([0.0]), np.array([np.nan])),
    ]
    found = over_score(curves, ["found", "missed", "absent"])
    at = np.flatnonzero(np.isin(found["scores"], [0.3, 0.7, 0.95]))
    rows = {row["name"]: row for row in (*found["classes"], found["mean"])}
    mean = found["mean"]
    assert rows["found"]["precision"][at[:2]].tolist() == [0.5, 1]
    assert mean["precision"][at[:2]].tolist() == [0.5, 1]  # of those that have a detection
    assert mean["recall"][at].tolist() == [0.25, 0.25, 0]
    assert np.isnan(mean["precision"][at[2]])
    assert rows["found"]["best"] == dict(score=0.9, precision=1, recall=0.5, F1=2 / 3)
    assert rows["missed"]["best"] is rows["absent"]["best"] is None
    assert 0.4 < mean["best"]["score"] <= 0.9 and rows["missed"]["objects"] == 4
    nothing = over_score(curves[1:], ["missed", "absent"])
    assert nothing["mean"]["best"] is None
