"""tools/convert_checkpoint.py as a user would run it."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from helpers import ROOT
from mmpvt.checkpoint import load_checkpoint
from mmpvt.engine.config import load_config
from mmpvt.models import PyramidVisionTransformerV2

ARCH = dict(embed_dims=(8, 16, 20, 32), depths=(1, 1, 1, 1), mlp_ratios=(2, 2, 2, 2))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small classifier in the published layout."""
    tensors = PyramidVisionTransformerV2(ARCH).state_dict()
    tensors["head.weight"], tensors["head.bias"] = torch.randn(3, 32), torch.randn(3)
    torch.save(tensors, tmp_path / "in.pth")
    return tmp_path / "in.pth"


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_there_and_back(suffix: str, source: Path, tmp_path: Path, call_tool):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    there, back = tmp_path / f"out{suffix}", tmp_path / f"back{suffix}"
    ended = call_tool("convert_checkpoint.py", source, there, "--to", "huggingface")
    assert ended.code == 0, ended.err
    assert "a classifier, in the published layout" in ended.out and "left out" not in ended.out
    assert "classifier.weight" in load_checkpoint(there)
    ended = call_tool("convert_checkpoint.py", there, back, "--to", "published")
    assert ended.code == 0 and "in Hugging Face's layout" in ended.out
    before, after = load_checkpoint(source), load_checkpoint(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_trained_detector(trained: Path, shapes: Path, tiny_config: Path, tmp_path, call_tool):
    """Its scores in MMDetection's layout are those in its own."""
    checkpoint, out = trained / "epoch_2.pth", tmp_path / "out.pth"
    ended = call_tool("convert_checkpoint.py", checkpoint, out, "--to", "mmdet")
    assert ended.code == 0, ended.err
    assert "left out: epsilon 1e-05 of some LayerNorms" in ended.out
    assert "message_hub, optimizer, param_schedulers" in ended.out
    printed = []
    for file in (checkpoint, out):
        options = ("--data-root", shapes, "--work-dir", tmp_path / file.stem)
        ended = call_tool("test.py", tiny_config, file, *options)
        assert ended.code == 0, ended.err
        printed.append([line for line in ended.out.splitlines() if "Average" in line])
    assert printed[0] and printed[0] == printed[1]


def test_detr_as_it_was_published(shapes: Path, tmp_path: Path, call_tool):
    """Under MMDetection 2.13's names it gives the scores it gives under today's."""
    config = load_config(str(ROOT / "configs" / "detr_pvt_v2_b0_shapes.py"))
    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(config.model)
    new, old = tmp_path / "new.pth", tmp_path / "old.pth"
    torch.save({"state_dict": model.state_dict()}, new)
    assert call_tool("convert_checkpoint.py", new, old, "--to", "published").code == 0
    assert "bbox_head.transformer.decoder.post_norm.bias" in torch.load(old)["state_dict"]
    options = ("--data-root", shapes, "--work-dir", tmp_path / "work", "--seed", 0)
    found = []
    for file in (new, old):
        out = tmp_path / f"{file.stem}.pkl"
        ended = call_tool("test.py", config.filename, file, *options, "--out", out)
        assert ended.code == 0, ended.err
        found.append([sample["pred_instances"] for sample in pickle.loads(out.read_bytes())])
    for first, second in zip(*found, strict=True):
        assert len(first["scores"]) and torch.equal(first["scores"], second["scores"])
        assert torch.equal(first["bboxes"], second["bboxes"])


class Runs:
    """Unpickling it makes a folder."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_mistakes(source: Path, tmp_path: Path, call_tool, monkeypatch: pytest.MonkeyPatch):
    def refused(*args: object) -> str:
        before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        said = call_tool("convert_checkpoint.py", *args).one_sentence()
        after = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
        assert before == after
        return said

    out = tmp_path / "out.pth"
    assert "there is no such file" in refused(tmp_path / "no.pth", out, "--to", "timm")
    assert "pass --force" in refused(source, source, "--to", "timm")
    assert "ends in .pth" in refused(source, tmp_path / "out.onnx", "--to", "timm")
    assert "there is no folder" in refused(source, tmp_path / "no" / "out.pth", "--to", "timm")
    (tmp_path / "folder.pth").mkdir()
    assert "is a folder" in refused(source, tmp_path / "folder.pth", "--to", "timm", "--force")
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    assert "no PVT of a known layout" in refused(tmp_path / "other.pth", out, "--to", "timm")
    torch.save({"a": Runs(tmp_path / "ran")}, tmp_path / "evil.pth")
    assert "is refused" in refused(tmp_path / "evil.pth", out, "--to", "timm")
    assert not (tmp_path / "ran").exists()
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    said = refused(source, tmp_path / "out.safetensors", "--to", "timm")
    assert said.endswith("pip install safetensors")


def test_force(source: Path, call_tool):
    ended = call_tool("convert_checkpoint.py", source, source, "--to", "timm", "--force")
    assert ended.code == 0
    assert "stages.0.blocks.0.attn.q.weight" in load_checkpoint(source)
