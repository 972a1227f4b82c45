"""Images and label maps that can't be used are named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mmpvt import UserError
from mmpvt.datasets.loading import LoadImageFromFile, LoadSegAnnotations


@pytest.fixture
def results(tmp_path: Path) -> dict:
    paths = dict(img_path=str(tmp_path / "a.jpg"), seg_map_path=str(tmp_path / "a.png"))
    cv2.imwrite(paths["img_path"], np.zeros((20, 30, 3), np.uint8))
    write_map(paths, np.full((20, 30), 3))
    return dict(paths, reduce_zero_label=True, seg_fields=[])


def write_map(results: dict, labels: np.ndarray) -> None:
    cv2.imwrite(results["seg_map_path"], labels.astype(np.uint8))


def load(results: dict, num_classes: int | None = 150) -> dict:
    return LoadSegAnnotations(num_classes=num_classes)(LoadImageFromFile()(results))


def test_whole(results: dict):
    loaded = load(results)
    assert (loaded["gt_seg_map"] == 2).all() and loaded["gt_seg_map"].shape == (20, 30)
    write_map(results, np.zeros((20, 30)))
    assert (load(results)["gt_seg_map"] == 255).all()


def test_another_size(results: dict):
    write_map(results, np.zeros((10, 30)))
    with pytest.raises(UserError, match=r"a\.png is of another size .*a\.jpg: 10x30, not 20x30"):
        load(results)


def test_value_outside_the_classes(results: dict):
    write_map(results, np.array([[7] * 30] * 20))
    expected = r"a\.png holds the value 7, and the model's 6 classes end at 6"
    with pytest.raises(UserError, match=expected):
        load(results, num_classes=6)
    write_map(results, np.array([[6] * 30] * 20))
    assert (load(results, num_classes=6)["gt_seg_map"] == 5).all()


@pytest.mark.parametrize("content", [None, b"", b"no image"], ids=["missing", "empty", "text"])
@pytest.mark.parametrize("key", ["img_path", "seg_map_path"])
def test_unreadable(key: str, content: bytes | None, results: dict):
    path = Path(results[key])
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path.name} (can't be read as|is missing)"):
        load(results)
