"""From a config and a run's options to the config that a runner takes, step by step."""

from __future__ import annotations

import atexit
import copy
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device

from mmpvt.datasets.pipelines import loading_step
from mmpvt.datasets.samplers import kill_workers
from mmpvt.engine.checks.channels import accepted_channels
from mmpvt.engine.checks.data import check_data, check_pixels, keep_inside
from mmpvt.engine.checks.settings import (
    check_initial_weights,
    check_tests,
    check_trains,
    check_val_interval,
    check_validates,
)
from mmpvt.engine.config import make_work_dir, set_data_root, set_hook
from mmpvt.engine.config_parts import SPLITS, iter_dicts, iter_steps, split_datasets
from mmpvt.engine.hooks.skipped_data import skip_unusable_annotations
from mmpvt.engine.initial_weights import freeze_stages, set_checkpoint, set_pretrained, set_resume
from mmpvt.engine.launch import is_first_process, prepare_launcher, process_count
from mmpvt.engine.mixed_precision import check_amp
from mmpvt.engine.own_data import DataOptions, use_own_data
from mmpvt.engine.saved_config import SCOPES
from mmpvt.engine.schedules import RATES, set_epochs
from mmpvt.engine.start_from import find_checkpoint, set_start_from
from mmpvt.engine.tiles import Tiling, check_tiled, tiling_of
from mmpvt.engine.training_options import LOOPS, add_val_loss, set_early_stop, set_ema, set_loggers
from mmpvt.errors import ConfigError, LaunchError, OutputError
from mmpvt.utils.atomic import put_back
from mmpvt.utils.locking import locked
from mmpvt.utils.outputs import Outputs, check_free

FUSED = ("Adam", "AdamW", "SGD")  # PyTorch's optimizers that have a fused kernel
# MMCV's, as any scope names it
IMAGE_LOADERS = ("LoadImageFromFile", *(f"{scope}.LoadImageFromFile" for scope in SCOPES))
BATCH_SAMPLER = "mmpvt.ResumableBatchSampler"
MAX_SEED = 2**32 - 1  # NumPy's


@dataclass(kw_only=True)
class RunOptions:
    """What training and testing have in common.

    Attributes:
        work_dir: folder of logs, checkpoints and pictures. Default: the config's.
        data_root: folder that the data lies in. Default: the config's.
        seed: of all that is random. Default: the config's, else one drawn at random.
        deterministic: whether to take deterministic kernels only. Default: as the config says.
        on_bad_data: ``'stop'`` ends the run on an image or label map that can't be used, ``'skip'``
            skips it, ``'auto'`` stops tests, and training within its first 100 batches.
        launcher: what started the processes: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
    """

    work_dir: str | None = None
    data_root: str | None = None
    seed: int | None = None
    deterministic: bool = False
    on_bad_data: str = "auto"
    launcher: str = "none"


@dataclass(kw_only=True)
class TrainOptions(RunOptions):
    """Of a training run.

    Attributes:
        data: the user's own, in the place of the config's. Default: None.
        cfg_options: what was set in the config, to be set again once it follows that data.
        pretrained: file or URL of the backbone's weights, or ``'none'``. Default: the config's.
        start_from: file or URL of a whole model's checkpoint, or ``'published'``, to start from.
            Of its classes, those of the data set's names are taken. Default: the config's.
        resume: checkpoint to resume from, or ``'auto'`` for the work directory's newest.
        amp: type of mixed precision, ``'float16'`` or ``'bfloat16'``. Default: the config's.
        compile: whether to compile the backbone.
        auto_scale_lr: whether to scale the learning rate with the batch size.
        on_nan: ``'stop'`` ends the run on a loss or gradient of NaN or Inf, ``'skip'`` skips the
            step.
        epochs: how long to train; the schedule moves in proportion. Default: the config's.
        freeze: stages of the backbone, from the first, that are not trained. Default: the config's.
        early_stop: validations in a row without a better main score (box or mask AP, mIoU) that end
            the run. Default: None, it takes all its epochs.
        ema: momentum of an exponential moving average of the weights, which validations and
            checkpoints take. Default: the config's.
        val_loss: whether to log the loss on the validation data.
        loggers: of ``'tensorboard'``, ``'mlflow'`` and ``'wandb'``. TensorBoard's is always
            written where it is installed.
    """

    data: DataOptions | None = None
    cfg_options: dict | None = None
    pretrained: str | None = None
    start_from: str | None = None
    resume: str | None = None
    amp: str | None = None
    compile: bool = False
    auto_scale_lr: bool = False
    on_nan: str = "stop"
    epochs: int | None = None
    freeze: int | None = None
    early_stop: int | None = None
    ema: float | None = None
    val_loss: bool = False
    loggers: Sequence[str] = ()


