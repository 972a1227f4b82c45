"""Whether a run can go on from a checkpoint."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook
from mmengine.optim import LinearLR, OneCycleLR, OptimWrapper

from mmpvt import UserError
from mmpvt.checkpoint import load_checkpoint
from mmpvt.checkpoint.resume_check import (
    EARLY_STOP,
    changed_schedules,
    changed_settings,
    check_resumable,
)
from mmpvt.engine.hooks.checkpoints import KEPT, CheckpointHook
from mmpvt.engine.loops import POSITION


@pytest.fixture
def runner(tmp_path: Path) -> SimpleNamespace:
    """What the check looks at of a runner, after a step."""
    layer = torch.nn.Linear(3, 2)
    wrapper = OptimWrapper(torch.optim.AdamW(layer.parameters()))
    wrapper.update_params(layer(torch.ones(1, 3)).sum())
    schedulers = [LinearLR(wrapper, start_factor=0.1)]
    return SimpleNamespace(
        optim_wrapper=wrapper,
        param_schedulers=schedulers,
        work_dir=str(tmp_path),
        hooks=[EMAHook()],
    )


@pytest.fixture
def checkpoint(runner: SimpleNamespace) -> dict:
    info = {POSITION: dict(seed=1, samples=8), KEPT: [1, 2], "best_ckpt": f"{runner.work_dir}/a"}
    weights = dict(weight=torch.ones(2, 3))
    return dict(
        meta=dict(epoch=1, iter=4),
        state_dict=weights,
        ema_state_dict={"steps": torch.tensor(4), "module.weight": torch.ones(2, 3)},
        message_hub=dict(log_scalars={}, runtime_info=info, resumed_keys=OrderedDict()),
        optimizer=copy.deepcopy(runner.optim_wrapper.state_dict()),
        param_schedulers=[copy.deepcopy(s.state_dict()) for s in runner.param_schedulers],
    )


def test_whole(runner: SimpleNamespace, checkpoint: dict):
    before = copy.deepcopy(checkpoint["message_hub"])
    check_resumable(runner, checkpoint)
    assert checkpoint["message_hub"] == before


def test_a_schedule_that_holds_functions(runner: SimpleNamespace, checkpoint: dict, tmp_path: Path):
    """OneCycleLR's; a file with them is refused, as it carries code."""
    schedule = OneCycleLR(runner.optim_wrapper, eta_max=1, total_steps=9)
    runner.param_schedulers = [schedule]
    checkpoint["param_schedulers"] = [schedule.state_dict()]
    CheckpointHook().before_save_checkpoint(runner, checkpoint)
    torch.save(checkpoint, tmp_path / "a.pth")
    check_resumable(runner, load_checkpoint(str(tmp_path / "a.pth")))


def test_averages_go_on(runner: SimpleNamespace, checkpoint: dict):
    runner.hooks.clear()
    with pytest.raises(UserError, match="averages its weights, and can't go on without: pass ema"):
        check_resumable(runner, checkpoint)


def other_shape(checkpoint: dict) -> None:
    checkpoint["optimizer"]["state"][0]["exp_avg"] = torch.ones(7, 7)


def other_parameters(checkpoint: dict) -> None:
    checkpoint["optimizer"]["param_groups"][0]["params"] = [0]


def other_schedules(checkpoint: dict) -> None:
    checkpoint["param_schedulers"] *= 2


def method_in_a_schedule(checkpoint: dict) -> None:
    checkpoint["param_schedulers"][0]["step"] = "no method"


def number_in_words(checkpoint: dict) -> None:
    checkpoint["param_schedulers"][0]["start_factor"] = "0.1"


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda c: c.pop("meta"), "after which epoch and iteration"),
        (lambda c: c["meta"].update(iter="4"), "after which epoch and iteration"),
        (lambda c: c["meta"].update(epoch=-1), "after which epoch and iteration"),
        (lambda c: c.pop("message_hub"), "no log of a run"),
        (lambda c: c["message_hub"].update(runtime_info=[]), "no log of a run"),
        (lambda c: c["message_hub"]["runtime_info"].update({POSITION: 3}), "the data was used"),
        (lambda c: c.pop("optimizer"), "no state of an optimizer"),
        (lambda c: c["message_hub"]["runtime_info"].update(best_score="x"), "which score"),
        (lambda c: c["message_hub"]["runtime_info"].update({EARLY_STOP: [1.0, None, 2]}), "score"),
        (lambda c: c["message_hub"]["runtime_info"].update({EARLY_STOP: 3}), "which score"),
        (lambda c: c.update(ema_state_dict=3), "averaged weights are another model's"),
        (lambda c: c["ema_state_dict"].popitem(), "averaged weights are another model's"),
        (other_shape, "optimizer's state is another model's"),
        (other_parameters, "optimizer's state is another model's"),
        (other_schedules, "schedules are other"),
        (method_in_a_schedule, "schedules are other"),
        (number_in_words, "schedules are other"),
    ],
)
def test_refused(harm, expected: str, runner: SimpleNamespace, checkpoint: dict):
    harm(checkpoint)
    with pytest.raises(UserError, match=rf"no run can resume from this checkpoint: .*{expected}"):
        check_resumable(runner, checkpoint)


def test_names_of_other_folders_are_dropped(runner: SimpleNamespace, checkpoint: dict):
    """MMEngine would delete what they name."""
    info = checkpoint["message_hub"]["runtime_info"]
    info.update({"best_ckpt": "/etc/passwd", "best_ckpt_mAP": "../x.pth", KEPT: ["/../x", 3]})
    check_resumable(runner, checkpoint)
    assert not any(name.startswith("best_ckpt") for name in info)
    assert info[KEPT] == [3]


def test_schedules_that_the_config_has_changed(runner: SimpleNamespace, checkpoint: dict):
    assert changed_schedules(runner, checkpoint) == []
    runner.param_schedulers = [LinearLR(runner.optim_wrapper, start_factor=0.1, end=7)]
    check_resumable(runner, checkpoint)
    assert changed_schedules(runner, checkpoint) == ["end"]
    runner.param_schedulers = [LinearLR(runner.optim_wrapper, start_factor=0.2)]
    assert changed_schedules(runner, checkpoint) == ["start_factor"]


def test_settings_of_the_optimizer_that_the_config_has_changed(
    runner: SimpleNamespace, checkpoint: dict
):
    """A schedule's own changes of the learning rate are none of the config's."""
    runner.optim_wrapper.param_groups[0]["lr"] = 0.5
    # a group more, which no state of the optimizer has
    runner.optim_wrapper.base_param_settings = dict(params=torch.zeros(1), lr=0.001)
    assert changed_settings(runner, checkpoint) == []
    runner.optim_wrapper.param_groups[0].update(initial_lr=0.1, weight_decay=0)
    changed = {"lr 0.001, and not 0.1", "weight_decay 0.01, and not 0"}
    assert set(changed_settings(runner, checkpoint)) == changed
