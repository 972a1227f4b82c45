"""The length of a training: its loop, and the schedules and hooks that follow it."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from mmengine.config import Config, ConfigDict

from mmpvt.engine.config_parts import iter_dicts
from mmpvt.errors import ConfigError

WARM_UPS = ("LinearLR", "ConstantLR")
# arguments that count epochs (iterations with by_epoch=False): of schedules, of hooks
SCHEDULED = {"begin", "end", "milestones", "T_max", "total_steps", "step_size", "periods"}
SPANS = ("T_max", "total_steps")  # mostly from begin to end
RATES = ("eta_min", "eta_max")  # of schedules, as learning rates
SWITCHED = {"switch_epoch", "num_last_epochs", "begin_epoch"}


def set_epochs(config: Config, epochs: int) -> None:
    """Sets how many epochs a run takes, and moves the config's schedule in proportion.

    That is its milestones and ends in epochs or iterations, validation's begin and changes of its
    interval, and when hooks such as ``PipelineSwitchHook`` act. A warm-up, which is counted in
    iterations, becomes shorter with the run, but not longer.

    Args:
        config (Config): changed.
        epochs (int): at least 1.

    Raises:
        ConfigError: the config's loop counts iterations.
    """
    loop = config.get("train_cfg") or ConfigDict()
    if "max_epochs" not in loop:
        schedules = config.get("param_scheduler") or []
        ends = ["train_cfg.max_iters"]
        for i, schedule in enumerate(iter_dicts(schedules)):
            place = f"param_scheduler.{i}" if isinstance(schedules, list) else "param_scheduler"
            # not a warm-up's
            same = (key for key in SCHEDULED if schedule.get(key) == loop.get("max_iters"))
            ends += [f"{place}.{key}" for key in sorted(same)]
        raise ConfigError(
            "the config's schedule is of iterations",
            setting="epochs",
            instead=("cfg_options", " ".join(f"{key}=N" for key in ends)),
        )
    if epochs < 1:
        raise ConfigError(f"{epochs}: a run takes at least one epoch", setting="epochs")
    set_length(config, epochs)


def set_length(config: Config, length: int) -> None:
    """Sets how long a run is, in epochs or iterations as its loop counts; the rest is as in
    :func:`set_epochs`.
    """
    loop = config.train_cfg
    unit = "max_epochs" if "max_epochs" in loop else "max_iters"
    old, loop[unit] = loop[unit], length
    ratio = length / old

    def scaled(value: Any) -> Any:
        new = scaled_count(value, ratio)
        is_within = isinstance(value, int) and value < old  # and has to stay so, or has no effect
        return min(new, max(1, length - 1)) if is_within else new

    schedules = list(iter_dicts(config.get("param_scheduler")))
    ends = [schedule.get("end", math.inf) for schedule in schedules]
    for schedule in schedules:
        milestones = [scaled(one) for one in schedule.get("milestones") or ()]
        scale_schedule(schedule, ratio)
        if milestones and schedule.get("by_epoch", True) == (unit == "max_epochs"):
            schedule["milestones"] = milestones
    for schedule, end in zip(schedules, ends, strict=True):
        if not warms_up(schedule) or "end" not in schedule:
            continue
        is_counted = unit == "max_iters" or schedule.get("by_epoch", True)
        # of a single iteration it never ends: MMEngine's first step has the start's factor
        least = schedule.get("begin", 0) + 2
        end = max(least, schedule["end"] if is_counted else min(schedule["end"], end))
        if end != schedule["end"]:
            end_warm_up(config, schedule, end)
    for hook in iter_dicts(config.get("custom_hooks")):
        hook.update({key: scaled(hook[key]) for key in SWITCHED & hook.keys()})
    if "dynamic_intervals" in loop:
        loop.dynamic_intervals = [(scaled(start), n) for start, n in loop.dynamic_intervals]
    loop.val_interval = min(loop.get("val_interval", 1), length)
    if "val_begin" in loop:
        loop.val_begin = scaled(loop.val_begin)


def warms_up(schedule: dict) -> bool:
    """Whether a schedule lets a learning rate rise to where others begin, and not fall."""
    factors = schedule.get("start_factor", 1 / 3), schedule.get("end_factor", 1.0)
    return schedule.get("type") in WARM_UPS and factors[0] <= factors[1]


def scaled_count(value: Any, ratio: float) -> Any:
    """A number of epochs or iterations, or several, for a run of another length; at least 1."""
    if isinstance(value, list | tuple):
        return [scaled_count(one, ratio) for one in value]
    return max(1, round(value * ratio)) if isinstance(value, int) and value > 0 else value


def scale_schedule(schedule: dict, ratio: float, but: Collection[str] = ()) -> None:
    """Stretches a schedule to ``ratio`` of its length, but for some of its times."""
    keys = (SCHEDULED & schedule.keys()).difference(but)
    changed = {key: scaled_count(schedule[key], ratio) for key in keys}
    if changed.get("end", math.inf) <= changed.get("begin", 0):
        changed["end"] = changed["begin"] + 1
    if "gamma" in schedule and "Exponential" in str(schedule.get("type")):  # a factor of each step
        changed["gamma"] = schedule["gamma"] ** (1 / ratio)
    move_schedule(schedule, changed)


def move_schedule(schedule: dict, changes: dict) -> None:
    """Changes when a schedule acts; what lasts from its begin to its end still does."""
    length = schedule.get("end", 0) - schedule.get("begin", 0)
    spans = [key for key in SPANS if schedule.get(key) == length]
    schedule.update(changes)
    schedule.update({key: schedule["end"] - schedule.get("begin", 0) for key in spans})


def end_warm_up(config: Config, warm_up: dict, end: int) -> None:
    """Moves the end of a warm-up, and the begin of what follows it."""
    old, warm_up["end"] = warm_up["end"], end
    for later in iter_dicts(config.get("param_scheduler")):
        if later.get("by_epoch", True) == warm_up.get("by_epoch", True) and (
            later.get("begin") == old
        ):
            move_schedule(later, dict(begin=end, end=max(later.get("end", end + 1), end + 1)))