@dataclass(kw_only=True)
class TestOptions(RunOptions):
    """Of a test.

    Attributes:
        checkpoint: file or URL of the model's weights.
        out: a ``.pkl`` file for a detector's predictions, a folder for a segmenter's label maps.
        force: whether to overwrite that file.
        show_dir: folder for a picture of every image.
        tta: whether to augment at test time.
        tiles: side in pixels of the tiles that larger images are cut into. Default: None, images
            are predicted on as they are.
        overlap: share of its side that a tile has in common with the next. Default: 0.2.
        also_whole: whether images that are cut are predicted on as a whole, too.
        amp: type of mixed precision, ``'float16'`` or ``'bfloat16'``. Default: the config's.
    """

    __test__ = False  # pytest would take it for a test

    checkpoint: str
    out: str | None = None
    force: bool = False
    show_dir: str | None = None
    tta: bool = False
    tiles: int | None = None
    overlap: float | None = None
    also_whole: bool = False
    amp: str | None = None


def prepare_training(
    config: Config,
    options: TrainOptions,
    locks: ExitStack | None = None,
    undo: ExitStack | None = None,
) -> Config:
    """Makes a config one to train: checked, resumable, and with what the options ask for.

    Nothing is written, and no folder made, before config and data are found to be sound. From
    Python::

        config = load_config("configs/retinanet_pvt_v2_b0_fpn_shapes.py")
        Runner.from_cfg(prepare_training(config, TrainOptions(seed=0))).train()

    Args:
        config (Config): of :func:`~mmpvt.engine.config.load_config`.
        options (TrainOptions): of the run.
        locks (ExitStack | None): takes the lock that keeps other runs out of the work directory,
            to be closed after the run. Default: None, no lock.
        undo (ExitStack | None): puts back what was written for the user's own data, and the config
            in the work directory, if it is closed; to be popped once the training begins. Default:
            None, they are put back where this function fails.

    Returns:
        Config: what ``Runner.from_cfg`` takes. It may be prepared again.

    Raises:
        UserError: the config, an option or the data can't be used, or the work directory is in
            use.
    """
    if undo is None:
        with ExitStack() as undo:
            config = prepare_training(config, options, locks, undo)
            undo.pop_all()
        return config
    if not options.data:  # of which there may be more to say
        check_trains(config)
    # What the options ask for
    config = _with_common_options(config, options)
    has_work_dir = Path(config.work_dir).is_dir()
    if has_work_dir:  # before the newest checkpoint is looked for
        _lock_work_dir(config, locks)
    if options.data:
        config = use_own_data(
            config,
            options.data,
            undo,
            cfg_options=options.cfg_options,
            on_bad_data=options.on_bad_data,
            epochs=options.epochs,
            processes=process_count(options.launcher),
        )
    _set_options(config, options)
    check_initial_weights(config)

    # Checks, then the first that is written
    splits = ("train",) if config.get("val_cfg") is None else ("train", "val")
    contents = _check(config, splits)
    make_work_dir(config)
    config = _without_name_in_work_dir(config)
    if config.filename and is_first_process():  # the runner writes a copy
        put_back(Path(config.work_dir, Path(config.filename).name), undo)
    if not has_work_dir:
        made = undo.pop_all()  # where another run has just locked it, it is that run's
        _lock_work_dir(config, locks)
        undo.push(made)

    # Data
    notes = skip_unusable_annotations(config, splits, options.on_bad_data, contents)
    _name_broken_files(config)
    keep_inside(config)
    _use_own_metrics(config)

    # Training
    adapt_amp(config)
    _use_own_optim_wrapper(config)
    _make_resumable(config, options.on_bad_data)
    _use_own_checkpoint_hooks(config)
    _ignore_signals_in_workers(config)
    if options.val_loss:
        add_val_loss(config)

    # Hooks
    set_hook(config, type="mmpvt.SkippedDataHook", notes=notes, on_bad_data=options.on_bad_data)
    if options.compile:
        set_hook(config, type="mmpvt.CompileHook")
    resume = bool(config.get("resume"))
    set_hook(config, type="mmpvt.CheckpointFitHook", strict=resume, resume=resume)
    set_hook(config, type="mmpvt.DivergenceHook", on_nan=options.on_nan)
    set_hook(config, type="mmpvt.NormStatisticsHook")
    set_hook(config, type="mmpvt.PicturesHook")
    set_hook(config, type="mmpvt.InterruptHook")

    prepare_launcher(config, options.launcher)
    return config


