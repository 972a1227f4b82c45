"""What a config's class names are, and what a trained model's labels mean."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from mmengine.config import Config

from mmpvt import UserError
from mmpvt.engine.class_names import compare_with_checkpoint, model_meta, read_class_lists

HEAD = dict(bbox_head=dict(num_classes=2))


def experiment(model: dict | None = None, **datasets) -> Config:
    loaders = {f"{split}_dataloader": dict(dataset=one) for split, one in datasets.items()}
    return Config(dict(default_scope="mmdet", model=model or {}, **loaders))


def classes_read(classes: object) -> tuple:
    config = experiment(train=dict(type="CocoDataset", metainfo=dict(classes=classes)))
    read_class_lists(config)
    return config.train_dataloader.dataset.metainfo.classes


def test_classes_as_a_string(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    assert classes_read("car") == ("car",)
    assert "taken as one class" in caplog.text
    file = tmp_path / "names.txt"
    file.write_text("\ufeffcar\r\n\nbus stop \n", encoding="utf-8")
    assert classes_read(str(file)) == ("car", "bus stop")
    file.write_text("\n")
    with pytest.raises(UserError, match=r"names\.txt .* is empty"):
        classes_read(str(file))
    with pytest.raises(UserError, match=r"other\.txt: there is no such file"):
        classes_read("other.txt")
    assert classes_read(["car", "bus"]) == ("car", "bus")


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (("car", "bus", "car"), "names car more than once"),
        ((1, 2), "takes a tuple of names"),
        ({"car": 0}, "takes a tuple of names"),
    ],
)
def test_classes_that_are_none(classes: object, expected: str):
    with pytest.raises(UserError, match=expected):
        classes_read(classes)


@pytest.mark.parametrize("where", [dict(classes=("car",)), dict(metainfo=dict(CLASSES=("car",)))])
def test_classes_where_they_are_not_read(where: dict):
    with pytest.raises(UserError, match=r"belong in metainfo=dict\(classes=\(…\)\)"):
        read_class_lists(experiment(train=dict(type="CocoDataset", **where)))


@pytest.mark.parametrize(
    ("stored", "test", "train", "chosen", "said"),
    [
        (("a", "b"), ("c", "d"), ("c", "d"), ("a", "b"), ""),
        (("a", "b"), ("c",) * 3, ("a", "b"), ("a", "b"), "the config's test data set has 3"),
        (None, ("c", "d"), ("e", "f"), ("c", "d"), ""),
        (None, ("c",) * 3, ("e", "f"), ("e", "f"), "the config's test data set has 3 (c, c, c)"),
        (("a",), ("c", "d"), ("c", "d"), ("c", "d"), "the checkpoint has 1 (a)"),
        (("a",), ("c",) * 3, None, ("a",), "the model's heads are for 2"),
    ],
)
def test_who_names_classes(
    stored, test, train, chosen: tuple, said: str, caplog: pytest.LogCaptureFixture
):
    """The checkpoint, then the config's own data; what has the heads' number before the others."""
    given = {split: names for split, names in (("test", test), ("train", train)) if names}
    datasets = {
        split: dict(type="CocoDataset", metainfo=dict(classes=names))
        for split, names in given.items()
    }
    meta = {} if stored is None else dict(dataset_meta=dict(classes=stored))
    caplog.set_level(logging.WARNING)
    assert model_meta(experiment(HEAD, **datasets), dict(meta=meta))["classes"] == chosen
    assert said in caplog.text and bool(said) == bool(caplog.text)


def test_a_checkpoint_of_mmdetection_2():
    assert model_meta(experiment(HEAD), dict(meta=dict(CLASSES=("a", "b"))))["classes"] == (
        "a",
        "b",
    )


@pytest.mark.parametrize(
    "meta", [None, 3, dict(dataset_meta=[1]), dict(dataset_meta=dict(classes=5))]
)
def test_a_checkpoint_whose_names_are_none(meta: object):
    assert model_meta(experiment(HEAD), dict(meta=meta)) == {}


def test_a_checkpoint_of_the_same_classes_in_another_order():
    checkpoint = dict(meta=dict(dataset_meta=dict(classes=("a", "b", "c"))))
    assert compare_with_checkpoint(["a", "b", "c"], checkpoint) is None
    assert "trained on 3 classes (a, b, c)" in compare_with_checkpoint(["a", "b"], checkpoint)
    with pytest.raises(UserError, match="its class 0 is 'a', the config's is 'c'"):
        compare_with_checkpoint(["c", "b", "a"], checkpoint)
