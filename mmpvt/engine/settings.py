"""From a config's path and a command line's options to the config that a runner takes."""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import os
from contextlib import ExitStack
from pathlib import Path

from mmengine.config import Config, ConfigDict

from mmpvt.checkpoint.saving import newest_checkpoint
from mmpvt.compat import fix_package_lookup, get_installed_path
from mmpvt.engine.class_names import read_class_lists
from mmpvt.engine.config_parts import iter_dicts
from mmpvt.errors import UserError
from mmpvt.swap import swap
from mmpvt.utils.outputs import Outputs, check_free
from mmpvt.utils.text import encodable, printable

DET_PREPROCESSORS = ("DetDataPreprocessor", "mmdet.DetDataPreprocessor")
PACKAGES = ("mmpvt", "mmdet", "mmseg")  # whose configs a path may name as PACKAGE::PATH


def read_config(path: str) -> Config:
    """Reads a config file as it is.

    Args:
        path (str): a file, or ``mmdet::…``, ``mmseg::…``, ``mmpvt::…`` for an installed one.

    Returns:
        Config: the config.

    Raises:
        UserError: there is no such config, it can't be parsed, or it holds no model.
    """
    file = _find(path)
    try:
        with ExitStack() as undo:
            fix_package_lookup(undo)  # for bases of ``mmdet::``
            config = Config.fromfile(file)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path} can't be read as a config: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(config.get("model"), dict):
        raise UserError(f"{path} holds no model: give a config of an experiment, not a part of one")
    return config


def load_config(path: str, options: dict | None = None, backbone: str | None = None) -> Config:
    """Reads a config file, and makes it one to run.

    Args:
        path (str): a file, or ``mmdet::…``, ``mmseg::…``, ``mmpvt::…`` for an installed one.
        options (dict | None): dotted keys and the values to set.
        backbone (str | None): a PVT to put in the place of the model's backbone first.

    Returns:
        Config: the config, with the options in.

    Raises:
        UserError: there is no such config, it can't be parsed, the backbone can't be swapped, or
            an option doesn't fit.
    """
    config = read_config(path)
    name = Path(path).stem
    if backbone:
        swapped = swap(config, backbone)
        for change in swapped.changes:
            print(printable(f"{change.where}: {change.what}"))
        config, name = swapped.config, f"{name}_{swapped.name}"
    try:
        config.merge_from_dict(options or {})
    except (KeyError, TypeError, AssertionError, IndexError) as error:
        raise UserError(f"--cfg-options don't fit {path}: {error}") from error
    read_class_lists(config)
    take_channels(config)
    config.work_dir = config.get("work_dir") or str(Path("work_dirs") / name)
    return config


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


def from_arguments(args: argparse.Namespace) -> Config:
    """The config that a command line names, with its common options in.

    Args:
        args (argparse.Namespace): of :func:`mmpvt.engine.cli.add_run_arguments`.

    Returns:
        Config: the config.

    Raises:
        UserError: there is no such config, or an option doesn't fit it.
    """
    config = load_config(args.config, args.cfg_options, getattr(args, "backbone", None))
    if args.work_dir:
        config.work_dir = args.work_dir
    if args.data_root:
        set_data_root(config, args.data_root)
    set_randomness(config, args.seed, args.deterministic)
    return config


def set_data_root(config: Config, root: str) -> None:
    """Moves every data set, and what evaluators read beside it, to another folder.

    Args:
        config (Config): changed.
        root (str): the folder that holds ``annotations`` and the images.

    Raises:
        UserError: the config names no data root.
    """
    loaders = [config.get(f"{split}_dataloader") or {} for split in ("train", "val", "test")]
    olds = {
        d["data_root"].rstrip("/")
        for loader in loaders
        for d in iter_dicts(loader)
        if isinstance(d.get("data_root"), str)
    }
    if not olds:
        raise UserError("--data-root: the config names no data_root that it could replace")
    root = root.rstrip("/") or "/"

    def moved(value: str) -> str:
        for old in sorted(olds, key=len, reverse=True):
            if value == old or value.startswith(old + "/"):
                return root + value[len(old) :]
        return value

    for part in (*loaders, config.get("val_evaluator"), config.get("test_evaluator")):
        for d in iter_dicts(part):
            for key, value in d.items():
                if isinstance(value, str):
                    d[key] = moved(value)