def _set_options(config: Config, options: TrainOptions) -> None:
    check_val_interval(config)
    if options.start_from or config.get("start_from"):
        set_start_from(config, options)
    if options.pretrained:
        set_pretrained(config, options.pretrained)
    if options.resume:
        set_resume(config, options.resume)
    if options.amp:
        _set_amp(config, options.amp)
    if options.auto_scale_lr:
        _set_auto_scale_lr(config)
    if options.epochs is not None and not options.data:
        set_epochs(config, options.epochs)
    if options.freeze is not None:
        freeze_stages(config, options.freeze)
    if options.early_stop is not None:
        set_early_stop(config, options.early_stop)
    if options.val_loss:
        check_validates(config, "val_loss")
    set_ema(config, options.ema)
    set_loggers(config, options.loggers)


def prepare_test(config: Config, options: TestOptions) -> Config:
    """Makes a config one to test: checked, and with what the options ask for.

    Args:
        config (Config): of :func:`~mmpvt.engine.config.load_config`.
        options (TestOptions): of the test.

    Returns:
        Config: what ``Runner.from_cfg`` takes.

    Raises:
        UserError: the config, an option or the data can't be used.
    """
    check_tests(config)
    # What the options ask for
    config = _with_common_options(config, options)
    tiling = tiling_of(options.tiles, options.overlap, options.also_whole)
    if tiling:
        check_tiled(config)
        if options.tta:
            raise ConfigError("tiles aren't augmented", setting="tta", hint="leave one of them out")
    if options.amp:
        _set_test_amp(config, options.amp)
    set_checkpoint(config, find_checkpoint(config, options.checkpoint))
    if options.out:
        _set_out(config, options.out, options.force)
    if options.show_dir:
        Outputs(options.show_dir, "show_dir").check_folder()

    # Checks, then the first that is written
    contents = _check(config, ("test",))
    make_work_dir(config)
    config = _without_name_in_work_dir(config)

    # Data
    notes = skip_unusable_annotations(config, ("test",), options.on_bad_data, contents)
    _use_own_metrics(config)
    if options.tta:
        _set_tta(config)
    if tiling:
        _set_tiles(config, tiling)
    _name_broken_files(config)  # in the pipeline of test-time augmentation, too
    keep_inside(config)
    _ignore_signals_in_workers(config)

    # Hooks
    set_hook(config, type="mmpvt.SkippedDataHook", notes=notes, on_bad_data=options.on_bad_data)
    set_hook(config, type="mmpvt.CheckpointFitHook", strict=True, resume=False)
    pictures = dict(show_dir=options.show_dir) if options.show_dir else {}
    set_hook(config, type="mmpvt.PicturesHook", **pictures)
    set_hook(config, type="mmpvt.InterruptHook")

    prepare_launcher(config, options.launcher, trains=False)
    return config


def _with_common_options(config: Config, options: RunOptions) -> Config:
    config = copy.deepcopy(config)
    if options.work_dir:
        config.work_dir = options.work_dir
    if options.data_root:
        set_data_root(config, options.data_root)
    if options.seed is not None or options.deterministic:
        randomness = config.get("randomness") or {}
        seed = randomness.get("seed") if options.seed is None else options.seed
        deterministic = options.deterministic or randomness.get("deterministic", False)
        config.randomness = dict(randomness, seed=seed, deterministic=deterministic)
    seed = (config.get("randomness") or {}).get("seed")
    if seed is not None and not (isinstance(seed, int) and 0 <= seed <= MAX_SEED):
        raise ConfigError(f"{seed!r}: a seed is an int from 0 to {MAX_SEED}", setting="seed")
    return config


def _lock_work_dir(config: Config, locks: ExitStack | None) -> None:
    if locks is not None and is_first_process():
        locks.enter_context(locked(config.work_dir, "work_dir"))


