"""Averages, an early end and validation's loss, each on its own."""

from __future__ import annotations

import logging
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from mmengine.runner import EpochBasedTrainLoop, Runner
from mmengine.structures import BaseDataElement
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from mmpvt.engine.hooks.checkpoints import CheckpointFitHook, main_metric
from mmpvt.engine.hooks.training import EarlyStoppingHook, EMAHook, ValLossHook
from mmpvt.errors import ConfigError


def runner_of(model: nn.Module | None = None, **loops) -> SimpleNamespace:
    return SimpleNamespace(
        model=model,
        iter=0,
        max_iters=100,
        seed=0,
        train_loop=SimpleNamespace(stop_training=False),
        message_hub=MessageHub("training"),
        logger=logging.getLogger("training"),
        build_dataloader=lambda settings, seed: DataLoader(
            settings["dataset"], settings["batch_size"], collate_fn=settings["collate_fn"]
        ),
        **loops,
    )


@pytest.mark.parametrize(
    ("names", "main"),
    [
        (("coco/bbox_mAP", "coco/bbox_mAP_50", "coco/segm_mAP"), "coco/segm_mAP"),
        (("aAcc", "mIoU", "mAcc"), "mIoU"),
        (("pascal_voc/mAP", "pascal_voc/AP50"), "pascal_voc/mAP"),
        (("lvis/bbox_AP", "lvis/bbox_AP50"), "lvis/bbox_AP"),
        (("own/precision", "own/recall"), "own/precision"),
        (("val/loss", "own/thing"), None),
    ],
)
def test_the_main_metric(names: tuple[str, ...], main: str | None):
    assert main_metric(dict.fromkeys(names, 0.0)) == main


def test_training_ends_early():
    hook, runner = EarlyStoppingHook(2), runner_of()
    hook.before_train(runner)
    scores = (0.1, 0.05, 0.1001, None, float("nan"))
    for number, score in enumerate(scores, 1):
        assert not runner.train_loop.stop_training
        runner.iter = number
        hook.after_val_epoch(runner, {} if score is None else {"mIoU": score})
        if number == 2:  # again, where the run was interrupted meanwhile
            hook.after_val_epoch(runner, {"mIoU": score})
    assert runner.train_loop.stop_training
    for patience, stops in ((2, True), (3, False)):  # from the last checkpoint
        resumed = runner_of()
        resumed.message_hub.update_info("mmpvt_early_stop", [0.1001, 2, 5])
        EarlyStoppingHook(patience).before_train(resumed)
        assert resumed.train_loop.stop_training == stops


@pytest.mark.parametrize(("epoch", "stops"), [(2, True), (3, False)])
def test_a_training_by_epochs_ends_early(epoch: int, stops: bool):
    """Also where it was resumed with larger batches, of which all of it has fewer than are done."""
    runner = runner_of(epoch=epoch, max_epochs=3)
    runner.iter = 200
    runner.train_loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    runner.train_loop.stop_training = False
    runner.message_hub.update_info("mmpvt_early_stop", [0.1, 2, 5])
    EarlyStoppingHook(2).before_train(runner)
    assert runner.train_loop.stop_training == stops


def test_a_score_that_tells_nothing_ends_no_training(caplog: pytest.LogCaptureFixture):
    hook, runner = EarlyStoppingHook(1), runner_of()
    for runner.iter in (1, 2):
        hook.after_val_epoch(runner, {"val/loss": 1.0, "own/score": 0.5})
    assert not runner.train_loop.stop_training
    assert "none of own/score tells which model is better" in caplog.text
    caplog.set_level(logging.INFO, "training")
    hook.after_val_epoch(runner, {"val/loss": 1.0})  # of a model that predicts nothing
    assert runner.train_loop.stop_training
    assert "after iteration 2: 1 validations in a row had no score" in caplog.text


def test_averages_are_saved_from_within_a_validation():
    model = nn.Linear(2, 2)
    hook, runner = EMAHook(momentum=0.1), runner_of(model)
    hook.before_run(runner)
    for _ in range(2):
        nn.init.normal_(model.weight)
        hook.after_train_iter(runner, 0)

    def saved() -> list[torch.Tensor]:
        checkpoint = dict(state_dict={name: t.clone() for name, t in model.state_dict().items()})
        hook.before_save_checkpoint(runner, checkpoint)
        state, average = checkpoint["state_dict"], checkpoint["ema_state_dict"]
        return [state["weight"].clone(), average["module.weight"].clone()]

    before = saved()
    assert torch.equal(before[1], model.weight) and not torch.equal(*before)
    hook.before_val_epoch(runner)
    for ours, theirs in zip(before, saved(), strict=True):
        assert torch.equal(ours, theirs)
    hook.after_val_epoch(runner)
    for ours, theirs in zip(before, saved(), strict=True):
        assert torch.equal(ours, theirs)


