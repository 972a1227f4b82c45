"""Parts of a config that mmpvt's replace: loaders, metrics, loops, samplers, optimizer wrappers."""

from __future__ import annotations

import atexit
import itertools
import sys

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device

from mmpvt.datasets.pipelines import (
    loading_step,
    loads_annotations,
    moves_content,
    resizes,
    transform_name,
)
from mmpvt.datasets.samplers import kill_workers
from mmpvt.engine.checks.channels import accepted_channels
from mmpvt.engine.config_parts import SPLITS, iter_datasets, iter_dicts, iter_steps
from mmpvt.engine.launch import is_first_process
from mmpvt.engine.saved_config import SCOPES
from mmpvt.engine.training_options import LOOPS
from mmpvt.utils.text import few

FUSED = ("Adam", "AdamW", "SGD")  # PyTorch's optimizers that have a fused kernel
# MMCV's, as any scope names it
IMAGE_LOADERS = ("LoadImageFromFile", *(f"{scope}.LoadImageFromFile" for scope in SCOPES))
BATCH_SAMPLER = "mmpvt.ResumableBatchSampler"


def use_own_loaders(config: Config) -> None:
    """Loads images and label maps by steps that check them, and name the file that can't be used.

    Args:
        config (Config): changed: its data loaders, and hooks that switch a pipeline.
    """
    heads = (d["decode_head"] for d in iter_dicts(config.model) if "decode_head" in d)
    head = next((head for head in heads if isinstance(head, dict)), {})
    pipelines = [d["pipeline"] for d in iter_steps(config) if isinstance(d.get("pipeline"), list)]
    steps = [step for step in iter_dicts(pipelines) if "type" in step]
    is_raw = any(step.get("color_type") == "unchanged" for step in steps)
    accepted = accepted_channels(config, steps) if is_raw else None
    label_map_loaders = ["mmpvt.LoadSegAnnotations", "mmseg.LoadAnnotations"]
    if config.get("default_scope") == "mmseg":
        label_map_loaders.append("LoadAnnotations")
    for d in iter_steps(config):
        if d.get("type") in IMAGE_LOADERS:
            d["type"] = "mmpvt.LoadImageFromFile"
            if d.get("color_type") == "unchanged":
                d["accepted"] = accepted
                d["channels"] = (config.model.get("backbone") or {}).get("in_channels")
        elif d.get("type") in label_map_loaders:
            d.update(type="mmpvt.LoadSegAnnotations", num_classes=head.get("num_classes"))


def use_own_metrics(config: Config) -> None:
    """Takes the project's metrics for MMDetection's and MMSegmentation's, of the same options.

    MMDetection's lists the APs of single classes in the order of their ids, under names in the
    order of the data set's classes, and VOC's has names of its own; MMSegmentation's can't count
    the pixels of large images.
    """
    own = dict.fromkeys(("CocoMetric", "mmdet.CocoMetric"), "mmpvt.CocoMetric")
    own |= dict.fromkeys(("IoUMetric", "mmseg.IoUMetric"), "mmpvt.IoUMetric")
    own |= dict.fromkeys(("VOCMetric", "mmdet.VOCMetric"), "mmpvt.VOCMetric")
    for split in ("val", "test"):
        for evaluator in iter_dicts(config.get(f"{split}_evaluator")):
            if evaluator.get("type") in own:
                evaluator["type"] = own[evaluator["type"]]


def score_all_images(config: Config, split: str) -> None:
    """Has a validation or test keep its last batch, whose objects would count as missed, and images
    without objects, where anything found is wrong."""
    loader = config.get(f"{split}_dataloader") or {}
    dropped = set()
    for part in (loader, loader.get("batch_sampler") or {}):
        if part.get("drop_last"):
            part["drop_last"] = False
            dropped.add("drop_last")
    for dataset in iter_datasets(loader.get("dataset")):
        if dataset.get("filter_cfg") and not dataset.get("test_mode"):
            dataset["filter_cfg"] = None
            dropped.add("filter_cfg")
    if dropped and is_first_process():
        names = " and ".join(sorted(dropped))
        print(f"the {split}_dataloader goes without {names}: all images are scored")


def place_annotations(config: Config, split: str) -> None:
    """Has annotations loaded where they fit: in a training before the image is resized or turned,
    so that they follow; in a validation or test after what resizes it, as predictions are in the
    image file's pixels, and metrics that take the truth from a pipeline compare both as they are.
    """
    for part in iter_dicts(config.get(f"{split}_dataloader")):
        steps = part.get("pipeline")
        steps = list(steps) if isinstance(steps, list | tuple) else []
        place = next((i for i, step in enumerate(steps) if loads_annotations(step)), None)
        if place is None:
            continue
        if split == "train":
            start = (loading_step(steps) or 0) + 1
            passed = steps[start:place]
            is_wrong = any(resizes(step) or moves_content(step) for step in passed)
            moved, said = [steps[place], *passed], "before"
        else:
            start = place
            passed = list(itertools.takewhile(resizes, steps[place + 1 :]))
            is_wrong = bool(passed)
            moved, said = [*passed, steps[place]], "after"
        if is_wrong:
            part["pipeline"] = [*steps[:start], *moved, *steps[start + len(moved) :]]
            if is_first_process():
                one, other = transform_name(steps[place]), few(map(transform_name, passed))
                print(f"the {split}_dataloader's {one} is moved {said} {other}, where it fits")


