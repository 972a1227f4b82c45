"""How the benchmark of exported files counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmark_onnx import mean_iou
from PIL import Image


@pytest.mark.parametrize(("reduce_zero_label", "expected"), [(False, "50.00"), (True, "100.00")])
def test_ignored_pixels_count_for_no_class(reduce_zero_label: bool, expected: str, tmp_path: Path):
    """255 stays ignored where 0 is, too."""
    Image.fromarray(np.array([[0, 1, 2, 255]], np.uint8)).save(tmp_path / "a.png")
    found = [dict(label_map=np.array([[1, 0, 1, 1]] if reduce_zero_label else [[0, 1, 1, 1]]))]
    assert mean_iou([tmp_path / "a.png"], found, reduce_zero_label) == expected
