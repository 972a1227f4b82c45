"""Data is checked before a run starts: segmentation here, detection with the tools."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from unittest import mock

import pytest
from mmengine.config import Config, ConfigDict

from mmpvt import UserError
from mmpvt.datasets.loading import LoadImageFromFile
from mmpvt.datasets.shapes import generate
from mmpvt.engine.checks.data import check_data, keep_inside
from mmpvt.engine.cli import as_flag
from mmpvt.engine.config_parts import iter_datasets
from mmpvt.engine.dataset_config import DatasetConfig
from mmpvt.engine.pipeline import TestPipeline
from mmpvt.errors import ConfigError, DatasetError

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


@pytest.mark.parametrize(
    "sampler", [dict(type="InfiniteSampler"), dict(type="mmdet.MultiSourceSampler", batch_size=2)]
)
def test_samplers_without_an_end(sampler: dict, root: Path):
    endless = config(root)
    loader = endless.train_dataloader
    endless.update(train_cfg=dict(max_iters=4), val_dataloader=dict(dataset=loader.dataset))
    loader.sampler = sampler
    check_data(endless, ("train", "val"))
    endless.train_cfg = dict(max_epochs=1)
    with pytest.raises(UserError, match=r"has no end, and train_cfg counts epochs: .*shuffle=True"):
        check_data(endless, ("train",))
    endless.val_dataloader.sampler = sampler
    with pytest.raises(UserError, match="has no end, and a score takes each image once"):
        check_data(endless, ("val",))


@pytest.mark.parametrize(
    ("without", "wraps", "said"),
    [
        ("LoadImageFromFile", False, "no LoadImageFromFile: it is LoadAnnotations, PackSegInputs"),
        ("LoadAnnotations", False, "the train_dataloader's pipeline has no LoadAnnotations"),
        ("PackSegInputs", False, r"no PackSegInputs: .*add dict\(type='mmseg.PackSegInputs'\)"),
        ("PackSegInputs", True, "no PackSegInputs"),
        ("", True, None),
    ],
)
def test_pipelines_that_lack_a_transform(without: str, wraps: bool, said: str, root: Path):
    """A wrapper's transforms count; with transforms of others, nothing is known."""
    names = ("LoadImageFromFile", "LoadAnnotations", "PackSegInputs")
    steps = [dict(type=name) for name in names if name != without]
    lacking = config(root, pipeline=steps[:2] if wraps else steps)
    if wraps:
        wrapper = dict(type="mmdet.MultiImageMixDataset", pipeline=steps[2:])
        lacking.train_dataloader.dataset = dict(wrapper, dataset=lacking.train_dataloader.dataset)
    if said is None:
        check_data(lacking, ("train",))
        return
    with pytest.raises(ConfigError, match=said):
        check_data(lacking, ("train",))
    lacking.train_dataloader.dataset.pipeline.append(dict(type="NobodysTransform"))
    check_data(lacking, ("train",))


def test_an_empty_pipeline(root: Path):
    with pytest.raises(ConfigError, match="no LoadImageFromFile: it is empty"):
        check_data(config(root, pipeline=[]), ("train",))


def test_scores_need_the_truth(root: Path):
    """A segmenter's metric reads it from what the pipeline loads."""
    names = ("LoadImageFromFile", "PackSegInputs")
    tested = config(root, pipeline=[dict(type=name) for name in names])
    tested.test_dataloader = tested.pop("train_dataloader")
    tested.test_evaluator = dict(type="IoUMetric", format_only=True, output_dir="maps")
    check_data(tested, ("test",))
    tested.test_evaluator = [dict(type="mmseg.IoUMetric")]
    with pytest.raises(ConfigError, match="the test_dataloader's pipeline has no LoadAnnotations"):
        check_data(tested, ("test",))


def test_tests_move_no_objects(root: Path):
    names = ("LoadImageFromFile", "LoadAnnotations", "RandomFlip", "PackSegInputs")
    moving = config(root, pipeline=[dict(type=name) for name in names])
    flip = moving.train_dataloader.dataset.pipeline[2]
    flip.prob = [0.3, 0.2]
    moving.test_dataloader = moving.train_dataloader
    moving.test_evaluator = dict(type="IoUMetric")
    said = "test_dataloader's pipeline has RandomFlip, which moves objects, and predictions aren't"
    check_data(moving, ("train",))
    with pytest.raises(ConfigError, match=said):
        check_data(moving, ("test",))
    with pytest.raises(ConfigError, match="the config's test pipeline has RandomFlip"):
        TestPipeline(moving)
    flip.prob = 0.0
    check_data(moving, ("test",))
    TestPipeline(moving)