def test_averages_are_of_a_checkpoint_of_any_layout():
    """A test of a config with averaged weights, as YOLOX and RTMDet have, is on these."""
    model = nn.Linear(2, 2)
    saved = {f"_orig_mod.{name}": tensor.clone() for name, tensor in model.state_dict().items()}
    nn.init.zeros_(model.weight)
    runner = runner_of(model, cfg=Config(dict(model=dict())), _resume=False, _hooks=[])
    Runner.register_hook(runner, EMAHook(), priority=49)
    Runner.register_hook(runner, CheckpointFitHook())
    for step, args in (("before_run", ()), ("after_load_checkpoint", [dict(state_dict=saved)])):
        for hook in runner._hooks:
            getattr(hook, step)(runner, *args)
    (averages,) = (hook.ema_model.module for hook in runner._hooks if isinstance(hook, EMAHook))
    assert torch.equal(averages.weight, saved["_orig_mod.weight"])


class Head(nn.Module):
    """Computes another loss in training than in evaluation, draws, and counts."""

    def __init__(self):
        super().__init__()
        self.calls = 0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        self.seen += len(x)
        drawn = random.random() + np.random.rand() + torch.rand(())  # noqa: NPY002
        return x.mean() + drawn + 100 * self.training


class Model(BaseModel):
    """Normalises, drops and has a head."""

    def __init__(self):
        super().__init__()
        self.backbone, self.head = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.9)), Head()
        self.data_preprocessor.batch_augments = nn.ModuleList([nn.Flatten()])

    def forward(self, inputs, data_samples=None, mode="tensor"):
        assert mode == "loss"
        x = self.backbone(torch.stack(inputs))
        return dict(loss_own=self.head(x), accuracy=x.sum())


class Backbone(nn.Sequential):
    """Gives a map more in training."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (super().forward(x), x) if self.training else (super().forward(x),)


class TwoMaps(Model):
    epoch = None

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __init__(self):
        super().__init__()
        self.backbone = Backbone(*self.backbone)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        first, second = self.backbone(torch.stack(inputs))
        assert self.epoch is not None
        assert not first.isnan().any() and not any(part.training for part in self.backbone)
        return dict(loss_own=first.mean() + second.mean())


class Images(Dataset):
    """Of the values 0, 1 and 2; the last is a placeholder."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> dict:
        sample = BaseDataElement(metainfo=dict(skipped=[("a", "b")]) if index == 2 else {})
        return dict(inputs=torch.full((3, 4, 4), float(index)), data_samples=sample)


def collate(samples: list[dict]) -> dict:
    return {key: [sample[key] for sample in samples] for key in samples[0]}


def generators() -> list:
    numpys = np.random.get_state()[1]  # noqa: NPY002
    return [random.getstate(), numpys.tolist(), torch.get_rng_state().tolist()]


def test_the_loss_of_a_validation():
    model = Model().train()
    runner = runner_of(model)
    hook_settings = dict(dataset=Images(), batch_size=1, collate_fn=collate)
    hook = ValLossHook(hook_settings)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    drawn = generators()
    metrics = {"mIoU": 1.0}
    hook.before_train(runner)
    model.head.kept = dict(maps=[torch.ones(2, requires_grad=True) * 2])  # as CondInst's does
    hook.before_val_epoch(runner)
    hook.after_val_epoch(runner, metrics)
    assert list(metrics) == ["mIoU", "val/loss", "val/loss_own"]
    assert 100.5 < metrics["val/loss"] == metrics["val/loss_own"] < 103.5  # of the first two
    assert model.training and model.head.calls == 0
    assert model.data_preprocessor.batch_augments is not None
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert generators() == drawn
    again: dict = {}
    torch.rand(3)
    hook.after_val_epoch(runner, again)
    assert again["val/loss"] == metrics["val/loss"]
    model.head = None
    with pytest.raises(ConfigError, match=r"val_loss: this model's loss can't be computed .*None"):
        ValLossHook(hook_settings).before_train(runner)


def test_processes_name_the_same_losses(monkeypatch: pytest.MonkeyPatch):
    """Where one has none but placeholders, they would be reduced in another order, or not end."""
    reduced: list[dict] = []
    monkeypatch.setattr(
        "mmpvt.engine.hooks.training.all_reduce_dict", lambda told, _: reduced.append(dict(told))
    )
    dataset = Subset(Images(), [2])
    hook = ValLossHook(dict(dataset=dataset, batch_size=1, collate_fn=collate))
    runner, metrics = runner_of(Model()), {}
    hook.before_train(runner)
    hook.after_val_epoch(runner, metrics)
    assert not metrics
    assert reduced[-1] == {"images": 0, "loss": 0, "loss_own": 0}


def test_the_loss_of_a_backbone_with_maps_for_training_alone():
    hook = ValLossHook(dict(dataset=Images(), batch_size=1, collate_fn=collate))
    metrics: dict = {}
    runner = runner_of(TwoMaps(), epoch=0)
    hook.before_train(runner)
    hook.after_val_epoch(runner, metrics)
    assert 0 < metrics["val/loss"] < 2