def adapt_amp(config: Config) -> None:
    """Without a GPU, trains in float32 where the config asks for mixed precision; on a CPU in
    bfloat16, if that is its type."""
    wrapper = config.get("optim_wrapper") or {}
    is_amp = wrapper.get("type") in ("AmpOptimWrapper", "mmpvt.AmpOptimWrapper")
    if is_amp and not torch.cuda.is_available():
        if wrapper.get("dtype") == "bfloat16" and get_device() == "cpu":
            wrapper["type"] = "mmpvt.Bfloat16OptimWrapper"
        else:
            print("no GPU here: training in float32, where the config asks for mixed precision")
            wrapper["type"] = "OptimWrapper"
        for key in ("loss_scale", "dtype", "use_fsdp"):
            wrapper.pop(key, None)


def use_own_optim_wrapper(config: Config) -> None:
    """Takes a fused kernel, and has :class:`~mmpvt.engine.hooks.divergence.DivergenceHook` guard
    the steps, unless the config chooses otherwise or has several optimizers."""
    wrapper = config.optim_wrapper
    optimizer = wrapper.get("optimizer") or {}
    if optimizer.get("type") in FUSED and not {"fused", "foreach"} & set(optimizer):
        optimizer["fused"] = True
    if "optimizer" in wrapper and wrapper.get("type") in (None, "OptimWrapper", "AmpOptimWrapper"):
        wrapper["type"] = f"mmpvt.{wrapper.get('type') or 'OptimWrapper'}"


def make_resumable(config: Config, on_bad_data: str) -> None:
    """Takes a loop and a batch sampler by which a resumed run ends with the weights of one that was
    never stopped.

    Args:
        config (Config): changed; one with a training loop of another kind keeps it.
        on_bad_data (str): what the sampler does about an image that can't be used: ``'stop'``,
            ``'skip'`` or ``'auto'``.
    """
    loop, loader = config.train_cfg, config.train_dataloader
    if "type" not in loop:
        by_epoch = loop.pop("by_epoch", True)
        loop.type = "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop"
    loop.type = LOOPS.get(loop.type.removeprefix("mmengine."), loop.type)
    if loop.type not in LOOPS.values():
        return
    if (loader.get("batch_sampler") or {}).get("type") == BATCH_SAMPLER:
        loader.batch_sampler.on_bad_data = on_bad_data
        return
    inner, drop_last = loader.get("batch_sampler"), loader.pop("drop_last", False)
    if inner and drop_last:
        inner = ConfigDict(inner, drop_last=True)
    loader.batch_sampler = ConfigDict(
        type=BATCH_SAMPLER,
        inner=inner,
        drop_last=drop_last,
        endless=loop.type == "mmpvt.IterLoop",
        on_bad_data=on_bad_data,
    )


def use_own_checkpoint_hooks(config: Config) -> None:
    """Keeps older checkpoints until the new one is intact, and trains on through a full disk.

    The best checkpoint is kept, too, unless the config says which or that none is.
    """
    for hook in (config.get("default_hooks") or {}).values():
        name = str((hook or {}).get("type")).removeprefix("mmengine.")
        if name in ("CheckpointHook", "LoggerHook"):
            hook.type = f"mmpvt.{name}"
        if hook and hook.get("type") == "mmpvt.CheckpointHook":
            hook.setdefault("save_best", "main")
            by_epoch = hook.get("by_epoch", True)
            if by_epoch and config.train_cfg.type == "mmpvt.IterLoop" and is_first_process():
                print(
                    "warning: the checkpoint hook counts epochs, and the training iterations: it "
                    "saves at the end alone, unless default_hooks.checkpoint has by_epoch=False "
                    "and an interval of iterations",
                    file=sys.stderr,
                )


def ignore_signals_in_workers(config: Config) -> None:
    """Has loading processes ignore signals that are sent to all, so that the main one can save."""
    atexit.register(kill_workers)
    for split in SPLITS:
        if loader := config.get(f"{split}_dataloader"):
            loader.pop("disable_subprocess_warning", None)
            if not loader.get("num_workers"):  # PyTorch refuses what is of workers
                loader.pop("persistent_workers", None)
                loader.pop("prefetch_factor", None)
            loader.worker_init_fn = ConfigDict(type="mmpvt.init_worker")
