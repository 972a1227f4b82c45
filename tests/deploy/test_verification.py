"""What is said of a file's results beside PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
from mmengine.config import Config

from mmpvt.deploy.verification import compare, prepare, resized


def detections(*scores: float) -> dict[str, np.ndarray]:
    """Boxes far from each other."""
    corners = 20.0 * np.arange(len(scores), dtype=np.float32)[:, None]
    return dict(
        boxes=corners + np.array([0, 0, 10, 10], np.float32),
        scores=np.array(scores, np.float32),
        labels=np.zeros(len(scores), np.int64),
    )


def test_detections_that_pytorch_has_not():
    """They count as much as those that are missing."""
    deviation = compare(detections(0.9, 0.8), detections(0.9))
    assert deviation.added == 1 and not deviation.is_small
    assert "0 of 1 detections over 0.05 are missing, and 1 are added" in str(deviation)
    # PyTorch may have left it out for a score just below the limit
    assert compare(detections(0.9, 0.0501), detections(0.9)).is_small


def test_nothing_to_compare():
    deviation = compare(detections(), detections(0.01))
    assert "PyTorch finds no detection over 0.05: take" in str(deviation)
    deviation = compare(detections(0.9), detections())
    assert str(deviation) == "PyTorch finds no detection over 0.05, and the file 1"
    assert not deviation.is_small


@pytest.mark.parametrize("resizes", [0, 1, 2])
def test_an_image_of_fixed_size_stays_so(resizes: int):
    load, pack = dict(type="LoadImageFromFile"), dict(type="PackSegInputs")
    resize = dict(type="Resize", scale=(90, 60), keep_ratio=True)
    pipeline = [load, *[resize] * resizes, pack]
    data = dict(dataset=dict(pipeline=pipeline))
    config = Config(dict(default_scope="mmseg", test_dataloader=data))
    image, own = resized(config, np.zeros((30, 40, 3), np.uint8), (64, 96))
    assert prepare(own, image)["inputs"].shape == (3, 64, 96)
