"""How the benchmark of exported files counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmark_onnx import (
    average_precision,
    category_ids,
    image_ids,
    label_map_path,
    mean_iou,
    read_label_map,
)
from PIL import Image

from mmpvt.engine.dataset_config import DatasetConfig
from mmpvt.errors import BadFileError, UserError

ADE = dict(type="ADE20KDataset")  # which ignores 0, as its class says
OWN = dict(type="BaseSegDataset", reduce_zero_label=False)
LISTED = dict(OWN, pipeline=[dict(type="LoadAnnotations", values=[0, 9])])


@pytest.mark.parametrize(
    ("fields", "labels", "found", "expected"),
    [
        (OWN, [0, 1, 2, 255], [0, 1, 1, 1], "50.00"),
        (ADE, [0, 1, 2, 255], [1, 0, 1, 1], "100.00"),  # 255 stays ignored where 0 is, too
        # the classes chosen of ADE20K's, in their order
        (dict(ADE, metainfo=dict(classes=("sky", "wall"))), [3, 1, 2, 0], [0, 1, 1, 0], "100.00"),
        (LISTED, [0, 9, 9, 255], [0, 1, 1, 1], "100.00"),
    ],
)
def test_label_maps_are_read_as_for_a_test(
    fields: dict, labels: list, found: list, expected: str, tmp_path: Path
):
    path = tmp_path / "a.png"
    Image.fromarray(np.array([labels] * 2, np.uint8)).save(path)
    read = read_label_map(path, path, (2, 4), DatasetConfig(fields, "mmseg"), 3)
    assert mean_iou([read], [dict(label_map=np.array([found] * 2, np.uint8))], 3) == expected


@pytest.mark.parametrize(
    ("labels", "sentence"), [([0, 1], "size"), ([0, 1, 2, 3], "3"), ([[1, 2, 3]] * 4, "RGB")]
)
def test_label_maps_that_no_test_takes(labels: list, sentence: str, tmp_path: Path):
    path = tmp_path / "a.png"
    Image.fromarray(np.array([labels] * 2, np.uint8)).save(path)
    with pytest.raises(BadFileError, match=sentence):
        read_label_map(path, path, (2, 4), DatasetConfig(OWN, "mmseg"), 3)


@pytest.mark.parametrize(
    ("fields", "image", "label_map"),
    [
        (dict(OWN, img_suffix="", seg_map_suffix=".png"), "a.jpg", "a.jpg.png"),  # as of --data
        (
            dict(type="CityscapesDataset"),
            "a_leftImg8bit.png",
            "a_gtFine_labelTrainIds.png",
        ),
        (ADE, "a.jpg", "a.png"),
        (ADE, "a.bmp", "a.png"),
    ],
)
def test_label_maps_are_found(fields: dict, image: str, label_map: str, tmp_path: Path):
    (tmp_path / label_map).touch()
    dataset = DatasetConfig(fields, "mmseg")
    assert label_map_path(tmp_path, Path(image), dataset) == tmp_path / label_map


def test_annotations_name_images_with_folders():
    names = ["1.jpg", "a/1.jpg", "b/a/1.jpg", "2.jpg"]
    truth = dict(images=[dict(id=i, file_name=name) for i, name in enumerate(names)])
    paths = [Path("photos") / name for name in ("1.jpg", "a/1.jpg", "b/a/1.jpg", "3.jpg")]
    assert list(image_ids(paths, truth).values()) == [0, 1, 2]


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
