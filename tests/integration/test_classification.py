"""Classifiers through the tools: training, resuming, one's own images, mistakes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import load

import mmpvt
from helpers import ROOT, Ended, assert_equal, save_untrained
from mmpvt.datasets.shapes import generate

pytest.importorskip("mmpretrain")

ARCH = (
    "dict(_delete_=True, embed_dims=(8, 16, 20, 32), depths=(1, 1, 1, 1), mlp_ratios=(2, 2, 2, 2))"
)
TINY = """
_base_ = "{root}/configs/pvt_v2_b0_8xb128_in1k.py"
model = dict(
    backbone=dict(arch={arch}, drop_path_rate=0.3), head=dict(in_channels=32, num_classes=6)
)
data_preprocessor = dict(num_classes=6)
_base_.train_pipeline[1].scale = 32
_base_.test_pipeline[1].scale = 40
_base_.test_pipeline[2].crop_size = 32
_data = dict(
    _delete_=True,
    type="CustomDataset",
    metainfo=dict(classes=("circle", "cross", "ring", "square", "star", "triangle")),
)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(**_data, data_root="x", data_prefix="train", pipeline=_base_.train_pipeline),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(**_data, data_root="x", data_prefix="val", pipeline=_base_.test_pipeline),
)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(by_epoch=False, interval=1))
"""
DETECTOR = """
_base_ = "{root}/configs/retinanet_pvt_v2_b0_fpn_shapes.py"
model = dict(backbone=dict(arch={arch}), neck=dict(in_channels=[8, 16, 20, 32]))
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 images to train on and 12 to validate on, of six classes, in a folder each."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    return generate(root, num_train=24, num_val=12, size=48, classification=True, progress=False)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with the published recipe, made small."""
    path = tmp_path_factory.mktemp("configs") / "tiny_classifier.py"
    path.write_text(TINY.format(root=ROOT, arch=ARCH))
    return path


@pytest.fixture
def train(tiny: Path, images: Path, call_tool: Callable[..., Ended]) -> Callable[..., Ended]:
    """Trains it on the shapes."""
    return lambda *options: call_tool("train.py", tiny, "--data-root", images, *options)