def _check(config: Config, splits: Iterable[str]) -> dict[Path, dict]:
    """Checks the data, in the first process; what COCO's annotation files hold, by path."""
    if not is_first_process():
        return {}
    contents = check_data(config, splits)
    check_pixels(config, splits, contents)
    return contents


def _without_name_in_work_dir(config: Config) -> Config:
    """A config that lies in the work directory itself isn't replaced by MMEngine's copy of it.

    The copy of a config without a file name is named by the time.
    """
    copied = config.filename and Path(config.work_dir, Path(config.filename).name)
    if copied and copied.exists() and copied.samefile(config.filename):
        return Config(config.to_dict(), config.text, env_variables=config.env_variables)
    return config


def _set_amp(config: Config, dtype: str) -> None:
    """Trains in mixed precision; for float16, whose range is small, the loss is scaled."""
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


def _set_test_amp(config: Config, dtype: str) -> None:
    """Tests in mixed precision."""
    check_amp("cuda" if torch.cuda.is_available() else "cpu", dtype)
    loop = config.test_cfg
    kind = loop.get("type", "TestLoop").removeprefix("mmengine.")
    if kind not in ("TestLoop", "mmpvt.AmpTestLoop"):
        raise ConfigError(
            f"the config's test loop is {kind}, which chooses its own precision", setting="amp"
        )
    loop.pop("fp16", None)
    loop.update(type="mmpvt.AmpTestLoop", dtype=dtype)


def _set_auto_scale_lr(config: Config) -> None:
    """Scales the learning rate with the batch size."""
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


def _set_out(config: Config, out: str, force: bool) -> None:
    """Keeps a test's predictions: as a pickle file, a segmenter's as label maps."""
    evaluators = config.test_evaluator
    evaluators = evaluators if isinstance(evaluators, list) else [evaluators]
    if config.get("default_scope") == "mmseg":
        if Path(out).suffix:
            raise OutputError(
                f"a segmenter's label maps take a folder, not {out}", setting="out", where=out
            )
        Outputs(out).check_folder()
        cityscapes = [e for e in evaluators if str(e["type"]).endswith("CityscapesMetric")]
        for evaluator in cityscapes:  # whose files are of a form of their own
            evaluator.update(output_dir=out, keep_results=True)
        if not cityscapes:
            set_hook(config, type="mmpvt.LabelMapsHook", out=out)
        return
    if Path(out).suffix not in (".pkl", ".pickle"):
        raise OutputError(
            f"results of a detector or classifier take a file ending in .pkl, not {out}",
            setting="out",
            where=out,
        )
    check_free(Path(out), force, "out")
    dump = ConfigDict(type="mmpvt.DumpDetResults", out_file_path=out)
    config.test_evaluator = [*(e for e in evaluators if e != dump), dump]


def _set_tta(config: Config) -> None:
    """Tests under the config's augmentations, or a flip; segmenters need some of their own."""
    datasets = [dataset for _, dataset in split_datasets(config, ("test",))]
    if "tta_model" not in config or "tta_pipeline" not in config:
        if config.get("default_scope") == "mmseg":
            raise ConfigError("the config holds no tta_model and tta_pipeline", setting="tta")
        flips = [ConfigDict(type="RandomFlip", prob=prob) for prob in (1.0, 0.0)]
        pipeline = datasets[0]["pipeline"]
        if config.get("default_scope") == "mmpretrain":
            pack = pipeline[-1]
            config.tta_model = dict(type="AverageClsScoreTTA")
        else:
            keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
            pack = ConfigDict(type="PackDetInputs", meta_keys=(*keys, "flip", "flip_direction"))
            nms = dict(type="nms", iou_threshold=0.5)
            config.tta_model = dict(type="DetTTAModel", tta_cfg=dict(nms=nms, max_per_img=100))
        tta = ConfigDict(type="TestTimeAug", transforms=[flips, [pack]])
        config.tta_pipeline = [*pipeline[:-1], tta]
    if config.model.get("type") != config.tta_model.type:
        config.model = ConfigDict(**config.tta_model, module=config.model)
    for dataset in datasets:
        dataset["pipeline"] = copy.deepcopy(config.tta_pipeline)  # each reads its own folders


