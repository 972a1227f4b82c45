"""Checks a config's settings: of the runner, the training loop, the optimizer, the weights."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import OPTIMIZERS, DefaultScope

from mmpvt.engine.config_parts import iter_dicts, split_datasets
from mmpvt.engine.schedules import SCHEDULED
from mmpvt.errors import ConfigError
from mmpvt.swap.feature_maps import type_name
from mmpvt.swap.training import LAYER_DECAY

TRAINING = ("train_dataloader", "train_cfg", "optim_wrapper")  # what a config to train has
TESTING = ("test_dataloader", "test_cfg", "test_evaluator")  # what one to test has
COUNTS = SCHEDULED | {"max_epochs", "max_iters", "val_begin", "interval", "max_keep_ckpts"}
# of MMEngine's runner: whether a value can be taken, and which can
RUNNER_SETTINGS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "default_scope": (lambda value: isinstance(value, str), "a package's name, such as 'mmdet'"),
    "load_from": (
        lambda value: isinstance(value, str | None),
        "a checkpoint's path or URL, or None",
    ),
    "env_cfg": (lambda value: isinstance(value, dict), "a dict"),
    "randomness": (lambda value: isinstance(value, dict), "a dict, such as dict(seed=0)"),
    "log_level": (
        lambda value: isinstance(value, int) or isinstance(logging.getLevelName(value), int),
        "DEBUG, INFO, WARNING, ERROR or CRITICAL",
    ),
}


def check_types(config: Config) -> None:
    """Raises a ConfigError if a value has a type that its setting doesn't take."""
    for name, (is_right, takes) in RUNNER_SETTINGS.items():
        if name in config and not is_right(config[name]):
            raise ConfigError(f"{name} is {config[name]!r}: it takes {takes}")
    hooks = config.get("custom_hooks") or []
    if not isinstance(hooks, list | tuple) or not all(
        isinstance(hook, Hook) or "type" in hook for hook in hooks
    ):
        raise ConfigError(
            f"custom_hooks is {str(hooks)[:60]!r}: it takes a list of dicts with a type each",
            hint="write custom_hooks=[dict(type=…)]",
        )
    for split, dataset in split_datasets(config):
        prefix = dataset.get("data_prefix")
        scope = str(dataset.get("type")).rpartition(".")[0] or config.get("default_scope")
        if isinstance(prefix, str) and scope in ("mmdet", "mmseg"):
            raise ConfigError(
                f"the {split}_dataloader's data set has data_prefix={prefix!r}: it takes a dict",
                hint="write data_prefix=dict(img=…), or dict(img_path=…, seg_map_path=…) of label "
                "maps",
            )


def check_trains(config: Config) -> None:
    """Checks that a config says how to train.

    Raises:
        ConfigError: it doesn't, as that of a saved model, or it has no epoch, iteration or
            sampler.
    """
    missing = [key for key in TRAINING if not config.get(key)]
    if missing:
        raise ConfigError(
            f"the config has no {', '.join(missing)}, which training takes",
            hint="to go on with a saved model, name the config that it was trained by, and the "
            f"model's folder with {ConfigError.name_setting('start_from')}",
        )
    if not config.train_dataloader.get("sampler"):
        raise ConfigError(
            "train_dataloader has no sampler",
            hint="set train_dataloader.sampler=dict(type='DefaultSampler', shuffle=True)",
        )
    loop = config.train_cfg
    for key in ("max_epochs", "max_iters"):
        length = loop.get(key, 1)
        if isinstance(length, int) and length < 1:
            raise ConfigError(f"train_cfg.{key} is {length}, and a training takes at least one")
    if "type" in loop and "by_epoch" in loop:
        raise ConfigError(
            f"train_cfg has both by_epoch={loop.by_epoch} and type={loop.type!r}, which its base "
            "may have set",
            hint="write train_cfg=dict(_delete_=True, …), with one of them",
        )
    _check_optimizer(config)
    _check_counts(config)


