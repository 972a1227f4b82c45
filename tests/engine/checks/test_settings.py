"""Settings that would fail in a run are found before it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from mmengine.config import Config

from helpers import ROOT
from mmpvt.engine.checks.settings import check_initial_weights, check_trains, check_val_interval
from mmpvt.engine.config import load_config
from mmpvt.errors import ConfigError


@pytest.fixture
def config() -> Config:
    return load_config(str(ROOT / "configs/retinanet_pvt_s_fpn_1x_coco.py"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("custom_hooks = dict(type='EMAHook')", "custom_hooks is .*takes a list of dicts"),
        ("custom_hooks = [dict(kind='EMAHook')]", "custom_hooks is .*with a type each"),
        ("default_scope = None", "default_scope is None: it takes a package's name"),
        ("load_from = 3", "load_from is 3: it takes a checkpoint's path"),
        ("env_cfg = None", "env_cfg is None: it takes a dict"),
        ("randomness = 3", "randomness is 3: it takes a dict"),
        ("log_level = 'XYZ'", "log_level is 'XYZ': it takes DEBUG, INFO"),
        (
            "val_dataloader = dict(dataset=dict(type='mmseg.ADE20KDataset', data_prefix='a/'))",
            "val_dataloader's data set has data_prefix",
        ),
        (
            "train_dataloader = dict(dataset=dict(type='CocoDataset', data_prefix='images/'))",
            r"train_dataloader's data set has data_prefix='images/': .*data_prefix=dict\(img=…\)",
        ),
    ],
)
def test_lists_and_dicts_of_another_kind(line: str, said: str, tmp_path: Path):
    file = tmp_path / "own.py"
    file.write_text(f"default_scope = 'mmdet'\nmodel = dict(type='RetinaNet')\n{line}\n")
    with pytest.raises(ConfigError, match=said):
        load_config(str(file))


def test_a_training_without_a_sampler(config: Config):
    config.train_dataloader.sampler = None
    with pytest.raises(ConfigError, match=r"no sampler: set train_dataloader\.sampler=dict"):
        check_trains(config)


def test_a_training_of_no_epochs(config: Config):
    config.train_cfg.max_epochs = 0
    with pytest.raises(ConfigError, match="max_epochs is 0, and a training takes at least one"):
        check_trains(config)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_cfg.by_epoch": False}, "by_epoch=False and type='EpochBasedTrainLoop'"),
        ({"train_cfg.val_begin": "1"}, "val_begin is '1': it takes numbers, without quotes"),
        ({"default_hooks.checkpoint.interval": "2"}, "interval is '2': it takes numbers"),
        ({"param_scheduler.1.T_max": "5"}, "T_max is '5': it takes numbers"),
        ({"param_scheduler.1.milestones": 3}, "milestones is 3: it takes a list"),
        ({"optim_wrapper.optimizer.type": "AdamV"}, "there is no optimizer 'AdamV'"),
        (
            {"optim_wrapper.paramwise_cfg.custom_keys.backbone": 0.1},
            r"custom_keys has backbone=0\.1: it takes a dict: write backbone=dict\(lr_mult=0\.1\)",
        ),
        (
            {"optim_wrapper.constructor": "mmdet.LearningRateDecayOptimizerConstructor"},
            r"OptimizerConstructor, which doesn't know PVT's layers: leave it out",
        ),
        ({"optim_wrapper.clip_grad.max_nrom": 3}, "unexpected keyword argument 'max_nrom': write"),
        ({"optim_wrapper.clip_grad.type": "value"}, "missing a required argument: 'clip_value'"),
    ],
)
def test_what_fails_once_a_training_has_begun(changes: dict, said: str):
    config = load_config("mmpvt::retinanet_pvt_v2_b0_fpn_shapes.py", changes)
    with pytest.raises(ConfigError, match=said):
        check_trains(config)


@pytest.mark.parametrize("interval", [1, 82512.0, 0, 0.5])
def test_intervals_of_validation(interval: float):
    """MMDetection's configs of V3Det have a whole float."""
    config = Config(dict(train_cfg=dict(val_interval=interval), val_cfg=dict()))
    is_count = interval in (1, 82512.0)
    with nullcontext() if is_count else pytest.raises(ConfigError, match="counts epochs or"):
        check_val_interval(config)


@pytest.mark.parametrize(
    ("init_cfg", "said"),
    [
        ("b0.pth", "has init_cfg='b0.pth': it takes a dict"),
        (dict(type="Pretrained"), "it names no checkpoint: write .*checkpoint=FILE"),
        ([dict(type="Normal"), dict(type="Pretrained", checkpoint="")], "it names no checkpoint"),
        ([dict(type="Normal", layer="Linear")], None),
        (dict(checkpoint="swin.pth"), None),  # as MMDetection's Swin reads it
        (None, None),
    ],
)
def test_initial_weights(init_cfg: object, said: str | None, config: Config):
    config.model.backbone.init_cfg = init_cfg
    if said is None:
        check_initial_weights(config)
        return
    with pytest.raises(ConfigError, match=said):
        check_initial_weights(config)
