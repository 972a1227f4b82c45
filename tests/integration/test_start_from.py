"""Training that starts from a checkpoint of other classes, as a user asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmpvt.checkpoint import load_checkpoint
from mmpvt.checkpoint.convert_checkpoint import convert_checkpoint

KNOWN = ("cone", "Circle", "tri-angle")  # as the checkpoint's first three classes are named
CLASSES = ("star", "triangle", "circle")


@pytest.fixture(scope="module")
def detector(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's checkpoint, three of whose six classes have other names."""
    checkpoint = torch.load(trained / "epoch_2.pth", weights_only=False)
    names = ("a", *KNOWN, "b", "c")
    checkpoint["meta"]["dataset_meta"]["classes"] = names
    path = tmp_path_factory.mktemp("detector") / "detector.pth"
    torch.save(checkpoint, path)
    return path


@pytest.fixture(scope="module")
def config(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "three.py"
    meta = f"dict(dataset=dict(metainfo=dict(classes={CLASSES})))"
    loaders = "".join(f"{split}_dataloader = {meta}\n" for split in ("train", "val", "test"))
    frozen = "optim_wrapper = dict(optimizer=dict(lr=0.0, weight_decay=0.0))\n"
    model = "model = dict(bbox_head=dict(num_classes=3))\ntrain_cfg = dict(max_epochs=1)\n"
    path.write_text(f"_base_ = {str(tiny_config)!r}\n{loaders}{frozen}{model}")
    return path


def test_other_classes(tmp_path: Path, shapes: Path, config: Path, detector: Path, call_tool):
    """Rows go by name into the run; the rest of the model is the checkpoint's; it resumes."""
    args = (config, "--data-root", shapes, "--work-dir", tmp_path / "work", "--seed", 0)
    ended = call_tool("train.py", *args, "--start-from", detector)
    assert ended.code == 0, ended.err
    assert "classes taken from detector.pth: triangle, circle; fresh: star" in ended.out
    was = load_checkpoint(detector)["state_dict"]
    saved = load_checkpoint(tmp_path / "work" / "epoch_1.pth")
    assert saved["meta"]["dataset_meta"]["classes"] == CLASSES
    now = saved["state_dict"]
    assert now.keys() == was.keys()
    for name, tensor in now.items():
        if "retina_cls" not in name:
            assert torch.equal(tensor, was[name]), name
    ours = now["bbox_head.retina_cls.weight"].view(2, 3, -1)
    theirs = was["bbox_head.retina_cls.weight"].view(2, 6, -1)
    assert torch.equal(ours[:, 1], theirs[:, 3])
    assert torch.equal(ours[:, 2], theirs[:, 2])
    assert not any(torch.equal(ours[:, 0], theirs[:, i]) for i in range(6))

    again = (tmp_path / "work" / "three.py", "--work-dir", tmp_path / "again")  # of the run itself
    assert "classes taken from detector.pth" in call_tool("train.py", *again).out
    resumed = call_tool("train.py", *args, "--start-from", detector, "--resume")
    assert resumed.code == 0, resumed.err
    assert f"resuming from {tmp_path}/work/epoch_1.pth, not starting from {detector}" in resumed.out


def test_epsilon_of_mmdetections_norms(
    tmp_path: Path, shapes: Path, config: Path, detector: Path, call_tool
):
    """It is kept from the checkpoint started from through saving, resuming and testing."""
    checkpoint = load_checkpoint(detector)
    tensors = convert_checkpoint(checkpoint, "mmdet").tensors
    assert not any(name.startswith("backbone.block") for name in tensors)
    start = tmp_path / "mmdet.pth"
    torch.save(dict(checkpoint, state_dict=tensors), start)
    args = (config, "--data-root", shapes, "--work-dir", tmp_path / "work", "--seed", 0)
    ended = call_tool("train.py", *args, "--start-from", start)
    said = "LayerNorms of patch embedding and attention compute with an epsilon of 1e-06"
    assert said in ended.out
    options = ("--resume", "--cfg-options", "train_cfg.max_epochs=2")
    assert said in call_tool("train.py", *args, *options).out
    saved = tmp_path / "work" / "epoch_2.pth"
    assert load_checkpoint(saved)["state_dict"]["backbone.norm_eps"] == 1e-6
    ended = call_tool("test.py", config, saved, *args[1:])
    assert ended.code == 0, ended.err
    assert said in ended.out
    plain = tmp_path / "plain.pth"
    torch.save(dict(checkpoint, state_dict=convert_checkpoint(checkpoint, "mmpvt").tensors), plain)
    assert "an epsilon of" not in call_tool("train.py", *args, "--start-from", plain).out


def test_mistakes(
    tmp_path: Path, shapes: Path, tiny_config: Path, config: Path, detector: Path, call_tool
):
    """One sentence, and nothing written."""
    work = tmp_path / "work"
    args = (config, "--data-root", shapes, "--work-dir", work)

    def said(*options: object, of: Path = config) -> str:
        sentence = call_tool("train.py", of, *args[1:], *options).one_sentence()
        assert not work.exists()
        return sentence

    assert "no such file" in said("--start-from", tmp_path / "none.pth")
    assert "leave it or --pretrained out" in said("--start-from", detector, "--pretrained", "none")
    assert "leave it or --resume out" in said("--start-from", detector, "--resume", detector)
    assert "leave it or --resume out" in said("--start-from", detector, "--resume")
    assert "no detector was published for this config" in said("--start-from", "published")
    wide = ("--cfg-options", "model.bbox_head.feat_channels=8")
    sentence = said("--start-from", detector, *wide)
    assert "another architecture than the config's: 6 of another shape: bbox_head.cls" in sentence
    backbone = {
        name.removeprefix("backbone."): tensor
        for name, tensor in load_checkpoint(detector)["state_dict"].items()
        if name.startswith("backbone.")
    }
    torch.save(backbone, tmp_path / "backbone.pth")
    sentence = said("--start-from", tmp_path / "backbone.pth")
    assert "holds a backbone alone" in sentence
    assert sentence.endswith(f"pass --pretrained {tmp_path / 'backbone.pth'}")
