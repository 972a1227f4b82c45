"""Batch size, learning rate and length of a training for a user's own data."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

import torch
from mmengine.config import Config

from mmpvt.engine.config_parts import iter_dicts
from mmpvt.engine.schedules import RATES, end_warm_up, scale_schedule, set_length, warms_up
from mmpvt.errors import ConfigError
from mmpvt.utils.text import counted

# Detectors and segmenters that start from pre-trained weights have learned a few hundred images
# after some thousand steps; of very few images, a hundred passes are enough.
ITERATIONS, MAX_EPOCHS, MIN_PASSES = 3_000, 100, 50
EPOCH_VALIDATIONS, ITERATION_VALIDATIONS = 20, 10
WARM_UP = 0.1  # at most, of all iterations
MIN_SIDE = 32  # pixels of a square; smaller numbers are others
# Of memory in training, by an image of 800x1333 pixels: twice what a step adds for each image to a
# RetinaNet on v1 small or a Cascade Mask R-CNN on v2 b2 on a CPU, 1.9 GB.
BYTES_PER_IMAGE, PIXELS = 4e9, 800 * 1333
PUBLISHED_BATCH = re.compile(r"(\d+)xb(\d+)")  # "8xb2" in a config's name: GPUs x images


def set_schedule(
    config: Config,
    images: int,
    repeats: int,
    epochs: int | None,
    processes: int,
    batch: int | None = None,
) -> list[str]:
    """Fits batch, learning rate and length of a training to a data set's size.

    The batch is the config's for each process, on a GPU up to the published total, and no more than
    memory holds and the data set has. The learning rate follows it: in proportion for SGD (Goyal et
    al., 2017, section 2.1), by the square root for Adam and its kin (Malladi et al., 2022, section
    4). The length is the config's in passes over the data (a classifier's: 50 at most), or more, up
    to 3,000 iterations or 100 passes; milestones keep their place in it, and warm-up takes a tenth
    at most.

    Args:
        config (Config): changed.
        images (int): number of training images.
        repeats (int): how often an epoch of the config went through its data set.
        epochs (int | None): passes over the data. Default: None, by the rule above.
        processes (int): that train together.
        batch (int | None): images of each process. Default: None, by the rule above.

    Returns:
        list[str]: what was set, a sentence each.

    Raises:
        ConfigError: there are less than one epoch, or the optimizer has no learning rate.
    """
    if epochs is not None and epochs < 1:
        raise ConfigError(f"{epochs}: a run takes at least one epoch", setting="epochs")
    loader = config.train_dataloader
    old_batch = loader.get("batch_size") or 1
    published = _published_batch(config, old_batch)
    batch = batch or _batch_size(config, old_batch, published, images, processes)
    loader.batch_size = batch
    total = batch * processes
    said = [f"batch of {total}" + (f", {batch} in each of {processes} processes" * (processes > 1))]
    said.append(_scale_lr(config, total / published))
    config.auto_scale_lr = dict(enable=False, base_batch_size=total)

    per_epoch = math.ceil(images / total)
    if config.train_cfg.get("by_epoch", "max_epochs" in config.train_cfg):
        old = config.train_cfg["max_epochs"] * repeats
        if config.get("default_scope") == "mmpretrain":  # whose 300 are of ImageNet
            old = min(old, MIN_PASSES)
        asked = max(old, min(MAX_EPOCHS, math.ceil(ITERATIONS / per_epoch)))
        length, steps = epochs or asked, (epochs or asked) * per_epoch
        said.append(f"{counted(length, 'epoch')} of {counted(per_epoch, 'iteration')}")
    else:
        old = config.train_cfg["max_iters"]
        asked = min(old, max(ITERATIONS, MIN_PASSES * per_epoch))
        length = steps = epochs * per_epoch if epochs else asked
        passes = counted(round(steps / per_epoch), "pass", "passes")
        said.append(f"{counted(steps, 'iteration')}, {passes} over the data")
    set_length(config, length)
    _set_intervals(config, length)
    _shorten_warm_up(config, int(WARM_UP * steps))
    if "max_epochs" in config.train_cfg:
        _fit_to_steps(config, steps)
    return said


def _set_intervals(config: Config, length: int) -> None:
    """Validates and saves as often in a short training as in a long one."""
    train = config.train_cfg
    train.pop("dynamic_intervals", None)
    by_epoch = "max_epochs" in train
    interval = max(1, round(length / (EPOCH_VALIDATIONS if by_epoch else ITERATION_VALIDATIONS)))
    train["val_interval"] = interval
    if saving := (config.get("default_hooks") or {}).get("checkpoint"):
        saving.update(interval=interval, by_epoch=by_epoch)
        saving.setdefault("max_keep_ckpts", 3)


def _shorten_warm_up(config: Config, most: int) -> None:
    """Ends a warm-up after ``most`` iterations, two at least; what follows it begins then."""
    for part in iter_dicts(config.get("param_scheduler")):
        is_warm_up = warms_up(part) and not part.get("begin")
        if is_warm_up and not part.get("by_epoch", True) and part.get("end", 0) > most:
            end_warm_up(config, part, max(2, most))


def _fit_to_steps(config: Config, steps: int) -> None:
    """Ends schedules of iterations with the training by epochs that has them: an epoch of the
    config's own data has another number of iterations."""
    counted = [s for s in iter_dicts(config.get("param_scheduler")) if not s.get("by_epoch", True)]
    warm_ups = {schedule.get("end") for schedule in counted if warms_up(schedule)}
    others = [schedule for schedule in counted if not warms_up(schedule)]
    ends = [schedule.get("end") or schedule.get("total_steps", 0) for schedule in others]
    for schedule in others if all(ends) else ():
        scale_schedule(
            schedule, steps / max(ends), but=["begin"] * (schedule.get("begin") in warm_ups)
        )


