"""Configs: finding and reading them, and setting in them what a caller or command line asks for."""

from __future__ import annotations

import copy
import difflib
import inspect
import itertools
import logging
import math
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine import registry
from mmengine.config import Config, ConfigDict
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import MODELS, OPTIMIZERS, DefaultScope, Registry
from mmengine.runner import Runner
from mmengine.utils import get_object_from_string

import mmpvt
from mmpvt.checkpoint.hub import WEIGHTS_FILE
from mmpvt.checkpoint.saving import newest_checkpoint
from mmpvt.compat import fix_package_lookup
from mmpvt.engine.class_names import read_class_lists
from mmpvt.engine.config_parts import SPLITS, default_argument, iter_dicts, split_datasets
from mmpvt.engine.saved_config import CONFIG_FILE, check_classification, read_saved
from mmpvt.engine.zoo import config_folder, find_config
from mmpvt.errors import CheckpointError, ConfigError, OutputError, UserError
from mmpvt.swap import swap
from mmpvt.utils.text import printable

DET_PREPROCESSORS = ("DetDataPreprocessor", "mmdet.DetDataPreprocessor")
PACKAGES = ("mmpvt", "mmdet", "mmseg", "mmpretrain")  # whose configs PACKAGE::PATH may name
SUFFIXES = (".py", ".json", ".yaml", ".yml")
TRAINING = ("train_dataloader", "train_cfg", "optim_wrapper")  # what a config to train has
TESTING = ("test_dataloader", "test_cfg", "test_evaluator")  # what one to test has
WARM_UPS = ("LinearLR", "ConstantLR")
RENAMED = ("_memorise", "_overfit")  # in the names of configs, which may be given as they were
# arguments that count epochs (iterations with by_epoch=False): of schedules, of hooks
SCHEDULED = {"begin", "end", "milestones", "T_max", "total_steps", "step_size", "periods"}
COUNTS = SCHEDULED | {"max_epochs", "max_iters", "val_begin", "interval", "max_keep_ckpts"}
SPANS = ("T_max", "total_steps")  # mostly from begin to end
RATES = ("eta_min", "eta_max")  # of schedules, as learning rates
SWITCHED = {"switch_epoch", "num_last_epochs", "begin_epoch"}
# folders of code that isn't a user's
LIBRARIES = tuple(
    str(folder) + os.sep
    for folder in (
        *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
        Path(mmpvt.__file__).parent,
    )
)
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
RENAMED_HOOKS = {"mmpvt.LeftOutHook": "mmpvt.SkippedDataHook"}  # in configs of earlier runs


def _unreadable(path: str, error: BaseException) -> ConfigError:
    """Says what is wrong with a config, and in which line of the user's files."""
    while isinstance(error, ImportError) and isinstance(error.__context__, ImportError):
        if error.name is not None:
            break
        error = error.__context__  # MMEngine's own has no name and doesn't say why
    lines = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<", *LIBRARIES))
    ]
    line = f" ({lines[-1].filename}, line {lines[-1].lineno})" if lines else ""
    hint = None
    if isinstance(error, ModuleNotFoundError):
        hint = "install it, or set PYTHONPATH to the folder that holds it"
    return ConfigError(
        f"{path} can't be read as a config: {type(error).__name__}: {error}{line}",
        where=path,
        hint=hint,
    )