def _check_optimizer(config: Config) -> None:
    """Raises a ConfigError if there is no such optimizer, its rates are by layers that PVT hasn't,
    settings by module are no dicts, or gradients can't be clipped so."""
    from mmpvt.datasets.pipelines import find_class  # imports MMDetection, which a swap needn't

    optimizer = config.optim_wrapper.get("optimizer")
    kind = optimizer.get("type") if isinstance(optimizer, dict) else None
    with DefaultScope.overwrite_default_scope(config.get("default_scope") or "mmengine"):
        if kind and find_class(OPTIMIZERS, kind) is None:
            raise ConfigError(
                f"there is no optimizer {kind!r}",
                hint="name one of PyTorch's, such as AdamW or SGD, or import the module that "
                "registers it (custom_imports)",
            )
    constructor = config.optim_wrapper.get("constructor") or ""
    by_layer = type_name(dict(type=constructor)) in LAYER_DECAY
    if by_layer and "PyramidVision" in type_name(config.model.get("backbone") or {}):
        raise ConfigError(
            f"optim_wrapper.constructor is {constructor}, which doesn't know PVT's layers",
            hint="leave it out; rates by stages are paramwise_cfg=dict(custom_keys={"
            "'backbone.block1': dict(lr_mult=0.5), …})",
        )
    clipping = config.optim_wrapper.get("clip_grad")
    if isinstance(clipping, dict):
        by_value = clipping.get("type") == "value"
        name = "clip_grad_value_" if by_value else "clip_grad_norm_"
        takes = inspect.signature(getattr(torch.nn.utils, name))
        try:
            takes.bind((), **{key: value for key, value in clipping.items() if key != "type"})
        except TypeError as error:
            raise ConfigError(
                f"optim_wrapper.clip_grad is {dict(clipping)}, from which {name} takes its "
                f"arguments: {error}",
                hint="write dict(max_norm=…), or dict(type='value', clip_value=…)",
            ) from error
    by_module = (config.optim_wrapper.get("paramwise_cfg") or {}).get("custom_keys") or {}
    for name, value in by_module.items():
        if not isinstance(value, dict):
            raise ConfigError(
                f"paramwise_cfg.custom_keys has {name}={value!r}: it takes a dict",
                hint=f"write {name}=dict(lr_mult={value!r}), say",
            )


def _check_counts(config: Config) -> None:
    """Raises a ConfigError if a number of epochs or iterations is text, which fails in the run."""
    parts = [config.get(name) for name in ("train_cfg", "default_hooks", "param_scheduler")]
    for part in iter_dicts(parts):
        for key in sorted(COUNTS & part.keys()):
            value = part[key]
            is_list = isinstance(value, list | tuple)
            if any(isinstance(one, str) for one in (value if is_list else [value])):
                raise ConfigError(f"{key} is {value!r}: it takes numbers, without quotes")
            if key == "milestones" and not is_list:
                raise ConfigError(f"milestones is {value!r}: it takes a list, such as [8, 11]")


def check_tests(config: Config) -> None:
    """Checks that a config says how to test.

    Raises:
        ConfigError: it doesn't.
    """
    missing = [key for key in TESTING if config.get(key) is None]
    if missing:
        raise ConfigError(
            f"the config has no {', '.join(missing)}, which testing takes",
            hint="to test on the validation's data, write test_dataloader = val_dataloader, "
            "test_cfg = dict() and test_evaluator = val_evaluator in it",
        )


def check_initial_weights(config: Config) -> None:
    """Checks what the parts of a model that is trained start from.

    Raises:
        ConfigError: an ``init_cfg`` is no dict, or names no checkpoint.
    """
    for part in iter_dicts(config.model):
        init_cfg = part.get("init_cfg")
        for one in filter(None, init_cfg if isinstance(init_cfg, list | tuple) else [init_cfg]):
            problem = ""
            if not isinstance(one, dict):
                problem = "it takes a dict of a type and its arguments"
            elif one.get("type", "Pretrained") == "Pretrained" and not one.get("checkpoint"):
                problem = "it names no checkpoint"
            if problem:
                raise ConfigError(
                    f"a part of the model has init_cfg={str(init_cfg)[:60]!r}: {problem}",
                    hint="write init_cfg=dict(type='Pretrained', checkpoint=FILE), or None",
                )


def check_validates(config: Config, setting: str) -> None:
    """Raises a ConfigError if a setting needs a validation, and the training has none."""
    if config.get("val_cfg") is None:
        raise ConfigError("the config's training has no validation", setting=setting)


def check_val_interval(config: Config) -> None:
    """Raises a ConfigError if the interval of validations counts no epochs or iterations."""
    interval = config.train_cfg.get("val_interval", 1)
    is_count = isinstance(interval, int | float) and interval >= 1 and interval == int(interval)
    if config.get("val_cfg") is not None and not is_count:
        raise ConfigError(
            f"train_cfg.val_interval is {interval!r}, and it counts epochs or iterations from 1",
            hint="to train without validation, set val_dataloader, val_cfg and val_evaluator to "
            "None",
        )
