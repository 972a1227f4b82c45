"""Scores of label maps are MMSegmentation's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric

from mmpvt.evaluation.confusion import label_map_confusion, label_map_scores


def test_scores_are_those_of_mmsegmentation():
    rng = np.random.default_rng(0)
    truths = rng.choice([0, 1, 2, 3, 255], (4, 20, 30), p=[0.4, 0.3, 0.1, 0.1, 0.1])
    guesses = np.where(rng.random(truths.shape) < 0.7, truths % 255, rng.integers(4, size=(20, 30)))
    metric = IoUMetric(iou_metrics=["mIoU", "mFscore"])
    matrix = np.zeros((5, 5), np.int64)
    for truth, guess in zip(truths.astype(np.uint8), guesses, strict=True):
        matrix += label_map_confusion(truth, guess, 5)
        metric.results.append(
            IoUMetric.intersect_and_union(torch.tensor(guess), torch.tensor(truth), 5, 255)
        )
    columns = [sum(one) for one in zip(*metric.results, strict=True)]
    theirs = metric.total_area_to_metrics(*columns, ["mIoU", "mFscore"])
    ours = label_map_scores(matrix)
    for name, column in (("IoU", ours.iou), ("Precision", ours.precision), ("Acc", ours.recall)):
        np.testing.assert_allclose(column, theirs[name], rtol=1e-6, err_msg=name)
    assert ours.accuracy == pytest.approx(float(theirs["aAcc"]))
    assert np.isnan(ours.iou[4]) and matrix.sum() == (truths != 255).sum()


def test_rows_are_the_truth():
    truth, guess = np.array([[0, 0, 255]], np.uint8), np.array([[0, 1, 1]])
    assert label_map_confusion(truth, guess, 2).tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize(("truth", "guess"), [(2, 0), (0, 2), (-1, 0)])
def test_labels_of_no_class_are_refused(truth: int, guess: int):
    with pytest.raises(ValueError, match="of 2 classes"):
        label_map_confusion(np.array([[truth]]), np.array([[guess]]), 2)
