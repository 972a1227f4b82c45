"""Every harm that the corpus knows is found, and a whole data set has none."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

import corpus
from mmpvt.inspection import DatasetReport, compare, describe, draw, inspect_datasets
from mmpvt.inspection.figure import font_families
from mmpvt.reproduction.data_summary import summarize_data

ALIKE = {  # bad inputs by the corpus's names, and what they are found as, where it isn't the reason
    "same annotation id twice": "has another's id",
    "same image twice": "images that are listed twice",
}
NOTED = {
    "box partly outside": "reaches out of its image",
    "no annotation id": "has no id",
    "no area": "has no area",
    "NaN area": "has no area",
    "area of 0": "has no area",
    "no iscrowd": "doesn't say iscrowd",
    "crowd-only image": "images with crowds only",
    "one good polygon": "has a polygon of less than three points",
}


def detector(root: Path, masks: bool = True, classes: tuple = ("circle", "square")) -> Config:
    def loader(split: str) -> dict:
        dataset = dict(
            type="CocoDataset",
            data_root=str(root),
            ann_file=f"{split}.json",
            data_prefix=dict(img=f"{split}/"),
            metainfo=dict(classes=classes),
            pipeline=[dict(type="LoadAnnotations", with_bbox=True, with_mask=masks)],
        )
        return dict(dataset=dataset)

    head = dict(bbox_head=dict(num_classes=2))
    return Config(
        dict(
            default_scope="mmdet",
            model=dict(roi_head=head),
            **{f"{split}_dataloader": loader(split) for split in ("train", "val")},
        )
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two images to train on and two others to validate on."""
    for place, split in enumerate(("train", "val")):
        (tmp_path / split).mkdir()
        (tmp_path / f"{split}.json").write_text(json.dumps(corpus.annotations()))
        for i in (1, 2):
            pixels = np.roll(corpus.picture(), 3 * i + 7 * place, axis=1)
            (tmp_path / split / f"{i}.jpg").write_bytes(corpus.jpeg(pixels))
    return tmp_path


def inspected(root: Path, **options) -> list[DatasetReport]:
    reports = inspect_datasets(detector(root, **options), ("train", "val", "test"), workers=1)
    compare(reports)
    return reports


def said(kinds: dict[str, list[str]]) -> str:
    return "\n".join(f"{kind}: {one}" for kind, several in kinds.items() for one in several)


def test_whole(root: Path):
    train, val = inspected(root)
    assert not train.errors and not train.notes and not val.errors
    assert said(val.notes).splitlines() == [
        "ids of images that train has, too: image 1",
        "ids of images that train has, too: image 2",
    ]
    assert (train.images, train.counts.tolist(), train.empty) == (2, [2, 2], 0)
    assert train.sizes.tolist() == [16] * 4 and train.shapes.tolist() == [list(corpus.SIZE)] * 2


def test_sizes_are_of_the_areas_that_coco_evaluates_by(root: Path):
    content = corpus.annotations()
    for annotation, area in zip(content["annotations"], (9, 1024, 100, 10000), strict=True):
        annotation["area"] = area  # of a mask, which fills no box
    (root / "train.json").write_text(json.dumps(content))
    train, _ = inspected(root)
    assert sorted(train.sizes.tolist()) == [3, 10, 32, 100]
    (summary, _) = summarize_data(detector(root))
    assert summary["sizes"] == [0.5, 0.25, 0.25]


@pytest.mark.parametrize("item", corpus.IMAGES, ids=lambda item: item.name)
def test_image(item: corpus.Input, root: Path):
    (root / "train" / "1.jpg").write_bytes(item.make(corpus.picture()))
    train, _ = inspected(root)
    if item.reason:
        assert item.reason in said(train.errors)
        assert len(train.shapes) == 1 and train.images == 2
    else:
        assert not train.errors


@pytest.mark.parametrize("item", corpus.ANNOTATIONS, ids=lambda item: item.name)
def test_annotation(item: corpus.Input, root: Path):
    content = corpus.annotations()
    item.make(content)
    (root / "train.json").write_text(json.dumps(content))
    train, _ = inspected(root)
    wanted = item.reason or ALIKE.get(item.name)
    assert (wanted in said(train.errors)) if wanted else not train.errors
    assert NOTED.get(item.name, "") in said(train.notes)
    assert "train: " in describe([train])


def segmenter(root: Path) -> Config:
    dataset = dict(
        type="BaseSegDataset",
        data_root=str(root),
        data_prefix=dict(img_path="images", seg_map_path="maps"),
        metainfo=dict(classes=tuple("abcdef")),
        reduce_zero_label=True,
    )
    head = dict(decode_head=dict(num_classes=6))
    return Config(dict(default_scope="mmseg", model=head, train_dataloader=dict(dataset=dataset)))


