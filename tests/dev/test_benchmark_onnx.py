"""How the benchmark of exported files counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmark_onnx import average_precision, category_ids, mean_iou
from PIL import Image

from mmpvt.errors import UserError


@pytest.mark.parametrize(("reduce_zero_label", "expected"), [(False, "50.00"), (True, "100.00")])
def test_ignored_pixels_count_for_no_class(reduce_zero_label: bool, expected: str, tmp_path: Path):
    """255 stays ignored where 0 is, too."""
    Image.fromarray(np.array([[0, 1, 2, 255]], np.uint8)).save(tmp_path / "a.png")
    found = [dict(label_map=np.array([[1, 0, 1, 1]] if reduce_zero_label else [[0, 1, 1, 1]]))]
    assert mean_iou([tmp_path / "a.png"], found, reduce_zero_label) == expected


def test_ap_of_a_model_of_other_classes_than_the_annotations_list():
    """Labels are of classes by name; categories that the model doesn't have count for nothing."""
    categories = [dict(id=i, name=name) for i, name in enumerate(("sky", "dog", "cat"), 1)]
    box = [10.0, 10.0, 50.0, 40.0]
    truth = dict(
        images=[dict(id=7, file_name="a.jpg", width=100, height=100)],
        categories=categories,
        annotations=[
            dict(id=2 - i, image_id=7, category_id=i + 1, bbox=box)  # the cat's is 0
            for i in range(3)
        ],
    )
    found = dict(
        boxes=np.array([[10, 10, 60, 50]], np.float32), scores=np.ones(1), labels=np.array([0])
    )
    ids = category_ids(truth, ["cat"])
    assert ids == [3]
    assert average_precision(truth, ids, [7], [found]) == "100.00"
    with pytest.raises(UserError, match="no category 'cow'"):
        category_ids(truth, ["cat", "cow"])
