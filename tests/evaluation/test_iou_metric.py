"""Pixels of label maps are counted as MMSegmentation's metric counts them, and as many as there
are."""

from __future__ import annotations

import torch
from mmseg.evaluation import IoUMetric as MMSegIoUMetric

from mmpvt.evaluation import IoUMetric


def test_counts_are_those_of_mmsegmentation():
    generator = torch.Generator().manual_seed(0)
    predicted = torch.randint(5, (40, 50), generator=generator)
    truth = torch.randint(7, (40, 50), generator=generator)  # 5 is no class
    truth[truth == 6] = 255
    for classes in (5, 150):
        counts = IoUMetric.intersect_and_union(predicted, truth, classes, 255)
        theirs = MMSegIoUMetric.intersect_and_union(predicted, truth, classes, 255)
        for ours, one in zip(counts, theirs, strict=True):
            assert ours.tolist() == one.tolist()
        floats = IoUMetric.intersect_and_union(predicted.float(), truth.float(), classes, 255)
        assert [one.tolist() for one in floats] == [one.tolist() for one in theirs]


def test_an_image_of_more_pixels_than_float32_counts():
    predicted = torch.zeros(20_000_000, dtype=torch.uint8)
    truth = predicted.clone()
    truth[:3_000_000] = 1
    counts = IoUMetric.intersect_and_union(predicted, truth, 2, 255)
    assert [one.tolist() for one in counts] == [[17e6, 0], [20e6, 3e6], [20e6, 0], [17e6, 3e6]]