def set_pretrained(config: Config, source: str) -> None:
    """Makes every backbone of the model start from other weights.

    Args:
        config (Config): changed.
        source (str): a file or address in any known layout, or ``'none'`` for random weights.

    Raises:
        UserError: the file doesn't exist, or the model has no backbone.
    """
    is_file = source != "none" and "://" not in source
    if is_file and not Path(source).expanduser().is_file():
        raise UserError(f"--pretrained: no such file: {source}")
    backbones = [d["backbone"] for d in iter_dicts(config.model) if "backbone" in d]
    if not backbones:
        raise UserError("--pretrained: the config's model has no backbone")
    for backbone in backbones:
        backbone.pop("pretrained", None)
        backbone["init_cfg"] = (
            None if source == "none" else dict(type="Pretrained", checkpoint=source)
        )


def set_resume(config: Config, checkpoint: str) -> None:
    """Goes on with a run that was stopped.

    Args:
        config (Config): changed.
        checkpoint (str): the file, or ``'auto'`` for the newest in the work directory.

    Raises:
        UserError: there is nothing to go on from.
    """
    if checkpoint == "auto":
        found = newest_checkpoint(config.work_dir)
        if found is None:
            raise UserError(
                f"--resume: nothing to go on from in {config.work_dir}, which holds no whole "
                "checkpoint; "
                "leave --resume out to start anew, or name a checkpoint"
            )
        checkpoint = str(found)
    elif not Path(checkpoint).is_file():
        raise UserError(f"--resume: no such checkpoint: {checkpoint}")
    config.resume = True
    config.load_from = checkpoint
    if "backbone" in config.model:  # its weights come from the checkpoint
        config.model.backbone.init_cfg = None


def set_checkpoint(config: Config, checkpoint: str) -> None:
    """Names the checkpoint that a test is of.

    Raises:
        UserError: there is no such file.
    """
    if "://" not in checkpoint and not Path(checkpoint).expanduser().is_file():
        raise UserError(f"no checkpoint at {checkpoint}: there is no such file")
    config.load_from = checkpoint


def set_auto_scale_lr(config: Config) -> None:
    """Scales the learning rate with the batch size.

    Raises:
        UserError: the config doesn't say which batch size its learning rate is for.
    """
    if not (config.get("auto_scale_lr") or {}).get("base_batch_size"):
        raise UserError(
            "--auto-scale-lr: the config doesn't say which batch its learning rate is for; "
            "add --cfg-options auto_scale_lr.base_batch_size=16, say"
        )
    config.auto_scale_lr.enable = True


def set_randomness(config: Config, seed: int | None, deterministic: bool) -> None:
    """Seeds every random draw, if asked, and keeps to deterministic kernels."""
    if seed is not None or deterministic:
        randomness = config.get("randomness") or {}
        seed = randomness.get("seed") if seed is None else seed
        config.randomness = dict(randomness, seed=seed, deterministic=deterministic)


def set_out(config: Config, out: str, force: bool = False) -> None:
    """Keeps a test's predictions: a detector's as a pickle file, a segmenter's as label maps.

    Args:
        config (Config): changed.
        out (str): the file, or the folder.
        force (bool): overwrite the file. Default: False.

    Raises:
        UserError: the name doesn't go with the kind of model, or there are other files.
    """
    evaluators = config.test_evaluator
    evaluators = evaluators if isinstance(evaluators, list) else [evaluators]
    if config.get("default_scope") == "mmseg":
        if Path(out).suffix:
            raise UserError(f"--out takes a folder for a segmenter's label maps, not {out}")
        Outputs(out).check_folder()
        cityscapes = [e for e in evaluators if str(e["type"]).endswith("CityscapesMetric")]
        for evaluator in cityscapes:  # whose files are of a form of their own
            evaluator.update(output_dir=out, keep_results=True)
        if not cityscapes:
            add_hook(config, type="mmpvt.LabelMapsHook", out=out)
        return
    if Path(out).suffix not in (".pkl", ".pickle"):
        raise UserError(f"--out takes a file ending in .pkl for a detector's results, not {out}")
    check_free(Path(out), force, "out")
    config.test_evaluator = [
        *evaluators,
        ConfigDict(type="mmpvt.DumpDetResults", out_file_path=out),
    ]


def set_tta(config: Config) -> None:
    """Tests under the config's augmentations; a detector without any, under a flip.

    Raises:
        UserError: a segmenter's config holds none.
    """
    dataset = config.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    if "tta_model" not in config or "tta_pipeline" not in config:
        if config.get("default_scope") == "mmseg":
            raise UserError("--tta: the config holds no tta_model and tta_pipeline")
        config.tta_model, config.tta_pipeline = _flip_tta(dataset.pipeline)
    config.model = ConfigDict(**config.tta_model, module=config.model)
    dataset.pipeline = config.tta_pipeline