@pytest.mark.parametrize("item", corpus.LABEL_MAPS, ids=lambda item: item.name)
def test_label_map(item: corpus.Input, tmp_path: Path):
    for name in ("images", "maps"):
        (tmp_path / name).mkdir()
    for i in (1, 2):
        pixels = np.roll(corpus.picture(), 5 * i, axis=1)
        (tmp_path / "images" / f"{i}.jpg").write_bytes(corpus.jpeg(pixels))
        (tmp_path / "maps" / f"{i}.png").write_bytes(corpus.png(corpus.labels()))
    (tmp_path / "maps" / "1.png").write_bytes(item.make(corpus.labels()))
    (train,) = inspect_datasets(segmenter(tmp_path), ("train",), workers=1)
    if item.reason:
        assert item.reason in said(train.errors)
        assert len(train.shapes) == 1
    else:
        assert not train.errors and train.counts.sum() == pytest.approx(100)


def test_files(root: Path):
    """Missing ones, and those that are there twice, within a data set and between two."""
    (root / "train" / "1.jpg").unlink()
    shutil.copy(root / "val" / "1.jpg", root / "train" / "2.jpg")
    shutil.copy(root / "val" / "1.jpg", root / "val" / "2.jpg")
    train, val = inspected(root)
    assert f"images that are missing: the image {root}/train/1.jpg is missing" in said(train.errors)
    twice = f"images that are there twice: {root}/val/2.jpg is the same as {root}/val/1.jpg"
    assert twice in said(val.errors)
    assert f"images that are in train, too: {root}/val/1.jpg is the" in said(val.errors)


def test_classes(root: Path):
    train, _ = inspected(root, classes=("circle", "star", "ring"))
    errors = said(train.errors)
    assert "classes of the config that the annotations lack: star" in errors
    assert "categories that the config has no class for: square" in said(train.notes)
    assert "bbox_head is for 2 classes, the data set has 3" in errors
    assert train.counts.tolist() == [2, 0, 0]


def test_joined_files_may_each_lack_a_class(root: Path):
    """As in training, which refuses only what none of them has."""
    renamed = (root / "train.json").read_text().replace('"square"', '"star"')
    (root / "other.json").write_text(renamed)
    config = detector(root, classes=("circle", "star"))
    one = config.train_dataloader.dataset
    datasets = [one, dict(one, ann_file="other.json")]
    config.train_dataloader.dataset = dict(type="ConcatDataset", datasets=datasets)
    first, _ = inspect_datasets(config, ("train",), workers=1)
    lacking = "classes of the config that the annotations lack: star"
    assert lacking in said(first.notes) and lacking not in said(first.errors)


def test_several_processes_see_the_same(root: Path):
    one, other = (
        inspect_datasets(detector(root), ("train",), workers=workers)[0] for workers in (1, 3)
    )
    assert one.digests == other.digests and (one.shapes == other.shapes).all()


def test_picture(root: Path, tmp_path: Path):
    reports = inspected(root)
    (tmp_path / "data.png").write_bytes(draw(reports))
    width, height = Image.open(tmp_path / "data.png").size
    assert width == 2400 and height > 1000


def test_picture_of_many_classes_with_long_names(tmp_path: Path, root: Path):
    """Without room for them, Matplotlib warns and draws names over the bars; warnings are
    errors."""
    names = tuple(f"a rather long class name, number {i}" for i in range(300))
    for file in (root / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        content["categories"] += [dict(id=1000 + i, name=name) for i, name in enumerate(names)]
        file.write_text(json.dumps(content))
    reports = inspect_datasets(detector(root, classes=("circle", "square", *names)), ("train",), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert draw(reports)


def test_names_in_a_script_that_matplotlib_lacks_take_an_installed_font():
    """Chinese, say; of the fonts that come with Matplotlib one has letters that its own lacks."""
    assert font_families("cat кошка") == ["DejaVu Sans"]
    assert font_families("cat \U0001d49c") == ["DejaVu Sans", "STIXGeneral"]  # a script A
    assert font_families("\U000e0fff") == ["DejaVu Sans"]  # of no script


def test_picture_of_nothing(root: Path, tmp_path: Path):
    for image in (root / "train").iterdir():
        image.write_bytes(b"")
    reports = inspected(root)
    (tmp_path / "data.png").write_bytes(draw(reports))
    assert (tmp_path / "data.png").stat().st_size