def _set_tiles(config: Config, tiling: Tiling) -> None:
    """Has images cut after they are loaded, and the predictions on tiles merged."""
    for _, dataset in split_datasets(config, ("test",)):
        steps = dataset.get("pipeline", [])
        place = loading_step(steps)
        if place is None:
            raise ConfigError("the test pipeline doesn't read single images", setting="tiles")
        if steps[-1]["type"] == "mmpvt.CutIntoTiles":  # prepared before
            continue
        cut = ConfigDict(type="mmpvt.CutIntoTiles", tiles=tiling.size, overlap=tiling.overlap)
        cut.transforms = steps[place + 1 :]
        dataset["pipeline"] = [*steps[: place + 1], cut]
    if config.model.get("type") != "mmpvt.TiledModel":
        config.model = ConfigDict(
            type="mmpvt.TiledModel",
            module=config.model,
            tiles=tiling.size,
            overlap=tiling.overlap,
            also_whole=tiling.also_whole,
        )


def _name_broken_files(config: Config) -> None:
    """Has every pipeline name the image or label map that can't be used."""
    heads = (d["decode_head"] for d in iter_dicts(config.model) if "decode_head" in d)
    head = next((head for head in heads if isinstance(head, dict)), {})
    pipelines = [d["pipeline"] for d in iter_steps(config) if isinstance(d.get("pipeline"), list)]
    steps = [step for step in iter_dicts(pipelines) if "type" in step]
    is_raw = any(step.get("color_type") == "unchanged" for step in steps)
    accepted = accepted_channels(config, steps) if is_raw else None
    for d in iter_steps(config):
        if d.get("type") in IMAGE_LOADERS:
            d["type"] = "mmpvt.LoadImageFromFile"
            if d.get("color_type") == "unchanged":
                d["accepted"] = accepted
                d["channels"] = (config.model.get("backbone") or {}).get("in_channels")
        elif d.get("type") in ("mmpvt.LoadSegAnnotations", "mmseg.LoadAnnotations") or (
            d.get("type") == "LoadAnnotations" and config.get("default_scope") == "mmseg"
        ):
            d.update(type="mmpvt.LoadSegAnnotations", num_classes=head.get("num_classes"))


def _use_own_metrics(config: Config) -> None:
    """Takes the project's metrics for MMDetection's and MMSegmentation's, of the same options.

    MMDetection's lists the APs of single classes in the order of their ids, under names in the
    order of the data set's classes; MMSegmentation's can't count the pixels of large images.
    """
    own = dict.fromkeys(("CocoMetric", "mmdet.CocoMetric"), "mmpvt.CocoMetric")
    own |= dict.fromkeys(("IoUMetric", "mmseg.IoUMetric"), "mmpvt.IoUMetric")
    for split in ("val", "test"):
        for evaluator in iter_dicts(config.get(f"{split}_evaluator")):
            if evaluator.get("type") in own:
                evaluator["type"] = own[evaluator["type"]]


def adapt_amp(config: Config) -> None:
    """Where there is no GPU for the mixed precision that the config asks for, trains in bfloat16 if
    that is asked for and this is a CPU, and in float32 if not."""
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


def _use_own_optim_wrapper(config: Config) -> None:
    """Takes a fused kernel, and has :class:`~mmpvt.engine.hooks.divergence.DivergenceHook` guard
    the steps, unless the config chooses otherwise or has several optimizers."""
    wrapper = config.optim_wrapper
    optimizer = wrapper.get("optimizer") or {}
    if optimizer.get("type") in FUSED and not {"fused", "foreach"} & set(optimizer):
        optimizer["fused"] = True
    if "optimizer" in wrapper and wrapper.get("type") in (None, "OptimWrapper", "AmpOptimWrapper"):
        wrapper["type"] = f"mmpvt.{wrapper.get('type') or 'OptimWrapper'}"


def _make_resumable(config: Config, on_bad_data: str) -> None:
    """Has a resumed run end with the weights of one that was never stopped.

    A config with a training loop of its own keeps it.
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


def _use_own_checkpoint_hooks(config: Config) -> None:
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


def _ignore_signals_in_workers(config: Config) -> None:
    """Has loading processes ignore a signal that is sent to all, so that the main one can save."""
    atexit.register(kill_workers)
    for split in SPLITS:
        if loader := config.get(f"{split}_dataloader"):
            loader.pop("disable_subprocess_warning", None)
            if not loader.get("num_workers"):  # PyTorch refuses what is of workers
                loader.pop("persistent_workers", None)
                loader.pop("prefetch_factor", None)
            loader.worker_init_fn = ConfigDict(type="mmpvt.init_worker")