def make_work_dir(config: Config) -> None:
    """Makes the work directory, so that a run can't fail on it later.

    A config that lies there itself isn't replaced by MMEngine's copy, which is named by the time.

    Raises:
        UserError: it can't be made or written to.
    """
    folder = Path(config.work_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"the work directory {folder} can't be written to ({error.strerror}): "
            "pass another with --work-dir"
        ) from error
    copy = folder / Path(config.filename or "").name
    if config.filename and copy.exists() and copy.samefile(config.filename):
        object.__setattr__(config, "_filename", None)


def add_hook(config: Config, **hook) -> None:
    """Adds a hook to the runner's."""
    config.custom_hooks = [*(config.get("custom_hooks") or []), ConfigDict(hook)]


def add_tensorboard(config: Config) -> None:
    """Writes scalars for TensorBoard too, where it is installed."""
    backends = (config.get("visualizer") or {}).get("vis_backends")
    if backends is None or importlib.util.find_spec("tensorboard") is None:
        return
    if encodable(config.work_dir) != config.work_dir:
        print(f"no figures for TensorBoard, which takes no such path: {printable(config.work_dir)}")
        return
    if all(backend["type"] != "TensorboardVisBackend" for backend in backends):
        backends.append(ConfigDict(type="TensorboardVisBackend"))


def set_coco_metric(config: Config) -> None:
    """Puts the project's COCO metric in MMDetection's place, of the same options and numbers.

    MMDetection's lists the APs of single classes in the order of their ids, under names in the
    order of the data set's classes.
    """
    for split in ("val", "test"):
        for evaluator in iter_dicts(config.get(f"{split}_evaluator")):
            if evaluator.get("type") in ("CocoMetric", "mmdet.CocoMetric"):
                evaluator["type"] = "mmpvt.CocoMetric"


def name_broken_files(config: Config) -> None:
    """Has every pipeline say which image or label map it is that can't be used."""
    heads = (d["decode_head"] for d in iter_dicts(config.model) if "decode_head" in d)
    head = next((head for head in heads if isinstance(head, dict)), {})
    for split in ("train", "val", "test"):
        for d in iter_dicts(config.get(f"{split}_dataloader")):
            if d.get("type") in ("LoadImageFromFile", "mmpvt.LoadImageFromFile"):
                d["type"] = "mmpvt.LoadImageFromFile"
                if d.get("color_type") == "unchanged":
                    d["channels"] = (config.model.get("backbone") or {}).get("in_channels")
            elif d.get("type") == "mmpvt.LoadSegAnnotations" or (
                d.get("type") == "LoadAnnotations" and config.get("default_scope") == "mmseg"
            ):
                d.update(type="mmpvt.LoadSegAnnotations", num_classes=head.get("num_classes"))


def _flip_tta(pipeline: list[dict]) -> tuple[ConfigDict, list[ConfigDict]]:
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    flips = [ConfigDict(type="RandomFlip", prob=prob) for prob in (1.0, 0.0)]
    pack = ConfigDict(type="PackDetInputs", meta_keys=(*keys, "flip", "flip_direction"))
    tta = ConfigDict(type="TestTimeAug", transforms=[flips, [pack]])
    nms = dict(type="nms", iou_threshold=0.5)
    model = ConfigDict(type="DetTTAModel", tta_cfg=dict(nms=nms, max_per_img=100))
    return model, [*pipeline[:-1], tta]


def _find(path: str) -> Path:
    package, _, name = path.rpartition("::")
    folder = config_folder(package) if package in PACKAGES else None
    file = folder / name if folder else Path(path)
    if file.is_file():
        if file.suffix not in (".py", ".json", ".yaml", ".yml"):
            raise UserError(f"{path} is no config: one ends in .py, .json, .yaml or .yml")
        return file
    near = _near(path)
    hint = f"did you mean {' or '.join(near)}?" if near else "configs/ holds the project's own"
    raise UserError(f"no config at {path}: {hint}")


def config_folder(package: str) -> Path | None:
    try:
        path = Path(get_installed_path(package))
    except ModuleNotFoundError:
        return None
    inside = path / ".mim" / "configs"
    return inside if inside.is_dir() else path.parent / "configs"


def _near(path: str) -> list[str]:
    """Up to three configs of a name like the last part of ``path``."""
    stem = Path(path.rpartition("::")[2]).stem
    beside = {
        file.stem: str(file)
        for folder in {Path(path).parent, Path("configs")}
        if "::" not in path and folder.is_dir()
        for file in folder.glob("*.py")
    }
    installed = {
        file.stem: f"{package}::{file.relative_to(folder)}"
        for package in PACKAGES
        if (folder := config_folder(package)) and folder.is_dir()
        for file in folder.rglob("*.py")
        if "_base_" not in file.parts
    }
    known = {**installed, **beside}
    close = difflib.get_close_matches(stem, known, n=3, cutoff=0.5)
    return [known[name] for name in close]