def read_config(path: str) -> Config:
    """Reads a config file as it is.

    Args:
        path (str): a file; the name of one that comes with the package, without its ending;
            ``mmdet::…``, ``mmseg::…``, ``mmpretrain::…``, ``mmpvt::…`` for an installed one; or a
            folder of ``save_pretrained``.

    Returns:
        Config: the config.

    Raises:
        ConfigError: there is no such config, it can't be parsed, or it holds no model.
    """
    file = _find(path)
    if file.suffix == ".json" and (saved := read_saved(file)):
        saved._filename = str(file)
        return saved
    try:
        with ExitStack() as undo:
            fix_package_lookup(undo)  # for bases of ``mmdet::``
            config = Config.fromfile(file)
        is_experiment = isinstance(config.get("model"), dict)
        if is_experiment:
            name_types(config)
    except UserError:
        raise
    except Exception as error:
        if "mmpretrain" in str(error):
            check_classification(path)
        raise _unreadable(path, error) from error
    if config.get("default_scope") == "mmpretrain":
        check_classification(path)
    if not is_experiment:
        raise ConfigError(
            f"{path} holds no model", where=path, hint="give an experiment's config, not a part"
        )
    return config


def name_types(config: Config) -> None:
    """Names classes as registries do, where MMEngine's new style has the classes themselves, or
    their modules' names in its copy of such a config.

    Args:
        config (Config): changed. A class that no registry has stays; without a ``default_scope`` it
            is the package of the model's class.
    """
    kinds = [(part, _class_of(part.get("type"))) for part in iter_dicts(config._cfg_dict)]
    kinds = [(part, kind) for part, kind in kinds if kind is not None]
    if not kinds:
        return
    if not config.get("default_scope"):
        package = getattr(_class_of(config.model.get("type")), "__module__", "").partition(".")[0]
        if package in PACKAGES:
            config.default_scope = package
    names = _registered_names(config.get("default_scope"))
    for part, kind in kinds:
        if kind in names:
            part["type"] = names[kind]


def _class_of(kind: object) -> Any:
    """The class or function that is a ``type``, or that it names by the module of an imported
    package; None of other names."""
    if isinstance(kind, str):
        is_path = kind.count(".") > 1 and kind.partition(".")[0] in sys.modules
        return get_object_from_string(kind) if is_path else None
    return kind if callable(kind) else None


def _registered_names(scope: str | None) -> dict[object, str]:
    """What registers classes and functions, by name as seen from a scope."""
    names: dict[object, str] = {}
    for root in vars(registry).values():
        if not isinstance(root, Registry):
            continue
        own = root.children.get(scope)
        shadowing = own.module_dict if own else {}
        for part in (own, root, *root.children.values()):
            for name, kind in part.module_dict.items() if part else ():
                is_seen = part is own or (part is root and name not in shadowing)
                names.setdefault(kind, name if is_seen else f"{part.scope}.{name}")
    return names


def load_config(path: str, cfg_options: dict | None = None, backbone: str | None = None) -> Config:
    """Reads a config file, and makes it one to run.

    Args:
        path (str): a file; the name of one that comes with the package, without its ending; or
            ``mmdet::…``, ``mmseg::…``, ``mmpvt::…`` for an installed one.
        cfg_options (dict | None): dotted keys and the values to set.
        backbone (str | None): a PVT to put in the place of the model's backbone first.

    Returns:
        Config: the config, with the options in.

    Raises:
        ConfigError: there is no such config, it can't be parsed, or an option doesn't fit.
        SwapError: the backbone can't be swapped.
    """
    config = read_config(path)
    name = Path(path).stem
    if backbone:
        swapped = swap(config, backbone)
        for change in swapped.changes:
            print(printable(f"{change.where}: {change.what}"))
        config, name = swapped.config, f"{name}_{swapped.name}"
    merge_options(config, cfg_options)
    _check_kinds(config)
    read_class_lists(config)
    take_channels(config)
    config.work_dir = config.get("work_dir") or str(Path("work_dirs") / name)
    return config


def _check_kinds(config: Config) -> None:
    """Raises a ConfigError where a value is of another kind than is taken there."""
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


