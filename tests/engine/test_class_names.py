"""What a config's class names are, and what a trained model's labels mean."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from torch import nn

from mmpvt import UserError
from mmpvt.engine.class_names import (
    compare_with_checkpoint,
    head_counts,
    model_meta,
    read_class_lists,
)
from mmpvt.engine.hooks.checkpoints import CheckpointFitHook
from mmpvt.errors import CheckpointMismatchError

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


@pytest.mark.parametrize("meta", [("car", "bus"), "car"])
def test_names_without_their_key(meta: object):
    with pytest.raises(UserError, match=r"it takes a dict: write metainfo=dict\(classes=\(…\)\)"):
        read_class_lists(experiment(train=dict(type="CocoDataset", metainfo=meta)))


@pytest.mark.parametrize("number", ["2", [2], 2.0])
def test_numbers_of_classes_that_are_none(number: object):
    with pytest.raises(UserError, match=r"bbox_head has num_classes=.*: it takes an int"):
        head_counts(dict(bbox_head=dict(num_classes=number)))


@pytest.mark.parametrize(
    ("scope", "palette"),
    [
        ("mmdet", ["red", "blue"]),
        ("mmdet", [(1, 2), (3, 4)]),
        ("mmdet", {"car": (1, 2, 3)}),
        ("mmseg", [(300, 0, 0), (0, -1, 0)]),
        ("mmseg", (220, 20, 60)),
        ("mmseg", "random"),
    ],
)
def test_palettes_that_are_none(scope: str, palette: object):
    config = experiment(train=dict(type="CocoDataset", metainfo=dict(palette=palette)))
    config.default_scope = scope
    with pytest.raises(UserError, match="it takes a colour a class, three numbers from 0 to 255"):
        read_class_lists(config)


@pytest.mark.parametrize("palette", [None, "random", (220, 20, 60), [(220, 20, 60)] * 2])
def test_palettes_of_mmdetection(palette: object):
    meta = dict(classes=("car", "bus"), palette=palette)
    config = experiment(HEAD, test=dict(type="BaseDetDataset", metainfo=meta))
    read_class_lists(config)
    used = model_meta(config, {})
    assert used.get("palette") == (palette if isinstance(palette, list) else None)


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


STORED = ("star", "cross", "square", "ring", "triangle", "circle")


def trained_on(*classes: str) -> dict:
    return dict(meta=dict(dataset_meta=dict(classes=classes)))


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (STORED[::-1], "class 0 is 'star', which is the data set's class 5; its class 1 is"),
        ((*STORED[1:], "zzz"), "class 1 is 'cross', which is the data set's class 0; its class 2"),
        (STORED[1:], "class 1 is 'cross', which is the data set's class 0; its class 2"),
        (("zzz", *STORED), "class 0 is 'star', which is the data set's class 1; its class 1 is"),
        ((*STORED[:4], "zzz", "triangle"), "class 4 is 'triangle', which is the data set's class"),
    ],
)
def test_a_checkpoint_whose_classes_are_elsewhere_in_the_data(classes: tuple, said: str):
    with pytest.raises(CheckpointMismatchError, match=said):
        compare_with_checkpoint(classes, trained_on(*STORED))


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ((*STORED[:5], "zzz"), "class 5 is 'circle' in the checkpoint and 'zzz' in the data set"),
        (STORED[:5], "class 5 is 'circle' in the checkpoint and missing in the data set"),
        ((*STORED, "zzz"), "class 6 is missing in the checkpoint and 'zzz' in the data set"),
        (tuple("abcdef"), "class 2 is 'square' in the checkpoint and 'c' in the data set, 3 more"),
    ],
)
def test_a_checkpoint_of_which_no_class_is_elsewhere_in_the_data(classes: tuple, said: str):
    text = compare_with_checkpoint(classes, trained_on(*STORED))
    assert text and text.endswith(said)


def test_a_name_that_a_checkpoint_has_twice():
    """As ImageNet's lists have: which of both another list means isn't known."""
    text = compare_with_checkpoint(["bird", "x", "crane"], trained_on("crane", "x", "crane"))
    assert text and "class 0 is 'crane' in the checkpoint and 'bird'" in text


@pytest.mark.parametrize("checkpoint", [trained_on(*STORED), {}, dict(meta={})])
def test_a_checkpoint_of_the_data_sets_classes(checkpoint: dict):
    """Or without any, such as those that were published."""
    assert compare_with_checkpoint(STORED, checkpoint) is None


def test_a_model_that_compares_with_text_has_the_data_sets_labels():
    linear = nn.Linear(1, 1)
    data = dict(type="CocoDataset", metainfo=dict(classes=STORED[::-1]))

    def load(model: dict) -> None:
        config = experiment(model, test=data)
        runner = SimpleNamespace(cfg=config, model=linear, logger=logging.getLogger("mmpvt"))
        checkpoint = dict(trained_on(*STORED), state_dict=linear.state_dict())
        CheckpointFitHook().after_load_checkpoint(runner, checkpoint)

    load(dict(language_model=dict(type="BertModel")))
    with pytest.raises(CheckpointMismatchError, match="in another order"):
        load(HEAD)
