"""A run that was stopped and resumed ends with the same weights, bit for bit."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch

import mmpvt
from helpers import assert_equal
from mmpvt.checkpoint.resume_check import EARLY_STOP

EMA = "ema_state_dict"
RANDOM = """
_base_ = "{base}"
model = dict(backbone=dict(drop_path_rate=0.3))
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomChoiceResize", scales=[(48, 64), (64, 64), (64, 80)], keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="RandomCrop", crop_size=(0.8, 0.8), crop_type="relative_range"),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
train_cfg = dict(val_interval=1)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1))
"""
BY_ITERATION = """
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=8, val_interval=5)
train_dataloader.update(sampler=dict(type="{sampler}"))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=3),
    dict(type="CosineAnnealingLR", T_max=8, end=8, by_epoch=False),
]
log_processor = dict(by_epoch=False)
"""
OFTEN = """
train_cfg.update(max_iters=32, val_interval=4)
"""
GROUPED = """
train_dataloader.update(batch_sampler=dict(type="AspectRatioBatchSampler"), batch_size=3)
"""


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path) -> dict[str, Path]:
    """Configs that draw random numbers wherever one can, by the way they go through the data."""
    kinds = {
        "epochs": "",
        "epochs, grouped": GROUPED,
        "iterations": BY_ITERATION.format(sampler="InfiniteSampler"),
        "epochs, saved": 'default_hooks["checkpoint"]["by_epoch"] = True',
        "iterations, validated": BY_ITERATION.format(sampler="InfiniteSampler") + OFTEN,
        "iterations of epochs": BY_ITERATION.format(sampler="DefaultSampler") + GROUPED,
    }
    folder = tmp_path_factory.mktemp("configs")
    for kind, lines in kinds.items():
        (folder / f"{kind}.py").write_text(RANDOM.format(base=tiny_config) + lines)
    return {kind: folder / f"{kind}.py" for kind in kinds}


@pytest.fixture
def train(configs: dict[str, Path], shapes: Path, tmp_path: Path, call_tool) -> Callable:
    """Trains in a folder of its own, perhaps from another run's checkpoint."""
    numbers = itertools.count()

    def run(kind: str, workers: int, *options: object) -> Path:
        work_dir = tmp_path / str(next(numbers))
        ended = call_tool(
            "train.py",
            configs[kind],
            *("--data-root", shapes, "--work-dir", work_dir, *options),
            "--cfg-options",
            f"train_dataloader.num_workers={workers}",
            f"train_dataloader.persistent_workers={workers > 0}",
        )
        assert ended.code == 0, ended.out + ended.err
        return work_dir

    return run


def checkpoint(work_dir: Path) -> dict:
    return mmpvt.checkpoint.load_checkpoint((work_dir / "last_checkpoint").read_text())


def state(work_dir: Path) -> dict:
    last = checkpoint(work_dir)
    return {key: last[key] for key in ("state_dict", "optimizer", "param_schedulers")}


def resume_from(
    iterations: Iterable[int], kind: str, workers: int, train: Callable, *options: str
) -> None:
    """A run, and others that go on from its checkpoints; four iterations are an epoch."""
    whole = train(kind, workers, "--seed", 3, *options)
    for iteration in iterations:
        resumed = train(kind, workers, "--resume", whole / f"iter_{iteration}.pth", *options)
        assert_equal(state(resumed), state(whole))


@pytest.mark.parametrize(
    ("kind", "workers", "options"),
    [("epochs", 0, ()), ("epochs", 0, ("--amp", "bfloat16")), ("iterations", 2, ())],
)
def test_resumed_ends_as_never_stopped(kind: str, workers: int, options: tuple[str, ...], train):
    resume_from([3], kind, workers, train, *options)


@pytest.mark.parametrize(
    ("kind", "name", "length"),
    [("epochs, saved", "epoch_{}.pth", 4), ("iterations, validated", "iter_{}.pth", 1)],
)
def test_resumed_stops_where_never_stopped(kind: str, name: str, length: int, train):
    """With averaged weights; the loss on validation's images is logged, and changes nothing."""
    options = ("--ema", "--early-stop", 2, *(("--epochs", 8) if "epochs" in kind else ()))
    whole = train(kind, 0, "--seed", 3, "--val-loss", *options)
    end = checkpoint(whole)
    last = end["meta"]["iter"]
    assert 8 <= last < 32
    assert not torch.equal(*(next(iter(end[key].values())) for key in ("state_dict", EMA)))
    scalars = [json.loads(line) for line in next(whole.glob("*/vis_data/scalars.json")).open()]
    losses = [line["val/loss"] for line in scalars if "val/loss" in line]
    assert 2 <= len(losses) == len(set(losses))
    for iteration in (4, last - 4):  # the second is saved before a validation in vain
        resumed = train(kind, 0, "--resume", whole / name.format(iteration // length), *options)
        assert_equal(state(resumed), state(whole))
        ours, theirs = (checkpoint(folder) for folder in (resumed, whole))
        assert_equal(ours[EMA], theirs[EMA])
        info = [run["message_hub"]["runtime_info"] for run in (ours, theirs)]
        assert info[0][EARLY_STOP] == info[1][EARLY_STOP]
        assert ours["meta"]["iter"] == end["meta"]["iter"]


def test_averages_are_what_is_tested_and_predicted_with(train, configs, shapes: Path, call_tool):
    work = train("epochs", 0, "--ema", 0.1)
    file, last = (work / "last_checkpoint").read_text(), checkpoint(work)
    predictor = mmpvt.Predictor(configs["epochs"], file)
    assert_equal(dict(predictor.model.state_dict()), dict(last["state_dict"]))
    name = next(iter(last["state_dict"]))
    assert not torch.equal(last["state_dict"][name], last[EMA][f"module.{name}"])
    scalars = [json.loads(line) for line in next(work.glob("*/vis_data/scalars.json")).open()]
    validated = next(line for line in reversed(scalars) if "coco/bbox_mAP" in line)
    out = work / "test"
    ended = call_tool("test.py", configs["epochs"], file, "--data-root", shapes, "--work-dir", out)
    assert ended.code == 0, ended.out + ended.err
    assert not re.search("unexpected key|missing key|ema_state", ended.out + ended.err)
    tested = json.loads(next(out.glob("*/*.json")).read_text())
    scores = [name for name in tested if name.startswith("coco/")]
    assert scores and all(tested[name] == validated[name] for name in scores)


def test_averaged_run_resumes_as_one(train, configs, shapes: Path, call_tool):
    """Without averaging it would go on from the averages, with another model's optimizer."""
    averaged = ("--data-root", shapes, "--work-dir", train("epochs", 0, "--ema"))
    ended = call_tool("train.py", configs["epochs"], *averaged, "--resume")
    assert "pass --ema" in ended.one_sentence()


@pytest.mark.full
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "kind", ["epochs", "iterations", "epochs, grouped", "iterations of epochs"]
)
def test_resumed_from_every_checkpoint(kind: str, workers: int, train):
    """Of two epochs; the grouped ones have three iterations each."""
    resume_from(range(1, 6), kind, workers, train)


def test_workers_do_not_matter(train):
    """Nor does it that no seed was asked for: the checkpoint holds the one that was drawn."""
    whole = train("epochs", 0)
    resumed = train("epochs", 2, "--resume", whole / "iter_5.pth")
    assert_equal(state(resumed), state(whole))
    with pytest.raises(AssertionError):  # another seed, another run
        assert_equal(state(train("epochs", 0)), state(whole))