def merge_options(config: Config, cfg_options: dict | None) -> None:
    """Sets dotted keys of a config.

    Raises:
        ConfigError: they don't fit it, or look like a mistake in writing.
    """
    options = cfg_options or {}
    _check_new_keys(config, options)
    for key, value in options.items():
        if key.endswith("_dataloader.batch_size") and not (isinstance(value, int) and value > 0):
            raise ConfigError(f"{key} is {value!r}, and it counts images", setting="cfg_options")
        if isinstance(value, str | int | float) and _is_part(config, key):
            raise ConfigError(
                f"{key} is {value!r}, and it takes a dict",
                hint=f"set its keys one by one, {key}.KEY=VALUE",
                setting="cfg_options",
            )
    try:
        config.merge_from_dict(options)
    except (KeyError, TypeError, AssertionError, IndexError) as error:
        raise ConfigError(
            f"they don't fit {config.filename}: {error}", setting="cfg_options"
        ) from error


def _is_part(config: Config, key: str) -> bool:
    """Whether a dotted key holds a dict that a runner or registry reads, not an arch's, say."""
    part: Any = config
    for name in key.split("."):
        part = part.get(name) if isinstance(part, Config | dict) else None
    return isinstance(part, dict) and ("." not in key or "type" in part)


def _check_new_keys(config: Config, options: dict) -> None:
    """Refuses new keys that nothing would read, or nothing before the first checkpoint, and that
    are named almost as one that is read."""
    known = {
        "": {*config, *inspect.signature(Runner).parameters, "tta_model", "tta_pipeline"},
        "default_hooks.checkpoint.": {*inspect.signature(CheckpointHook).parameters},
    }
    for key, (place, names) in itertools.product(options, known.items()):
        name = key.removeprefix(place).partition(".")[0]
        if not key.startswith(place) or name in names:
            continue
        if alike := difflib.get_close_matches(name, names, 1, cutoff=0.8):
            raise ConfigError(f"there is no {key}", hint=f"write {alike[0]}", setting="cfg_options")


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
    """Raises a ConfigError if there is no such optimizer, settings by module are no dicts, or
    gradients can't be clipped so."""
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


def take_channels(config: Config) -> None:
    """Gives detectors of other images than RGB a data preprocessor that takes their channels."""
    for part in iter_dicts(config.get("model")):
        preprocessor = part.get("data_preprocessor")
        if not isinstance(preprocessor, dict) or preprocessor.get("type") not in DET_PREPROCESSORS:
            continue
        means = len(preprocessor.get("mean") or (0,))
        channels = (part.get("backbone") or {}).get("in_channels", 3)
        if means not in (1, 3) or channels != 3:
            preprocessor["type"] = "mmpvt.DetDataPreprocessor"


def set_data_root(config: Config, root: str) -> None:
    """Moves every data set, and the files of evaluators beside it, to another folder.

    Paths that don't lie in a data set's ``data_root`` stay as they are.

    Args:
        config (Config): changed.
        root (str): the folder that holds ``annotations`` and the images.

    Raises:
        ConfigError: the config names no data root.
    """
    loaders = [config.get(f"{split}_dataloader") for split in SPLITS]
    with_root = [d for d in iter_dicts(loaders) if isinstance(d.get("data_root"), str)]
    # an empty one is the current folder's, unless the data set's paths are absolute
    with_root = [d for d in with_root if d["data_root"] or not _is_absolute(d.get("ann_file"))]
    if not with_root:
        raise ConfigError(
            "the config names no data_root to replace",
            setting="data_root",
            hint="change the paths in it, or train with the data where it is now",
        )
    root = root.rstrip("/") or "/"
    olds = {old for d in with_root if (old := d["data_root"].rstrip("/"))}

    def moved(value: str) -> str:
        for old in sorted(olds, key=len, reverse=True):
            if value == old or value.startswith(old + "/"):
                # what is absolute isn't joined to a data_root
                is_path = _is_absolute(old) and "://" not in root
                new = str(Path(root).absolute()) if is_path else root
                return new + value[len(old) :]
        return value

    for d in with_root:
        d["data_root"] = d["data_root"] or root
    for d in iter_dicts((loaders, config.get("val_evaluator"), config.get("test_evaluator"))):
        d.update({key: moved(value) for key, value in d.items() if isinstance(value, str)})


