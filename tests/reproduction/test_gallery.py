"""Which images a gallery shows, and how masks are drawn."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from mmpvt.reproduction.detection_collector import worst_first
from mmpvt.reproduction.gallery_images import mask_polygons

SIZE = (200, 100)


def test_the_worst_by_turns():
    objects = SimpleNamespace(images=np.array([1, 0, 2, 1]))
    errors = SimpleNamespace(
        detections=SimpleNamespace(images=np.array([0, 2, 2])),
        false_negatives=np.array([0.8, 0.1, 0.5, 0.9]),
        false_positives=np.array([0.9, 0.95, 0.0]),
    )
    assert worst_first(objects, errors, 4) == [1, 2, 0]
    none = SimpleNamespace(images=np.zeros(0, int))
    errors = SimpleNamespace(
        detections=none, false_negatives=np.zeros(0), false_positives=np.zeros(0)
    )
    assert worst_first(none, errors, 2) == []


@pytest.mark.parametrize("encoded", [False, True])
def test_mask_polygons(encoded: bool):
    polygon = [[20.0, 10.0, 120.0, 10.0, 120.0, 60.0, 20.0, 60.0]]
    if encoded:
        counts = [20 * 100]
        for _ in range(100):
            counts[-1] += 10
            counts += [50, 40]
        counts[-1] += 80 * 100
        polygon = dict(counts=counts, size=[100, 200])
    (corners,) = mask_polygons(polygon, SIZE, scale=0.5)
    x, y = corners[::2], corners[1::2]
    assert (min(x), min(y), max(x), max(y)) == pytest.approx((10, 5, 59, 29), abs=1)
