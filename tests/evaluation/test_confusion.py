"""Precision and recall of label maps are MMSegmentation's."""

from __future__ import annotations

import numpy as np
import torch
from mmseg.evaluation import IoUMetric

from mmpvt.evaluation.confusion import precision_and_recall


def test_they_are_those_of_mmsegmentation():
    rng = np.random.default_rng(0)
    truths = rng.choice([0, 1, 2, 3, 255], (4, 20, 30), p=[0.4, 0.3, 0.1, 0.1, 0.1])
    guesses = np.where(rng.random(truths.shape) < 0.7, truths % 255, rng.integers(4, size=(20, 30)))
    metric = IoUMetric(iou_metrics=["mIoU", "mFscore"])
    matrix = np.zeros((5, 5), np.int64)
    for truth, guess in zip(truths.astype(np.uint8), guesses, strict=True):
        np.add.at(matrix, (truth[truth != 255], guess[truth != 255]), 1)
        metric.results.append(
            IoUMetric.intersect_and_union(torch.tensor(guess), torch.tensor(truth), 5, 255)
        )
    columns = [sum(one) for one in zip(*metric.results, strict=True)]
    theirs = metric.total_area_to_metrics(*columns, ["mIoU", "mFscore"])
    precision, recall = precision_and_recall(matrix)
    for name, column in (("Precision", precision), ("Acc", recall)):
        np.testing.assert_allclose(column, theirs[name], rtol=1e-6, err_msg=name)
    assert np.isnan(recall[4])