def _is_absolute(path: object) -> bool:
    return isinstance(path, str) and Path(path).is_absolute()


def set_pretrained(config: Config, source: str) -> None:
    """Makes every backbone of the model start from other weights.

    Args:
        config (Config): changed.
        source (str): a file or URL in any known layout, or ``'none'`` for random weights.

    Raises:
        CheckpointError: the file doesn't exist.
        ConfigError: the model has no backbone.
    """
    if source != "none" and not _exists(source):
        raise CheckpointError(f"no such file: {source}", setting="pretrained", where=source)
    backbones = _backbones(config, "pretrained")
    leave_backbones_to_checkpoint(config)
    for backbone in backbones if source != "none" else ():
        backbone["init_cfg"] = dict(type="Pretrained", checkpoint=source)


def set_resume(config: Config, checkpoint: str) -> None:
    """Resumes a run.

    Args:
        config (Config): changed.
        checkpoint (str): the file, or ``'auto'`` for the newest in the work directory.

    Raises:
        CheckpointError: there is none.
    """
    if checkpoint == "auto":
        found = newest_checkpoint(config.work_dir)
        if found is None:
            raise CheckpointError(
                f"nothing to resume from in {config.work_dir}, which holds no intact checkpoint",
                setting="resume",
                where=config.work_dir,
                hint="leave it out to start anew, or name a checkpoint",
            )
        checkpoint = str(found)
    elif not Path(checkpoint).is_file():
        raise CheckpointError(
            f"no such checkpoint: {checkpoint}", setting="resume", where=checkpoint
        )
    config.resume = True
    config.load_from = checkpoint
    leave_backbones_to_checkpoint(config)


def leave_backbones_to_checkpoint(config: Config) -> None:
    """Has no backbone load weights of its own, which others replace."""
    for part in iter_dicts(config.model):
        named = (part.get(key) for key in ("backbone", "backbone_cfg"))
        backbones = [backbone for backbone in named if isinstance(backbone, dict)]
        for owner in (part, *backbones) if backbones else ():
            if isinstance(owner.get("pretrained"), bool):  # timm's, whose default is to download
                owner["pretrained"] = False
            else:
                owner.pop("pretrained", None)
        for backbone in backbones:
            backbone["init_cfg"] = None


def set_checkpoint(config: Config, checkpoint: str) -> None:
    """Sets the checkpoint, a file or URL, to test or export.

    Raises:
        CheckpointError: there is no such file.
    """
    if not _exists(checkpoint):
        raise CheckpointError(
            f"no checkpoint at {checkpoint}: there is no such file", where=checkpoint
        )
    config.load_from = checkpoint


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
    ratio, loop[unit] = length / loop[unit], length

    def scaled(value: Any) -> Any:
        return scaled_count(value, ratio)

    schedules = list(iter_dicts(config.get("param_scheduler")))
    ends = [schedule.get("end", math.inf) for schedule in schedules]
    for schedule in schedules:
        scale_schedule(schedule, ratio)
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


def freeze_stages(config: Config, number: int) -> None:
    """Keeps the first stages of the model's backbones as they are loaded.

    Args:
        config (Config): changed.
        number (int): how many stages; of PVTs, with their patch and position embeddings.

    Raises:
        ConfigError: the model has no backbone, or one that can't freeze as many stages.
    """
    from mmpvt.datasets.pipelines import find_class  # imports MMDetection, which a swap needn't

    backbones = _backbones(config, "freeze")
    if number < 0:
        raise ConfigError(f"{number} is no number of stages", setting="freeze")
    with DefaultScope.overwrite_default_scope(config.get("default_scope") or "mmdet"):
        for backbone in backbones:
            if default_argument(find_class(MODELS, backbone["type"]), "frozen_stages") == "":
                raise ConfigError(
                    f"a {backbone['type']} has no frozen_stages, so that none can be frozen",
                    setting="freeze",
                )
            if not _can_be_built(backbone, number) and _can_be_built(backbone, 0):
                raise ConfigError(
                    f"a {backbone['type']} has fewer than {number} stages", setting="freeze"
                )
            backbone["frozen_stages"] = number
    sources = (d.get(key) for d in backbones for key in ("init_cfg", "pretrained"))
    if number and not any((config.get("load_from"), config.model.get("pretrained"), *sources)):
        print("warning: the frozen stages keep random weights, as none are loaded", file=sys.stderr)


