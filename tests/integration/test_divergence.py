"""A loss that is no number is noticed before it reaches the weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmcv.transforms import BaseTransform
from mmengine.registry import TRANSFORMS

import mmpvt
from mmpvt.checkpoint.saving import newest_checkpoint

POISONED = """
_base_ = "{base}"
train_pipeline = [
    dict(type="LoadImageFromFile", to_float32=True),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Poison", name="{name}", value="{value}"),
    dict(type="Resize", scale=(64, 64), keep_ratio=True),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(num_workers=0, persistent_workers=False)
train_dataloader.update(dataset=dict(pipeline=train_pipeline))
model = dict(neck=dict(norm_cfg=dict(type="BN")))
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1))
"""


class Poison(BaseTransform):
    """Puts a number into an image, as a broken sensor's file may."""

    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, float(value)

    def transform(self, results: dict) -> dict:
        if results["img_path"].endswith(self.name):
            results["img"][3, 4] = self.value
        return results


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    TRANSFORMS.register_module(module=Poison)
    yield
    TRANSFORMS.module_dict.pop("Poison")


@pytest.fixture
def config(tmp_path: Path, tiny_config: Path):
    def make(value: str, name: str = "5.jpg") -> Path:
        path = tmp_path / "poisoned.py"
        path.write_text(POISONED.format(base=tiny_config, name=name, value=value))
        return path

    return make


@pytest.mark.parametrize("value", ["nan", pytest.param("inf", marks=pytest.mark.full)])
def test_stop(value: str, tmp_path: Path, shapes: Path, config, call_tool):
    args = (config(value), "--data-root", shapes, "--work-dir", tmp_path / "work", "--seed", 0)
    ended = call_tool("train.py", *args)
    sentence = ended.one_sentence()
    said = re.search(r"the loss is not finite at iteration (\d) \(images (.*?)\)", sentence)
    assert said and "000000000005.jpg" in said[2] and said[2].count(".jpg") == 2
    assert "--on-nan skip" in sentence
    log = next((tmp_path / "work").glob("*/*.log")).read_text()
    assert re.search(r"largest gradients: \S+ (nan|inf)", log)
    newest = newest_checkpoint(tmp_path / "work")
    before = int(said[1]) - 1
    assert before == 0 or mmpvt.checkpoint.load_checkpoint(newest)["meta"]["iter"] == before
    skipped = call_tool("train.py", *args, "--on-nan", "skip", *(["--resume"] if before else []))
    assert skipped.code == 0, skipped.out + skipped.err


def test_skip(tmp_path: Path, shapes: Path, config, call_tool):
    args = ("--data-root", shapes, "--work-dir", tmp_path / "work", "--seed", 0)
    ended = call_tool("train.py", config("nan"), *args, "--on-nan", "skip")
    assert ended.code == 0, ended.out + ended.err
    assert ended.out.count("the loss is not finite at iteration") == 2  # once an epoch
    assert "that step is left out, 2 so far in this run" in ended.out
    last = mmpvt.checkpoint.load_checkpoint(newest_checkpoint(tmp_path / "work"))
    assert all(torch.isfinite(tensor).all() for tensor in last["state_dict"].values())
    assert {int(state["step"]) for state in last["optimizer"]["state"].values()} == {6}


def test_weights_that_diverged(tmp_path: Path, shapes: Path, tiny_config: Path, call_tool):
    """Leaving out batches doesn't help there: it ends."""
    ended = call_tool(
        "train.py",
        tiny_config,
        *("--data-root", shapes, "--work-dir", tmp_path, "--on-nan", "skip"),
        *("--cfg-options", "optim_wrapper.optimizer.lr=1e30", "optim_wrapper.clip_grad=None"),
        *("train_cfg.max_epochs=12", "train_cfg.val_interval=99"),
    )
    assert "is not finite at iteration" in ended.one_sentence()
    assert "that step is left out, 19 so far" in ended.out
