"""The schedule moves with the length of a training."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from helpers import ROOT
from mmpvt.engine.config import load_config
from mmpvt.engine.schedules import set_epochs
from mmpvt.errors import ConfigError


def test_epochs_move_the_schedule():
    config = Config(
        dict(
            train_cfg=dict(max_epochs=12, val_interval=4, val_begin=6, dynamic_intervals=[(10, 1)]),
            param_scheduler=[
                dict(type="LinearLR", by_epoch=False, begin=0, end=500, start_factor=0.1),
                dict(type="MultiStepLR", begin=0, end=12, milestones=[8, 11], gamma=0.1),
                dict(type="CosineAnnealingLR", begin=6, T_max=6, end=12, eta_min=0.05),
            ],
            custom_hooks=[dict(type="PipelineSwitchHook", switch_epoch=10)],
        )
    )
    longer, shorter = Config(config.to_dict()), Config(config.to_dict())
    set_epochs(longer, 36)
    warm_up, steps, cosine = longer.param_scheduler
    assert warm_up == config.param_scheduler[0]
    assert (steps.end, steps.milestones, steps.gamma) == (36, [24, 33], 0.1)
    assert (cosine.begin, cosine.T_max, cosine.end, cosine.eta_min) == (18, 18, 36, 0.05)
    assert longer.custom_hooks[0].switch_epoch == 30
    assert longer.train_cfg == dict(
        max_epochs=36, val_interval=4, val_begin=18, dynamic_intervals=[(30, 1)]
    )
    set_epochs(shorter, 1)
    warm_up, steps, cosine = shorter.param_scheduler
    assert (warm_up.begin, warm_up.end, warm_up.start_factor) == (0, 42, 0.1)
    assert (steps.begin, steps.end, cosine.begin, cosine.end) == (0, 1, 1, 2)
    loop = shorter.train_cfg
    assert (loop.max_epochs, loop.val_interval, loop.val_begin) == (1, 1, 1)
    with pytest.raises(ConfigError, match="schedule is of iterations") as caught:
        set_epochs(load_config(str(ROOT / "configs" / "fpn_pvt_v2_b0_shapes.py")), 3)
    ends = "train_cfg.max_iters=N param_scheduler.1.T_max=N param_scheduler.1.end=N"
    assert caught.value.instead == ("cfg_options", ends)  # 0 is the warm-up


@pytest.mark.parametrize(("epochs", "milestones", "switch"), [(6, [4, 5], 5), (3, [2, 2], 2)])
def test_what_lies_within_a_run_stays_there(epochs: int, milestones: list[int], switch: int):
    """At the end of the last epoch it would have no effect."""
    config = Config(
        dict(
            train_cfg=dict(max_epochs=12),
            param_scheduler=[dict(type="MultiStepLR", milestones=[8, 11])],
            custom_hooks=[dict(type="PipelineSwitchHook", switch_epoch=11)],
        )
    )
    set_epochs(config, epochs)
    assert config.param_scheduler[0].milestones == milestones
    assert config.custom_hooks[0].switch_epoch == switch


@pytest.mark.parametrize(("epochs", "warm_up", "end"), [(24, 500, 24000), (6, 250, 6000)])
def test_epochs_move_schedules_of_iterations(epochs: int, warm_up: int, end: int):
    """Else the learning rate is 0 for half of a run of twice the epochs."""
    poly = dict(type="PolyLR", by_epoch=False, begin=500, end=12000)
    linear = dict(type="LinearLR", by_epoch=False, begin=0, end=500, start_factor=0.1)
    config = Config(dict(train_cfg=dict(max_epochs=12), param_scheduler=[linear, poly]))
    set_epochs(config, epochs)
    first, then = config.param_scheduler
    assert (first.begin, first.end, then.begin, then.end) == (0, warm_up, warm_up, end)


@pytest.mark.parametrize("epochs", [3, 7, 24])
def test_schedules_end_with_the_run(epochs: int):
    """A cosine whose length is rounded otherwise than its begin would miss its least; a fall of the
    learning rate is no warm-up."""
    cosine = dict(type="CosineAnnealingLR", begin=6, T_max=6, end=12)
    one_cycle = dict(type="OneCycleLR", eta_max=0.1, total_steps=600, by_epoch=False)
    fall = dict(type="LinearLR", start_factor=1.0, end_factor=0.1, end=600, by_epoch=False)
    decay = dict(type="ExponentialLR", gamma=0.9)
    schedules = [cosine, one_cycle, fall, decay]
    config = Config(dict(train_cfg=dict(max_epochs=12), param_scheduler=schedules))
    set_epochs(config, epochs)
    cosine, one_cycle, fall, decay = config.param_scheduler
    assert cosine.begin + cosine.T_max == cosine.end == epochs
    assert one_cycle.total_steps == fall.end == 50 * epochs
    assert decay.gamma**epochs == pytest.approx(0.9**12)