def _can_be_built(backbone: ConfigDict, frozen_stages: int) -> bool:
    try:
        with torch.device("meta"):
            MODELS.build(dict(copy.deepcopy(backbone), frozen_stages=frozen_stages))
    except Exception:  # of any backbone
        return False
    return True


def make_work_dir(config: Config) -> None:
    """Makes the work directory, so that a run can't fail on it later.

    Raises:
        OutputError: it can't be made or written to.
    """
    folder = Path(config.work_dir)
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Raises an OutputError where a work directory can't be written to."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"the work directory {folder} can't be written to ({error.strerror})",
            where=folder,
            instead=("work_dir", None),
        ) from error


def set_hook(config: Config, **hook) -> None:
    """Adds a hook to the runner's, or sets the arguments of one that the config has."""
    hooks = [ConfigDict(one) for one in config.get("custom_hooks") or ()]
    for one in hooks:
        one.type = RENAMED_HOOKS.get(one.type, one.type)
    known = next((one for one in hooks if one.type == hook["type"]), None)
    if known is None:
        hooks.append(ConfigDict(hook))
    else:
        known.update(hook)
    config.custom_hooks = hooks


def _backbones(config: Config, setting: str) -> list[dict]:
    backbones = [d["backbone"] for d in iter_dicts(config.model) if "backbone" in d]
    if not backbones:
        raise ConfigError("the config's model has no backbone", setting=setting)
    return backbones


def _exists(checkpoint: str) -> bool:
    """Whether a file, or a folder with one, is there; a URL is tried when it is downloaded."""
    path = Path(checkpoint).expanduser()
    return "://" in checkpoint or path.is_file() or (path / WEIGHTS_FILE).is_file()


def _find(path: str) -> Path:
    package, _, name = path.rpartition("::")
    folder = config_folder(package) if package in PACKAGES else None
    file = folder / name if folder else Path(path)
    if (file / CONFIG_FILE).is_file():
        file /= CONFIG_FILE
    if not file.is_file():
        file = file.parent / file.name.replace(*RENAMED)
    if not file.is_file():
        file = find_config(path.replace(*RENAMED)) or file
    if not file.is_file():
        near = _near(path)
        hint = f"did you mean {' or '.join(near)}?" if near else "mmpvt list names those there are"
        raise ConfigError(f"no config at {path}", where=path, hint=hint)
    if file.suffix not in SUFFIXES:
        raise ConfigError(f"{path} is no config: one ends in .py, .json, .yaml or .yml", where=path)
    return file


def _near(path: str) -> list[str]:
    """Up to three configs of a name like the last part of ``path``."""
    stem = Path(path.rpartition("::")[2]).stem
    beside = {
        file.stem: str(file)
        for folder in {Path(path).parent, Path("configs")}
        if "::" not in path
        for file in folder.glob("*.py")
    }
    installed = {
        file.stem: file.stem if package == "mmpvt" else f"{package}::{file.relative_to(folder)}"
        for package in PACKAGES
        if (folder := config_folder(package))
        for file in folder.rglob("*.py")
        if "_base_" not in file.parts
    }
    known = {**installed, **beside}
    close = difflib.get_close_matches(stem, known, n=3, cutoff=0.5)
    return [known[name] for name in close]
