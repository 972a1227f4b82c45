"""Configs: finding and reading them, and setting in them what a caller or command line asks for."""

from __future__ import annotations

import difflib
import inspect
import itertools
import os
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mmengine import registry
from mmengine.config import Config, ConfigDict
from mmengine.hooks import CheckpointHook
from mmengine.registry import Registry
from mmengine.runner import Runner
from mmengine.utils import get_object_from_string

import mmpvt
from mmpvt.compat import fix_package_lookup
from mmpvt.engine.checks.settings import check_types
from mmpvt.engine.class_names import read_class_lists
from mmpvt.engine.config_parts import SPLITS, iter_dicts
from mmpvt.engine.saved_config import CONFIG_FILE, check_classification, read_saved
from mmpvt.engine.zoo import config_folder, find_config
from mmpvt.errors import ConfigError, OutputError, UserError
from mmpvt.swap import swap
from mmpvt.utils.text import printable

DET_PREPROCESSORS = ("DetDataPreprocessor", "mmdet.DetDataPreprocessor")
PACKAGES = ("mmpvt", "mmdet", "mmseg", "mmpretrain")  # whose configs PACKAGE::PATH may name
SUFFIXES = (".py", ".json", ".yaml", ".yml")
RENAMED = ("_memorise", "_overfit")  # in the names of configs, which may be given as they were
# folders of code that isn't a user's
LIBRARIES = tuple(
    str(folder) + os.sep
    for folder in (
        *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")),
        Path(mmpvt.__file__).parent,
    )
)
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
    check_types(config)
    read_class_lists(config)
    take_channels(config)
    config.work_dir = config.get("work_dir") or str(Path("work_dirs") / name)
    return config


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
