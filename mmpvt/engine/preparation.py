"""From a config and a run's options to the config that a runner takes, step by step."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from mmpvt.engine.checks.data import check_data, check_pixels, keep_inside
from mmpvt.engine.checks.settings import (
    check_initial_weights,
    check_tests,
    check_trains,
    check_val_interval,
    check_validates,
)
from mmpvt.engine.config import make_work_dir, set_data_root, set_hook
from mmpvt.engine.hooks.skipped_data import skip_unusable_annotations
from mmpvt.engine.initial_weights import freeze_stages, set_checkpoint, set_pretrained, set_resume
from mmpvt.engine.launch import is_first_process, prepare_launcher, process_count
from mmpvt.engine.own_data import DataOptions, use_own_data
from mmpvt.engine.replacements import (
    adapt_amp,
    ignore_signals_in_workers,
    make_resumable,
    place_annotations,
    score_all_images,
    use_own_checkpoint_hooks,
    use_own_loaders,
    use_own_metrics,
    use_own_optim_wrapper,
)
from mmpvt.engine.schedules import set_epochs
from mmpvt.engine.start_from import find_checkpoint, set_start_from
from mmpvt.engine.testing_options import set_out, set_test_amp, set_tiles, set_tta
from mmpvt.engine.tiles import check_tiled, tiling_of
from mmpvt.engine.training_options import (
    add_val_loss,
    set_amp,
    set_auto_scale_lr,
    set_early_stop,
    set_ema,
    set_loggers,
)
from mmpvt.errors import ConfigError
from mmpvt.utils.atomic import put_back
from mmpvt.utils.locking import locked
from mmpvt.utils.outputs import Outputs

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

    # Checks, before anything is written
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
    score_all_images(config, "val")
    place_annotations(config, "train")
    place_annotations(config, "val")
    use_own_loaders(config)
    keep_inside(config)
    use_own_metrics(config)

    # Training
    adapt_amp(config)
    use_own_optim_wrapper(config)
    make_resumable(config, options.on_bad_data)
    use_own_checkpoint_hooks(config)
    ignore_signals_in_workers(config)
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
        set_amp(config, options.amp)
    if options.auto_scale_lr:
        set_auto_scale_lr(config)
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
        set_test_amp(config, options.amp)
    set_checkpoint(config, find_checkpoint(config, options.checkpoint))
    if options.out:
        set_out(config, options.out, options.force)
    if options.show_dir:
        Outputs(options.show_dir, "show_dir").check_folder()

    # Checks, before anything is written
    contents = _check(config, ("test",))
    make_work_dir(config)
    config = _without_name_in_work_dir(config)

    # Data
    notes = skip_unusable_annotations(config, ("test",), options.on_bad_data, contents)
    use_own_metrics(config)
    if options.tta:
        set_tta(config)
    if tiling:
        set_tiles(config, tiling)
    score_all_images(config, "test")
    place_annotations(config, "test")
    use_own_loaders(config)  # in the pipeline of test-time augmentation, too
    keep_inside(config)
    ignore_signals_in_workers(config)

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
