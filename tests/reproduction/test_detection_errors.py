"""Errors of detections, on cases that can be worked out by hand, and how masks are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from mmpvt.reproduction.detection_errors import find_errors, worst_first
from mmpvt.reproduction.gallery_images import mask_polygons

SIZE = (200, 100)


def detected(*found: tuple) -> dict:
    """An image's detections: label, score, and left, top, right, bottom."""
    return dict(
        labels=np.array([one[0] for one in found], dtype=int),
        scores=np.array([one[1] for one in found], dtype=np.float32),
        boxes=np.array([one[2] for one in found], dtype=np.float32).reshape(-1, 4),
        masks=None,
        size=SIZE,
    )


def an_object(label: int, *box: float, crowd: int = 0) -> dict:
    return dict(label=label, bbox=list(box), area=box[2] * box[3], iscrowd=crowd)


def test_each_kind_of_error():
    truth = [
        an_object(0, 0, 0, 40, 40),
        an_object(1, 100, 0, 40, 40),
        an_object(2, 0, 60, 30, 30),
        an_object(0, 150, 50, 50, 50, crowd=1),
    ]
    found = detected(
        (0, 0.9, (0, 0, 40, 40)),
        (0, 0.8, (2, 0, 42, 40)),  # again
        (0, 0.7, (100, 0, 140, 40)),  # a dog
        (1, 0.6, (120, 0, 160, 40)),  # half beside it
        (2, 0.5, (60, 60, 70, 70)),
        (0, 0.45, (160, 60, 170, 70)),  # of a crowd
        (2, 0.2, (0, 60, 30, 90)),  # of too low a score
    )
    marks = find_errors(found, truth)
    assert [mark["kind"] for mark in marks["truth"]] == ["detected", "missed", "missed", "crowd"]
    assert [mark["kind"] for mark in marks["detections"]] == [
        "correct",
        "duplicate",
        "classification",
        "localization",
        "background",
        "correct",
    ]
    assert marks["detections"][2]["true_label"] == 1
    assert marks["false_positive"] == pytest.approx(0.8)
    dog, bird = (mark["severity"] for mark in marks["truth"][1:3])
    assert dog == pytest.approx((1600 / 20000) ** 0.5 * (1 - 1 / 3))
    assert bird == pytest.approx((900 / 20000) ** 0.5)
    assert marks["false_negative"] == pytest.approx(bird, abs=1e-4)


def test_no_objects_and_no_detections():
    marks = find_errors(detected(), [])
    assert marks == dict(truth=[], detections=[], false_negative=0, false_positive=0)
    assert find_errors(detected(), [an_object(0, 0, 0, 200, 100)])["false_negative"] == 1
    assert find_errors(detected((0, 0.75, (0, 0, 9, 9))), [])["false_positive"] == 0.75


def test_the_worst_by_turns():
    found = dict(
        a=dict(false_negative=0.1, false_positive=0.9),
        b=dict(false_negative=0.8, false_positive=0.0),
        c=dict(false_negative=0.5, false_positive=0.95),
        d=dict(false_negative=0.0, false_positive=0.0),
    )
    assert worst_first(found) == ["b", "c", "a"]
    assert worst_first({}) == []


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
