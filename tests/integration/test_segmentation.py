"""A segmenter is trained and tested by the same tools."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest


def test_trained_and_tested(tmp_path: Path, shapes: Path, tiny_segmenter: Path, run_tool):
    args = ("--data-root", shapes, "--work-dir", tmp_path / "work")
    trained = run_tool("train.py", tiny_segmenter, *args)
    assert trained.code == 0, trained.out + trained.err
    assert re.search(r"mIoU: \d", trained.out)
    picture = cv2.imread(str(tmp_path / "work" / "pictures" / "iter_4.jpg"))
    assert picture is not None and picture.std() > 10

    maps = ("--out", tmp_path / "maps")
    tested = run_tool("test.py", tiny_segmenter, tmp_path / "work" / "iter_4.pth", *args, *maps)
    assert tested.code == 0, tested.out + tested.err
    assert re.search(r"mIoU: \d", tested.out)
    written = sorted((tmp_path / "maps").glob("*.png"))
    assert len(written) == 4
    labels = cv2.imread(str(written[0]), cv2.IMREAD_UNCHANGED)
    assert labels.shape == (64, 64)


@pytest.fixture
def broken(tmp_path: Path, shapes: Path) -> Path:
    root = Path(shutil.copytree(shapes, tmp_path / "broken"))
    (root / LABELS).unlink()
    return root


LABELS = "annotations/training/000000000003.png"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.zeros((30, 64)), "is of another size than its image"),
        (np.full((64, 64), 99), "holds the value 99, and the model's 6 classes end at 6"),
        (None, "1 of 8 files for"),
    ],
    ids=["size", "value", "missing"],
)
def test_label_maps_that_cannot_be_used(
    labels: np.ndarray | None,
    expected: str,
    broken: Path,
    tmp_path: Path,
    tiny_segmenter: Path,
    run_tool,
):
    if labels is not None:
        cv2.imwrite(str(broken / LABELS), labels.astype(np.uint8))
    args = ("--data-root", broken, "--work-dir", tmp_path / "work")
    sentence = run_tool("train.py", tiny_segmenter, *args).one_sentence()
    assert expected in sentence and "000000000003.png" in sentence
