"""Data is looked at before a run starts; segmentation's here, detection's with the tools."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict

from mmpvt import UserError
from mmpvt.datasets.shapes import generate
from mmpvt.engine.data_check import check_data, iter_datasets

ANNOTATIONS = "annotations/instances_train2017.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return generate(tmp_path / "shapes", num_train=2, num_val=1, size=64, progress=False)


def config(root: Path, **changes) -> Config:
    dataset = dict(
        type="mmpvt.ShapesSegDataset",
        data_root=str(root),
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        **changes,
    )
    loader = dict(dataset=dataset)
    return Config(dict(default_scope="mmseg", model={}, train_dataloader=loader))


def test_whole(root: Path):
    check_data(config(root), ("train", "val"))


def test_label_map_missing(root: Path):
    (root / "annotations" / "training" / "000000000002.png").unlink()
    with pytest.raises(
        UserError, match=r"label maps are missing under .*1 of 2 .*000000000002\.png"
    ):
        check_data(config(root), ("train",))


def test_no_images(root: Path):
    for image in (root / "images" / "training").iterdir():
        image.unlink()
    with pytest.raises(UserError, match=r"no images under .*no file there ends in \.jpg"):
        check_data(config(root), ("train",))
    (root / "images" / "training").rmdir()
    with pytest.raises(UserError, match=r"no images under .*: there is no such folder"):
        check_data(config(root), ("train",))


def test_list_of_images(root: Path):
    with pytest.raises(UserError, match="no list of images at"):
        check_data(config(root, ann_file="train.txt"), ("train",))
    (root / "train.txt").write_text("000000000001\n000000000009\n")
    with pytest.raises(UserError, match=r"1 of 2 .*000000000009\.png"):
        check_data(config(root, ann_file="train.txt"), ("train",))


def test_wrapped_data_sets_are_found():
    inner = dict(type="A")
    wrapped = dict(type="Concat", datasets=[inner, dict(type="Repeat", dataset=inner)])
    assert list(iter_datasets(ConfigDict(wrapped))) == [inner, inner]


def detector(root: Path, num_classes: int = 6, with_mask: bool = True) -> Config:
    dataset = dict(
        type="mmpvt.ShapesDataset",
        data_root=str(root),
        ann_file=ANNOTATIONS,
        data_prefix=dict(img="train2017/"),
        pipeline=[dict(type="LoadAnnotations", with_bbox=True, with_mask=with_mask)],
    )
    model = dict(roi_head=dict(bbox_head=[dict(num_classes=num_classes)]))
    loader = dict(dataset=dataset)
    return Config(dict(default_scope="mmdet", model=model, train_dataloader=loader))


@pytest.mark.parametrize("mask", ["a mask", None, {"counts": "abc"}, [1.0, 2.0, 3.0]])
def test_masks_of_no_known_format(mask: object, root: Path):
    content = json.loads((root / ANNOTATIONS).read_text())
    content["annotations"][1]["segmentation"] = mask
    (root / ANNOTATIONS).write_text(json.dumps(content))
    named = content["annotations"][1]["id"]
    with pytest.raises(UserError, match=rf"1 of \d+ annotations in .*\(id {named}\) have a segm"):
        check_data(detector(root), ("train",))
    check_data(detector(root, with_mask=False), ("train",))


def test_run_length_encoded_masks(root: Path):
    content = json.loads((root / ANNOTATIONS).read_text())
    content["annotations"][0]["segmentation"] = {"counts": [0, 4096], "size": [64, 64]}
    (root / ANNOTATIONS).write_text(json.dumps(content))
    check_data(detector(root), ("train",))


def test_head_for_another_number_of_classes(root: Path):
    expected = r"bbox_head is for 80 classes, the data set has 6 \(circle, square, triangle …\)"
    with pytest.raises(UserError, match=expected):
        check_data(detector(root, num_classes=80), ("train",))
    segmenter = config(root)
    segmenter.model = dict(decode_head=dict(num_classes=150))
    with pytest.raises(UserError, match="decode_head is for 150 classes, the data set has 6"):
        check_data(segmenter, ("train",))