def test_label_maps_without_a_folder(root: Path):
    names = ("LoadImageFromFile", "LoadAnnotations", "PackSegInputs")
    lacking = config(root, pipeline=[dict(type=name) for name in names])
    del lacking.train_dataloader.dataset.data_prefix["seg_map_path"]
    with pytest.raises(ConfigError, match="train_dataloader's data_prefix has no seg_map_path"):
        check_data(lacking, ("train",))


@pytest.mark.parametrize(
    ("evaluator", "said"),
    [
        (dict(type="Accuracy", topk=(1, 9)), "test_evaluator scores the 9 likeliest classes"),
        (dict(type="mmpretrain.Accuracy", topk=7), "and the model has 6"),
        (dict(type="mmpretrain.Accuracy", topk=(1, 6)), None),
        (dict(type="mmseg.IoUMetric", iou_metrics=["IoU", "mIoU"]), "iou_metrics with IoU, and"),
        (dict(type="IoUMetric", iou_metrics="mIoU"), None),
        (dict(type="IoUMetric", ignore_index=[0, 255]), "IoUMetric ignores one label"),
        (dict(type="IoUMetric", format_only=True), "format_only=True, and no output_dir"),
    ],
)
def test_metrics_that_would_end_in_an_error(evaluator: dict, said: str | None, root: Path):
    tested = config(root)
    tested.test_dataloader = tested.pop("train_dataloader")
    tested.model = dict(type="ImageClassifier", head=dict(num_classes=6))
    tested.test_evaluator = [evaluator]
    if said is None:
        check_data(tested, ("test",))
    else:
        with pytest.raises(ConfigError, match=re.escape(said)):
            check_data(tested, ("test",))


def test_indices_beyond_the_data(root: Path):
    with pytest.raises(ConfigError, match=r"train_dataloader.* has indices with 2, and 2 images:"):
        check_data(config(root, indices=[0, -2, 2]), ("train",))
    inherited = dict(_scope_="mmseg")  # as MMEngine notes in data sets of mmseg::…
    pipeline = [dict(type=t) for t in ("LoadImageFromFile", "LoadAnnotations", "PackSegInputs")]
    check_data(config(root, indices=[0, -2], pipeline=pipeline, **inherited), ("train",))


def test_indices_beyond_what_the_filter_leaves(root: Path):
    content = json.loads((root / ANNOTATIONS).read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 1]
    (root / ANNOTATIONS).write_text(json.dumps(content))
    dataset = dict(type="mmpvt.ShapesDataset", data_root=str(root), ann_file=ANNOTATIONS)
    dataset.update(data_prefix=dict(img="train2017/"), indices=[0, 1])
    loader = dict(dataset=dataset)
    check_data(Config(dict(default_scope="mmdet", model={}, train_dataloader=loader)), ("train",))
    dataset["filter_cfg"] = dict(filter_empty_gt=True)
    tried = Config(dict(default_scope="mmdet", model={}, train_dataloader=loader))
    with pytest.raises(ConfigError, match=r"has indices with 1, and 1 image: .* filter_cfg skips"):
        check_data(tried, ("train",))


@pytest.mark.parametrize("indices", [0, [], ["a"], "all"])
def test_indices_that_leave_no_image(indices: object, root: Path):
    with pytest.raises(ConfigError, match=r"train_dataloader.* has indices=.* no image"):
        check_data(config(root, indices=indices), ("train",))
    for good in (1, -1, [1, 0], range(1), None):
        check_data(config(root, indices=good), ("train",))


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
    dataset = DatasetConfig(dict(type=name), scope)
    assert (dataset.is_coco, dataset.is_segmentation) == (coco, maps)


