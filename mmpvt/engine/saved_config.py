"""A trained model's config as data: the ``config.json`` that ``Predictor.save_pretrained`` writes.

A ``.py`` config is code that its reader runs. A config that is data still names classes by their
import path, which MMEngine imports, and operators, which mmcv evaluates as Python. So only what
MMEngine, mmcv, MMDetection, MMSegmentation or mmpvt have registered is taken from this one, and of
mmpretrain's what image classifiers are made of.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import Registry

from mmpvt.engine.config_parts import iter_dicts, split_datasets
from mmpvt.environment import setup_environment
from mmpvt.errors import BadFileError, ConfigError
from mmpvt.utils.files import parse_json, read_bytes
from mmpvt.utils.text import to_json
from mmpvt.version import __version__

CONFIG_FILE = "config.json"
MAX_BYTES = 8 << 20  # of a config; MMDetection's largest takes 0.1 MB
TUPLE = "__tuple__"  # JSON has lists only, and transforms tell them from tuples
KEPT = (
    *("default_scope", "model", "data_preprocessor"),
    *("test_dataloader", "test_evaluator", "test_cfg", "tta_model", "tta_pipeline"),
)
SOURCES = ("init_cfg", "pretrained")  # of weights that a training starts from
PRETRAIN = "mmpretrain"
SCOPES = ("mmengine", "mmcv", "mmdet", "mmseg", PRETRAIN, "mmpvt")
# Of mmpretrain's modules, those of image classifiers: others load code by a model's name, unpickle
# data sets, or evaluate arguments.
CLASSIFIERS = (
    "mmcv.transforms.",  # registered again
    *(
        f"{PRETRAIN}.{name}"
        for name in (
            *("models.classifiers.image", "models.backbones", "models.necks", "models.heads"),
            *("models.losses", "models.tta", "models.utils.batch_augments"),
            *("models.utils.data_preprocessor", "datasets.base_dataset", "datasets.custom"),
            *("datasets.imagenet", "datasets.multi_label", "datasets.transforms"),
            *("evaluation.metrics.single_label", "evaluation.metrics.multi_label"),
        )
    ),
)
# of mmcv.ops, that heads name
OPERATORS = {"nms", "soft_nms", "RoIAlign", "RoIPool", "SimpleRoIAlign"}
# The first evaluates an argument as Python, the other downloads a model by its name.
REFUSED = {"CameraMotionCompensation", "TIMMBackbone"}
CLASSIFICATION = (PRETRAIN, "torchvision")  # packages that classifiers take


def to_data(config: Config, meta: Mapping) -> dict:
    """What of a config a trained model needs, as JSON can hold it.

    Paths of this machine and where the training's weights came from are left out.

    Args:
        config (Config): of an experiment; stays as it is.
        meta (Mapping): the model's ``classes`` and, perhaps, ``palette``.

    Returns:
        dict: what :func:`from_data` takes.

    Raises:
        ConfigError: it holds what is no data, or what :func:`from_data` refuses.
    """
    kept = Config({key: copy.deepcopy(config[key]) for key in KEPT if key in config})
    if not kept.get("test_dataloader"):
        kept.test_dataloader = copy.deepcopy(config.get("val_dataloader"))
    _, dataset = next(split_datasets(kept, ["test"]), ("", None))
    if dataset is None:
        raise ConfigError("the config has no test_dataloader, which says how images are prepared")
    if meta:
        dataset["metainfo"] = dict(dataset.get("metainfo") or {}, **meta)
    root = dataset.get("data_root") or ""
    for key in dataset.keys() & {"ann_file", "data_prefix"}:  # which are joined to it
        dataset[key] = _within(dataset[key], root)
    kept.test_dataloader.dataset = dataset  # without wrappers such as ConcatDataset
    content: dict[str, object] = {key: _encode(kept[key], key) for key in kept}
    _drop_sources(content)
    for key in ("test_dataloader", "test_evaluator"):
        if key in content:
            content[key] = _without_folders(content[key], root)
    classes = list(meta.get("classes", ()))
    data = dict(library="mmpvt", version=__version__, classes=classes, config=content)
    from_data(json.loads(to_json(data)))
    return data


def from_data(data: object) -> Config:
    """The config that :func:`to_data` wrote.

    Args:
        data (object): as JSON was parsed; it may be anybody's.

    Raises:
        ConfigError: it is none, or names what isn't registered.
    """
    content = data.get("config") if isinstance(data, dict) else None
    if not isinstance(content, dict) or not _is_ours(data):
        raise ConfigError("it is not one that mmpvt's save_pretrained wrote")
    content = {key: _decode(value) for key, value in content.items() if key in KEPT}
    scope = content.get("default_scope", "mmdet")
    if scope not in SCOPES or not isinstance(content.get("model"), dict):
        raise ConfigError("it has no model of MMDetection, MMSegmentation or mmpretrain")
    _check(content, scope)
    _drop_sources(content)
    return Config(content)


def read_saved(path: Path) -> Config | None:
    """The config of a JSON file, or None where another program wrote that.

    Raises:
        ConfigError: it can't be read, or names what isn't registered.
    """
    try:
        data = parse_json(read_bytes(path, MAX_BYTES))
    except (BadFileError, OSError, ValueError) as error:
        raise ConfigError(f"{path} can't be read as a config: {error}", where=path) from error
    if not _is_ours(data):
        return None
    try:
        return from_data(data)
    except ConfigError as error:
        raise ConfigError(f"{path} is refused: {error.what}", where=path) from error


def _is_ours(data: object) -> bool:
    return isinstance(data, dict) and data.get("library") == "mmpvt"


def _drop_sources(content: dict) -> None:
    for part in iter_dicts(content):
        for key in SOURCES:
            part.pop(key, None)


def _encode(value: object, where: str) -> object:
    """A value as JSON can hold it."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ConfigError(f"{where} has keys that aren't strings, which JSON can't hold")
        return {key: _encode(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return {TUPLE: items} if isinstance(value, tuple) else items
    if isinstance(value, type):  # of a config in MMEngine's new style
        scope = value.__module__.partition(".")[0]
        return f"{scope}.{value.__name__}" if scope in ("mmdet", "mmseg") else value.__name__
    raise ConfigError(f"{where} is a {type(value).__name__}, which JSON can't hold")


def _decode(value: object) -> object:
    if isinstance(value, dict):
        if value.keys() == {TUPLE} and isinstance(value[TUPLE], list):
            return tuple(map(_decode, value[TUPLE]))
        return {key: _decode(item) for key, item in value.items()}
    return list(map(_decode, value)) if isinstance(value, list) else value


def _within(value: object, root: str) -> object:
    """Absolute paths within the data's root as relative to it."""
    if isinstance(value, dict):
        return {key: _within(item, root) for key, item in value.items()}
    if isinstance(value, str) and Path(root).is_absolute() and Path(value).is_relative_to(root):
        return Path(value).relative_to(root).as_posix()
    return value


def _without_folders(value: object, root: str) -> object:
    """Absolute paths as their last part; those within the data's root from its last part on, so
    that the files of another root are found."""
    if isinstance(value, dict):
        return {key: _without_folders(item, root) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(item, root) for item in value]
    if isinstance(value, str) and (path := Path(value)).is_absolute():
        if Path(root).is_absolute() and path.is_relative_to(root):
            return (Path(root).name / path.relative_to(root)).as_posix()
        return path.name
    return value


def _check(value: object, scope: str) -> None:
    """Refuses what would run code: a name that isn't registered, a config's file."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "type":
                _check_name(item, scope)
            elif key == "_scope_" and (item not in SCOPES or item == PRETRAIN != scope):
                raise ConfigError(f"it names the scope {item!r}")
            elif key == "_base_":
                raise ConfigError("it inherits another config")
            else:
                _check(item, scope)
    elif isinstance(value, list | tuple):
        for item in value:
            _check(item, scope)
    elif isinstance(value, str) and value.lower().endswith(".py"):
        raise ConfigError(f"it names a Python file, {value!r}")


def _check_name(name: object, scope: str) -> None:
    prefix, _, own = str(name).rpartition(".")
    scopes = (prefix,) if prefix else (scope, "mmengine")
    known = isinstance(name, str) and own not in REFUSED and set(scopes) <= set(SCOPES)
    if known and name not in OPERATORS:
        found = [(one, thing) for one in scopes for thing in _registered(own, one)]
        others = [thing.__module__ for one, thing in found if one == PRETRAIN]
        known = bool(found) and all(module.startswith(CLASSIFIERS) for module in others)
    if not known:
        raise ConfigError(
            f"its type {name!r} is not registered by MMEngine, mmcv, MMDetection, MMSegmentation "
            "or mmpvt, and is no part of mmpretrain's image classifiers"
        )


def _registered(name: str, scope: str) -> list:
    """What a package has registered under a name."""
    if scope == PRETRAIN:
        check_classification("it")
        setup_environment()  # mmpretrain's import may take it
    package = "mmengine" if scope == "mmcv" else scope  # mmcv registers with MMEngine
    things = vars(importlib.import_module(f"{package}.registry")).values()
    kinds = [one for one in things if isinstance(one, Registry) and one.scope == package]
    found = [kind.module_dict[name] for kind in kinds if name in kind.module_dict]
    for kind in () if found and scope != PRETRAIN else kinds:
        kind.import_from_location()  # of what registers when it is asked for
        if name in kind.module_dict:
            found.append(kind.module_dict[name])
    return found


def check_classification(what: str) -> None:
    """Raises a ConfigError where a package is missing that a classifier's config takes."""
    missing = [name for name in CLASSIFICATION if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{what} is a classifier's config, which takes {' and '.join(missing)}",
            where=what,
            hint="pip install 'mmpvt[classification]'",
        )
