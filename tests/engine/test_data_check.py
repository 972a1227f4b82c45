"""Data is looked at before a run starts; segmentation's here, detection's with the tools."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict

from mmpvt import UserError
from mmpvt.datasets.shapes import generate
from mmpvt.engine.config_parts import dataset_kind, iter_datasets
from mmpvt.engine.data_check import check_data, is_coco, is_maps

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


def test_a_data_set_of_the_scope_named_without_it(root: Path):
    dataset = dict(type="CocoDataset", data_root=str(root), ann_file="none.json")
    loader = dict(dataset=dataset)
    with pytest.raises(UserError, match=r"no annotations at .*none\.json"):
        check_data(Config(dict(default_scope="mmdet", model={}, test_dataloader=loader)), ("test",))


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


def detector(root: Path, num_classes: int) -> Config:
    dataset = dict(
        type="mmpvt.ShapesDataset",
        data_root=str(root),
        ann_file=ANNOTATIONS,
        data_prefix=dict(img="train2017/"),
    )
    model = dict(roi_head=dict(bbox_head=[dict(num_classes=num_classes)]))
    loader = dict(dataset=dataset)
    return Config(dict(default_scope="mmdet", model=model, train_dataloader=loader))


def test_head_for_another_number_of_classes(root: Path):
    expected = r"bbox_head is for 80 classes, the data set has 6 \(circle, square, triangle …\)"
    with pytest.raises(UserError, match=expected):
        check_data(detector(root, num_classes=80), ("train",))
    segmenter = config(root)
    segmenter.model = dict(decode_head=dict(num_classes=150))
    with pytest.raises(UserError, match="decode_head is for 150 classes, the data set has 6"):
        check_data(segmenter, ("train",))


def test_data_sets_named_without_a_scope(root: Path):
    """As COCO's and ADE20K's configs name them."""
    coco = detector(root, num_classes=6)
    coco.train_dataloader.dataset.update(type="CocoDataset", metainfo=dict(classes=("ring",)))
    (root / "train2017" / "000000000001.jpg").unlink()
    with pytest.raises(UserError, match="1 of 2 files named in"):
        check_data(coco, ("train",))
    maps = config(root)
    maps.train_dataloader.dataset.type = "BaseSegDataset"
    (root / "annotations" / "training" / "000000000002.png").unlink()
    with pytest.raises(UserError, match="label maps are missing"):
        check_data(maps, ("train",))


@pytest.mark.parametrize(
    ("name", "scope", "coco", "maps"),
    [
        ("CocoDataset", "mmdet", True, False),
        ("mmpvt.ShapesDataset", "mmdet", True, False),
        ("LVISV1Dataset", "mmdet", False, False),
        ("CocoPanopticDataset", "mmdet", False, False),
        ("ADE20KDataset", "mmseg", False, True),
        ("mmdet.CocoDataset", "mmseg", True, False),
        ("NoSuchDataset", "mmdet", False, False),
    ],
)
def test_kinds_that_are_looked_at(name: str, scope: str, coco: bool, maps: bool):
    """Others keep their files elsewhere, and are left to their own code."""
    kind = dataset_kind(dict(type=name), scope)
    assert (is_coco(kind), is_maps(kind)) == (coco, maps)