VOC = """<!DOCTYPE a [{entities}]><annotation><size><width>9</width><height>9</height></size>
<object><name>{name}</name><bndbox><xmin>{number}</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax>
</bndbox></object></annotation>"""
LAUGHS = '<!ENTITY l0 "ha">' + "".join(
    f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (VOC.format(entities="", name="cat", number="1.5"), None),
        (VOC.format(entities=LAUGHS, name="&l9;", number=1), r"a\.xml is no XML"),
        (
            VOC.format(entities='<!ENTITY x SYSTEM "/etc/passwd">', name="&x;", number=1),
            r"a\.xml is no XML",
        ),
        (VOC.format(entities="", name="cat", number="9" * 400), r"a box's xmin is 9"),
        (VOC.format(entities="", name="cat", number="nan"), "a box's xmin is nan"),
        (VOC.format(entities="", name="cat", number="one"), "could not convert"),
        ("<annotation><object/></annotation>", "an object has no name"),
        ("<a>" * 100_000 + "</a>" * 100_000, "nothing to train on"),
        (None, r"a\.xml is not a regular file, but a pipe"),
    ],
    ids=["good", "laughs", "entity", "huge", "nan", "words", "no name", "deep", "pipe"],
)
def test_voc_annotations(content: str | None, expected: str | None, tmp_path: Path):
    for folder in ("JPEGImages", "Annotations"):
        (tmp_path / folder).mkdir()
    (tmp_path / "JPEGImages" / "a.jpg").touch()
    if content is None:
        os.mkfifo(tmp_path / "Annotations" / "a.xml")
    else:
        (tmp_path / "Annotations" / "a.xml").write_text(content)
    (tmp_path / "train.txt").write_text("a\n")
    assert expected_of(voc(tmp_path), expected)


@pytest.mark.parametrize("name", ["/dev/zero", "../../a"])
def test_names_outside_of_the_data(name: str, root: Path):
    (root / "train.txt").write_text(f"000000000001\n{name}\n")
    expected = r"names 1 files outside of the data's folder .*allow_outside_files=True"
    for checked in (config(root, ann_file="train.txt"), voc(root)):
        assert expected_of(checked, expected)
        checked.allow_outside_files = True
        assert expected_of(checked, "are missing|can't be used")


def test_errors_have_types_and_fields(root: Path):
    """From Python, a setting is an argument; the command lines alone name flags."""
    checked = config(root)
    checked.train_dataloader.dataset.data_root = str(root / "none")
    with pytest.raises(DatasetError, match=r"no such folder: .*, or pass data_root$") as caught:
        check_data(checked, ("train",))
    assert caught.value.instead == ("data_root", None) and "docs/data.md" in caught.value.hint
    with mock.patch.object(UserError, "name_setting", staticmethod(as_flag)):
        assert str(caught.value).endswith("or pass --data-root")
    with pytest.raises(ConfigError, match="bbox_head is for 80 classes"):
        check_data(detector(root, num_classes=80), ("train",))


def test_list_that_is_no_text(root: Path):
    (root / "train.txt").write_bytes(b"\xff\xfe")
    assert expected_of(config(root, ann_file="train.txt"), "is no text in UTF-8")
    (root / "train.json").write_text("{}")
    assert expected_of(config(root, ann_file="train.json"), "this data set reads a list")


def test_loading_transforms_keep_to_the_data(root: Path):
    outside = root.parent / "secret.jpg"
    outside.touch()
    checked = voc(root)
    keep_inside(checked)
    step, *_ = checked.train_dataloader.dataset.pipeline
    assert {Path(folder) for folder in step.folders} == {root}
    loader = LoadImageFromFile(**{key: step[key] for key in step if key != "type"})
    with pytest.raises(UserError, match="lies outside of the data's folder"):  # a video's frame
        loader.transform(dict(img_path=str(outside), video_id=0))
    for path in (outside, root / ".." / "secret.jpg", "/dev/zero"):
        with pytest.raises(UserError, match="lies outside of the data's folder"):
            loader.transform(dict(img_path=str(path), sample_idx=0))
    inside = root / "images" / "training" / "000000000001.jpg"
    assert loader.transform(dict(img_path=str(inside), sample_idx=0))["img"].shape == (64, 64, 3)
    checked.allow_outside_files = True
    keep_inside(checked)
    assert checked.train_dataloader.dataset.pipeline[0].folders is None


def voc(root: Path) -> Config:
    dataset = dict(
        type="VOCDataset",
        data_root=str(root),
        ann_file="train.txt",
        data_prefix=dict(sub_data_root=""),
        metainfo=dict(classes=("cat",)),
        pipeline=[
            dict(type=name)
            for name in ("mmpvt.LoadImageFromFile", "LoadAnnotations", "PackDetInputs")
        ],
    )
    loader = dict(dataset=dataset)
    return Config(dict(default_scope="mmdet", model={}, train_dataloader=loader))


def expected_of(checked: Config, expected: str | None) -> bool:
    """Whether a config's data is refused in the words that are expected."""
    try:
        check_data(checked, ("train",))
    except UserError as error:
        return expected is not None and re.search(expected, str(error)) is not None
    return expected is None