def test_a_classifier_through_the_tools(train, tiny: Path, images: Path, tmp_path: Path, call_tool):
    """Resumed in the middle of an epoch, with mixed images, repeated augmentation and random
    erasing, a run ends with the weights of one that was never stopped, and computed no loss on the
    validation data."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert train("--work-dir", first, "--seed", 3).code == 0
    options = ("--work-dir", second, "--resume", first / "iter_2.pth", "--val-loss")
    ended = train(*options)
    assert ended.code == 0 and "val/loss: " in ended.out + ended.err
    ours, theirs = (
        mmpvt.checkpoint.load_checkpoint((folder / "last_checkpoint").read_text())
        for folder in (first, second)
    )
    assert ours["meta"]["iter"] == 6
    for key in ("state_dict", "optimizer", "param_schedulers"):
        assert_equal(ours[key], theirs[key])
    (log,) = first.glob("*/vis_data/scalars.json")
    (score,) = [json.loads(line)["accuracy/top1"] for line in log.open() if "top1" in line]

    checkpoint = Path((first / "last_checkpoint").read_text())
    options = ("--data-root", images, "--work-dir", tmp_path / "test")
    ended = call_tool("test.py", tiny, checkpoint, *options, "--tta")
    assert ended.code == 0 and "accuracy/top1: " in ended.out + ended.err
    ended = call_tool("test.py", tiny, checkpoint, *options, "--out", tmp_path / "results.pkl")
    assert f"accuracy/top1: {score:.4f}" in ended.out + ended.err
    results = load(tmp_path / "results.pkl")
    assert len(results) == 12 and results[0]["pred_score"].shape == (6,)
    in_bfloat16 = ("--out", tmp_path / "bfloat16.pkl", "--amp", "bfloat16")
    assert call_tool("test.py", tiny, checkpoint, *options, *in_bfloat16).code == 0
    for found, wanted in zip(load(in_bfloat16[1]), results, strict=True):
        assert found["pred_score"].dtype == torch.float32
        torch.testing.assert_close(found["pred_score"], wanted["pred_score"], rtol=0, atol=0.02)

    out = tmp_path / "predicted"
    ended = call_tool("predict.py", tiny, checkpoint, images / "val" / "ring", "--out", out)
    assert ended.code == 0, ended.err
    entries = json.loads((out / "predictions.json").read_text())
    names = ["circle", "cross", "ring", "square", "star", "triangle"]
    assert len(entries) == 2 and entries[0]["class"] in names
    assert entries[0]["score"] == pytest.approx(max(entries[0]["scores"].values()))

    pytest.importorskip("onnxruntime")
    file = tmp_path / "model.onnx"
    ended = call_tool("export.py", tiny, checkpoint, "--out", file)
    assert ended.code == 0, ended.err
    assert "the same class has the highest score" in ended.out
    ended = call_tool("run_onnx.py", file, images / "val" / "ring", "--out", tmp_path / "onnx")
    assert ended.code == 0, ended.err
    exported = json.loads((tmp_path / "onnx" / "predictions.json").read_text())
    assert [one["class"] for one in exported] == [one["class"] for one in entries]
    for one, other in zip(exported, entries, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)

    detector = tmp_path / "detector.py"
    detector.write_text(DETECTOR.format(root=ROOT, arch=ARCH))
    config = Config.fromfile(detector)
    from mmpvt.engine.initial_weights import set_pretrained

    set_pretrained(config, str(checkpoint))
    backbone = mmpvt.models.PyramidVisionTransformerV2(
        **{k: v for k, v in config.model.backbone.items() if k != "type"}
    )
    backbone.init_weights()
    trained = ours["state_dict"]
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, trained[f"backbone.{name}"])


def test_own_images(tiny: Path, images: Path, tmp_path: Path, call_tool):
    data = tmp_path / "pets"
    for split in ("train", "val"):
        for ours, theirs in (("ring", "doughnut"), ("star", "starfish"), ("cross", "plus")):
            shutil.copytree(images / split / ours, data / split / theirs)
    work_dir = tmp_path / "work"
    options = ("--epochs", 1, "--work-dir", work_dir, "--seed", 0)
    ended = call_tool("train.py", tiny, "--data", data, *options)
    assert ended.code == 0, ended.out + ended.err
    assert "images in a folder a class, 18 images, 3 classes" in ended.out
    config = Config.fromfile(work_dir / "tiny_classifier.py")
    assert config.model.head.num_classes == config.data_preprocessor.num_classes == 3
    assert config.train_dataloader.dataset.metainfo.classes == ("doughnut", "plus", "starfish")
    assert (work_dir / "report" / "index.html").is_file()


def test_a_saved_classifier(tiny: Path, images: Path, tmp_path: Path, call_tool):
    """It predicts as it did; training on others of its classes takes these by their names."""
    file = save_untrained(tiny, tmp_path / "untrained.pth")
    model = mmpvt.load_model(tiny, file, device="cpu")
    folder = model.save_pretrained(tmp_path / "saved")
    assert "pipeline_tag: image-classification" in (folder / "README.md").read_text()
    (image, *_) = (images / "val" / "ring").iterdir()
    again = mmpvt.load_model(folder, device="cpu")
    assert torch.equal(again(image).pred_score, model(image).pred_score)
    assert again.classes == model.classes and again.classes[2] == "ring"

    data = tmp_path / "own"
    for name, new in (("ring", "Ring"), ("star", "starfish"), ("cross", "cross")):
        shutil.copytree(images / "train" / name, data / new)
    options = ("--data", data, "--epochs", 1, "--work-dir", tmp_path / "work")
    ended = call_tool("train.py", tiny, *options, "--start-from", folder)
    assert ended.code == 0, ended.out + ended.err
    assert "classes taken from saved: Ring, cross; fresh: starfish" in ended.out + ended.err
    for tool, out in (("train.py", "--work-dir"), ("check_data.py", "--out")):
        ended = call_tool(tool, folder, "--data", data, out, tmp_path / "new")
        assert "the config has no train_dataloader, train_cfg, opt" in ended.one_sentence()
        assert not (tmp_path / "new").exists()


def test_from_a_thousand_classes(train, tiny: Path, tmp_path: Path):
    config = Config.fromfile(tiny)
    config.model.head.num_classes = config.data_preprocessor.num_classes = 1000
    config.dump(tmp_path / "wide.py")
    file = save_untrained(tmp_path / "wide.py", tmp_path / "thousand.pth")
    options = ("--cfg-options", "train_cfg.max_epochs=1", "--work-dir", tmp_path / "work")
    ended = train("--start-from", file, *options)
    assert ended.code == 0, ended.out + ended.err
    said = ended.out + ended.err
    assert "all classes start fresh (circle, cross, ring, square, star, triangle)" in said
    assert "; the rest of it is taken" in said
    path = (tmp_path / "work" / "last_checkpoint").read_text()
    taken, given = (mmpvt.checkpoint.load_checkpoint(one)["state_dict"] for one in (path, file))
    assert taken["head.fc.weight"].shape == (6, 32) and given["head.fc.weight"].shape == (1000, 32)
    name = "backbone.patch_embed1.proj.weight"
    assert (taken[name] - given[name]).abs().max() < 0.01 < given[name].abs().max()


def test_check_data(tiny: Path, images: Path, tmp_path: Path, call_tool):
    args = (tiny, "--data-root", images, "--out", tmp_path, "--workers", 1)
    ended = call_tool("check_data.py", *args)
    assert ended.code == 0, ended.out + ended.err
    assert "24 images, 24 of them can be used" in ended.out
    assert "6 of 6 classes; most of circle (4), cross (4), ring (4)" in ended.out
    assert (tmp_path / "data.png").is_file()


@pytest.mark.parametrize(
    ("break_", "said"),
    [
        (lambda root: shutil.rmtree(root / "train"), "no images under"),
        (lambda root: remove(root / "train" / "ring"), "there are no images of 1 of 6 classes"),
        (
            lambda root: (root / "val" / "ring").rename(root / "val" / "torus"),
            "class 2 is 'ring' in the config",
        ),
        (lambda root: shutil.rmtree(root / "val" / "ring"), "has 5 folders"),
    ],
)
def test_broken_folders(break_, said: str, train, tiny, images, tmp_path: Path, call_tool):
    root = tmp_path / "broken"
    shutil.copytree(images, root)
    break_(root)
    work_dir = tmp_path / "work"
    ended = call_tool("train.py", tiny, "--data-root", root, "--work-dir", work_dir)
    assert said in ended.one_sentence()
    assert not work_dir.exists()


def remove(folder: Path) -> None:
    """All files of a folder, not the folder."""
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ([], "no class"),
        (["train/a", "val/a", "val/b"], "has b in val"),
    ],
)
def test_broken_own_images(folders, said, tiny, images, tmp_path: Path, call_tool):
    data = tmp_path / "own"
    (picture, *_) = (images / "train" / "ring").iterdir()
    for folder in folders or ["."]:
        (data / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, data / folder)
    ended = call_tool("train.py", tiny, "--data", data, "--work-dir", tmp_path / "work")
    assert said in ended.one_sentence()
    assert not (tmp_path / "work").exists()


def test_an_empty_class_of_own_images(tiny, images, tmp_path: Path, call_tool):
    data = tmp_path / "own"
    shutil.copytree(images / "train", data)
    (data / "hexagon").mkdir()
    ended = call_tool("train.py", tiny, "--data", data, "--work-dir", tmp_path / "work")
    assert "there are no images in hexagon" in ended.one_sentence()