def _published_batch(config: Config, batch: int) -> int:
    """The total batch that the config's learning rate is for."""
    known = (config.get("auto_scale_lr") or {}).get("base_batch_size")
    named = PUBLISHED_BATCH.search(Path(config.filename or "").name)
    if named and not known:
        known = int(named[1]) * int(named[2])
    return known or (4 if config.get("default_scope") == "mmseg" else 8) * batch


def _batch_size(config: Config, batch: int, published: int, images: int, processes: int) -> int:
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
        batch = max(batch, published // processes)
    else:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // processes
    fitting = memory / (BYTES_PER_IMAGE * _pixels(config) / PIXELS)
    most = max(1, min(batch, int(fitting), images // processes))
    return batch if batch <= most else 2 ** int(math.log2(most))


def _pixels(config: Config) -> int:
    """The most pixels of an image in training; ``PIXELS`` where the config doesn't say."""
    sizes = [
        size[0] * size[1]
        for part in iter_dicts(config.train_dataloader)
        for key in ("scale", "scales", "crop_size")
        for size in _pairs(part.get(key))
    ]
    return max(sizes, default=PIXELS)


def _pairs(value: object) -> list[tuple[int, int]]:
    """The sizes, pairs of ints or a square's side, in an argument of a transform."""
    if isinstance(value, int) and value >= MIN_SIDE:
        return [(value, value)]
    if not isinstance(value, list | tuple):
        return []
    if len(value) == 2 and all(isinstance(side, int) for side in value):
        return [(value[0], value[1])]
    return [pair for one in value for pair in _pairs(one)]


def _scale_lr(config: Config, ratio: float) -> str:
    optimizer = config.optim_wrapper.get("optimizer")
    if not isinstance(optimizer, dict) or not isinstance(optimizer.get("lr"), float | int):
        raise ConfigError("the config's optimizer has no learning rate to fit to the batch")
    adaptive = "SGD" not in optimizer["type"]
    factor = math.sqrt(ratio) if adaptive else ratio
    old, optimizer["lr"] = optimizer["lr"], float(f"{optimizer['lr'] * factor:.3g}")
    for schedule in iter_dicts(config.get("param_scheduler")):
        if str(schedule.get("type")).endswith("LR"):  # not of a momentum
            schedule.update({k: schedule[k] * factor for k in RATES if schedule.get(k)})
    rule = "the square root of the batch" if adaptive else "the batch"
    return f"learning rate {optimizer['lr']:g}" + (
        f" ({old:g}, scaled with {rule})" if ratio != 1 else ""
    )
