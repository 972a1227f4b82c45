"""Turns a config's run into one that can be stopped at any moment without a loss."""

from __future__ import annotations

import atexit

from mmengine.config import Config, ConfigDict

from mmpvt.datasets.samplers import kill_workers

LOOPS = {  # MMEngine's to ours
    "EpochBasedTrainLoop": "mmpvt.EpochLoop",
    "IterBasedTrainLoop": "mmpvt.IterLoop",
}


def make_resumable(config: Config, on_bad_data: str) -> None:
    """Has a resumed run end with the weights of one that was never stopped.

    A config with a training loop of its own keeps it.

    Args:
        config (Config): changed.
        on_bad_data (str): ``'auto'``, ``'stop'`` or ``'skip'``, as of
            :class:`~mmpvt.datasets.samplers.Fetch`.
    """
    loop = config.train_cfg
    if "type" not in loop:
        by_epoch = loop.pop("by_epoch", True)
        loop.type = "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop"
    kind = LOOPS.get(loop.type.removeprefix("mmengine."))
    if kind is None:
        return
    loop.type = kind
    loader = config.train_dataloader
    loader.batch_sampler = ConfigDict(
        type="mmpvt.ResumableBatchSampler",
        inner=loader.get("batch_sampler"),
        drop_last=loader.pop("drop_last", False),
        endless=kind == "mmpvt.IterLoop",
        on_bad_data=on_bad_data,
    )


def keep_checkpoints(config: Config) -> None:
    """Keeps older checkpoints until the new one is whole, and trains on through a full disk.

    Args:
        config (Config): changed.
    """
    for hook in (config.get("default_hooks") or {}).values():
        if hook and hook.get("type") in ("CheckpointHook", "LoggerHook"):
            hook.type = f"mmpvt.{hook.type}"


def shield_workers(config: Config) -> None:
    """Has loading processes outlive a signal that is sent to all, so that the main one can save.

    Args:
        config (Config): changed.
    """
    atexit.register(kill_workers)
    for split in ("train", "val", "test"):
        loader = config.get(f"{split}_dataloader")
        if loader:
            loader.pop("disable_subprocess_warning", None)
            loader.worker_init_fn = ConfigDict(type="mmpvt.init_worker")
