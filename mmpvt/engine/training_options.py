"""Options of a training that change the config's optimizer wrapper, hooks or loggers."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device

from mmpvt.datasets.pipelines import loading_step, loads_annotations
from mmpvt.engine.checks.settings import check_validates
from mmpvt.engine.choices import EMA_MOMENTUM, LOGGERS
from mmpvt.engine.class_names import is_classifier
from mmpvt.engine.config import set_hook
from mmpvt.engine.config_parts import iter_datasets, iter_dicts, split_datasets
from mmpvt.engine.launch import is_first_process
from mmpvt.engine.mixed_precision import check_amp
from mmpvt.engine.schedules import RATES
from mmpvt.errors import ConfigError, LaunchError
from mmpvt.utils.text import encodable, printable

EMA_GAMMA = 10  # after t steps at least 10 / (10 + t) of the new weights: short runs average, too
LOOPS = {  # MMEngine's to ours
    "EpochBasedTrainLoop": "mmpvt.EpochLoop",
    "IterBasedTrainLoop": "mmpvt.IterLoop",
}


def set_early_stop(config: Config, patience: int) -> None:
    """Ends training where validations are no better than an earlier one any more.

    Raises:
        ConfigError: ``patience`` is below 1, or no fewer than the validations are; the config
            doesn't validate, or its training loop is of another kind.
    """
    if patience < 1:
        raise ConfigError(f"{patience} is no number of validations", setting="early_stop")
    loop = config.train_cfg
    kind = loop.get("type", "EpochBasedTrainLoop").removeprefix("mmengine.")
    check_validates(config, "early_stop")
    if kind not in (*LOOPS, *LOOPS.values()):
        raise ConfigError(f"the loop {kind} can't be told to end", setting="early_stop")
    by_epoch = "max_epochs" in loop
    length = loop.max_epochs if by_epoch else loop.max_iters
    validations = math.ceil(length / loop.get("val_interval", 1 if by_epoch else 1000))
    if validations <= patience:
        interval = f"train_cfg.val_interval={max(1, length // (4 * patience))}"
        raise ConfigError(
            f"the number of validations is {validations}, too few to see {patience} without "
            "improvement",
            setting="early_stop",
            instead=("cfg_options", interval) if length > patience else None,
            hint=None if length > patience else "name a smaller number, or train for longer",
        )
    set_hook(config, type="mmpvt.EarlyStoppingHook", patience=patience)


def set_ema(config: Config, momentum: float | None) -> None:
    """Averages the weights; a config's own average keeps its kind.

    Raises:
        ConfigError: the momentum is not above 0 and at most 0.5.
    """
    hooks = config.get("custom_hooks") or ()
    for hook in hooks:
        if hook["type"] in ("EMAHook", "mmengine.EMAHook"):
            hook["type"] = "mmpvt.EMAHook"
    if momentum is None:
        return
    if not 0 < momentum <= 0.5:
        raise ConfigError(
            f"{momentum:g} is no momentum: it is the new weights' part of the average, such as "
            f"{EMA_MOMENTUM}",
            setting="ema",
        )
    kind = dict(ema_type="MomentumAnnealingEMA", gamma=EMA_GAMMA)
    is_known = any(hook["type"] == "mmpvt.EMAHook" for hook in hooks)
    set_hook(config, type="mmpvt.EMAHook", momentum=momentum, **({} if is_known else kind))


def set_loggers(config: Config, names: Sequence[str]) -> None:
    """Writes scalars for other programs; for TensorBoard too, where it is installed.

    Raises:
        ConfigError: a name is unknown, or its package is not installed.
    """
    for name in names:
        if name not in LOGGERS:
            known = ", ".join(LOGGERS)
            raise ConfigError(f"there is no {name!r}, but {known}", setting="loggers")
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"{name} is not installed", setting="loggers", hint=f"pip install {name}"
            )
    if "wandb" in names:
        _check_wandb()
    if names and not config.get("visualizer"):
        config.visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")])
    backends = (config.get("visualizer") or {}).get("vis_backends")
    if backends is None:
        return
    backends = list(backends)
    asked = dict.fromkeys(names)
    if importlib.util.find_spec("tensorboard") is not None:
        asked.setdefault("tensorboard")
    for name in asked:
        if name == "tensorboard" and encodable(config.work_dir) != config.work_dir:
            said = printable(config.work_dir)
            print(f"no scalars for TensorBoard, which takes no such path: {said}")
        elif all(backend["type"] != LOGGERS[name] for backend in backends):
            settings = _mlflow_settings(config) if name == "mlflow" else {}
            backends.append(ConfigDict(type=LOGGERS[name], **settings))
    config.visualizer.vis_backends = backends


def _check_wandb() -> None:
    """Raises a ConfigError where wandb would ask for a key, and nobody is there to answer."""
    import wandb

    knows_prompt = "prompt" in inspect.signature(wandb.login).parameters
    if (
        wandb.setup().settings.mode == "online"
        and not (sys.stdin and sys.stdin.isatty())
        and knows_prompt
        and not wandb.login(prompt=False)
    ):
        raise ConfigError(
            "wandb has no API key",
            setting="loggers",
            hint="run `wandb login`, or set WANDB_MODE=offline",
        )


def _mlflow_settings(config: Config) -> dict:
    """Where MLflow writes: to the server that MLFLOW_TRACKING_URI names, or the work directory.

    MMEngine's default is a kind of folder that MLflow 3 refuses. What it tracks of the config are
    the parts that runs are compared by, as MLflow refuses values of more than 6,000 characters; the
    config's text is there as a file. Files of the work directory aren't copied: annotations may be
    gigabytes.
    """
    folder = Path(config.work_dir).absolute()
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    tracked = ("train_cfg", "optim_wrapper", "param_scheduler")
    return dict(
        exp_name=folder.name,
        tracking_uri=uri or f"sqlite:///{folder / 'mlflow.db'}",
        artifact_location=None if uri else (folder / "mlflow").as_uri(),
        artifact_suffix=(),
        tracked_config_keys=[key for key in tracked if config.get(key)],
    )


def add_val_loss(config: Config) -> None:
    """Computes the loss on validation's images, with annotations that are loaded as in training.

    In a test's pipeline they come after the image's size has changed, or not at all. A classifier's
    labels are the data set's own.

    Raises:
        ConfigError: the pipelines load no images, or no annotations.
    """
    trained = [dataset for _, dataset in split_datasets(config, ["train"])]
    steps = (step for dataset in trained for step in dataset.get("pipeline") or ())
    annotations = next(filter(loads_annotations, steps), None)
    loader = copy.deepcopy(config.val_dataloader)
    for dataset in [] if is_classifier(config.model) else iter_datasets(loader.dataset):
        pipeline = [step for step in dataset.get("pipeline", ()) if not loads_annotations(step)]
        place = loading_step(pipeline)
        if annotations is None or place is None:
            raise ConfigError(
                "the config's pipelines have no step that loads images or annotations, which the "
                "loss needs",
                setting="val_loss",
            )
        step = ConfigDict(annotations)
        if "folders" in step:
            step.folders = pipeline[place]["folders"]
        dataset["pipeline"] = [*pipeline[: place + 1], step, *pipeline[place + 1 :]]
        if "filter_cfg" in trained[0]:  # heads may not know images without objects
            dataset.update(filter_cfg=trained[0]["filter_cfg"], test_mode=False)
    is_segmenter = config.get("default_scope") == "mmseg"  # whose images are of several sizes
    loader.batch_size = 1 if is_segmenter else config.train_dataloader.batch_size
    loader.persistent_workers = False
    set_hook(config, type="mmpvt.ValLossHook", dataloader=loader)


def set_amp(config: Config, dtype: str) -> None:
    """Trains in mixed precision; for float16, whose range is small, the loss is scaled.

    Raises:
        LaunchError: the device doesn't compute in ``dtype``.
    """
    device = get_device()
    if device not in ("cpu", "cuda"):
        raise LaunchError(
            f"mixed precision is for CUDA GPUs and CPUs, and PyTorch's device here is {device!r}",
            setting="amp",
            hint="leave it out",
        )
    check_amp(device, dtype)
    loss_scale = "dynamic" if dtype == "float16" else 1.0
    config.optim_wrapper.update(type="AmpOptimWrapper", dtype=dtype, loss_scale=loss_scale)


def set_auto_scale_lr(config: Config) -> None:
    """Scales the learning rate with the batch size.

    Raises:
        ConfigError: the config doesn't say which batch size its learning rate is for.
    """
    if not (config.get("auto_scale_lr") or {}).get("base_batch_size"):
        raise ConfigError(
            "the config doesn't say which batch size its learning rate is for",
            setting="auto_scale_lr",
            instead=("cfg_options", "auto_scale_lr.base_batch_size=16"),
        )
    config.auto_scale_lr.enable = True
    # MMEngine scales the optimizer's rate alone, with the images of an iteration
    schedules = list(iter_dicts(config.get("param_scheduler")))
    left = [f"the schedules' {key}" for key in RATES if any(s.get(key) for s in schedules)]
    if (times := config.optim_wrapper.get("accumulative_counts", 1)) != 1:
        left.append(f"accumulative_counts={times}")
    if left and is_first_process():
        print(
            f"warning: auto_scale_lr scales with the batch of one iteration, and leaves out "
            f"{' and '.join(left)}",
            file=sys.stderr,
        )
