"""What the command lines share: options, and how a mistake ends them."""

from __future__ import annotations

import argparse
import errno
import logging
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from types import FrameType
from typing import TYPE_CHECKING, TypeVar

from mmengine.config import DictAction

from mmpvt.engine.choices import LAUNCHERS, ON_BAD_DATA
from mmpvt.environment import setup_environment
from mmpvt.errors import ConfigError, Interrupted, UserError, as_argument
from mmpvt.utils.constants import FORMATS
from mmpvt.utils.text import flush_output, print_safely, printable

if TYPE_CHECKING:
    from mmpvt.engine.own_data import DataOptions
    from mmpvt.engine.preparation import RunOptions

CONFIG = "config's name (mmpvt list) or file, or mmdet::… / mmseg::… for an installed one"
CHECKPOINT = "checkpoint file or URL, hf://OWNER/NAME, or published (docs/python.md)"
DEVICE = "cpu, cuda, cuda:1 … (default: a GPU where there is one)"
AMP = "mixed precision of this type (on a CPU: bfloat16); accuracy: docs/performance.md"
HOST = "address to listen at; 0.0.0.0 lets others in (default: %(default)s, this machine)"
MAX_WORKERS = 1024  # processes that decode
FAILURE = 1
USER_ERROR = 2
NAMED_AMISS = (errno.EACCES, errno.ENAMETOOLONG)  # which Path.is_file() raises, too

# functions of MMEngine that build a config's parts, and whose classes refuse arguments in words
_BUILDERS = ("build_from_cfg", "build_dataloader", "from_cfg")
_PACKAGES = ("mmcv", "mmdet", "mmengine", "mmpretrain", "mmseg", "torch")
# of a class's name that no registry has, or of its arguments
_BUILD_ERROR = re.compile(
    r".* is not in the .* registry|[\w.]+\.__init__\(\) (got an unexpected|missing \d+ required).*"
)

# a value or element that is one; not a name such as {:06d}.png
_DICT = re.compile(r"(^|[\[(,])\s*(dict\(|\{[^{}]*(\{.*\})?[^{}]*\}\s*([\]),]|$))")

Options = TypeVar("Options", bound="RunOptions")


def setting(text: str) -> str:
    """A value of ``--cfg-options``, as it was; MMEngine's parser ends in errors of its own where it
    can't read one, and takes a dict for a string.

    Raises:
        ArgumentTypeError: it can't be read.
    """
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is no KEY=VALUE")
    if _DICT.search(value):
        what = f"{text!r} holds a dict: set its keys one by one, {key}.KEY=VALUE"
        raise argparse.ArgumentTypeError(what)
    try:
        DictAction._parse_iterable(value)
    except (AssertionError, RecursionError) as error:
        what = (
            f"the brackets in {text!r} aren't those of a list [A,B] or tuple (A,B), or one in "
            "another, as [(A,B),(C,D)]"
        )
        raise argparse.ArgumentTypeError(what) from error
    return text


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that training and testing have in common."""
    parser.add_argument("config", help=CONFIG)
    parser.add_argument("--work-dir", help="where logs, checkpoints and pictures go")
    parser.add_argument("--data-root", metavar="DIR", help="the folder the data lies in")
    parser.add_argument("--seed", type=int, help="of all that is random")
    parser.add_argument("--deterministic", action="store_true", help="deterministic kernels only")
    add_cfg_options(parser)
    parser.add_argument(
        "--on-bad-data",
        choices=ON_BAD_DATA,
        default="auto",
        help="an image or label map that can't be used: end the run, or skip it, with its name in "
        "the log; auto (the default) ends a test, and training within its first 100 batches",
    )
    parser.add_argument("--launcher", choices=LAUNCHERS, default="none", help="job launcher")


def add_cfg_options(
    parser: argparse.ArgumentParser, example: str = "train_dataloader.batch_size=4"
) -> None:
    """Adds the option that overrides a config's settings."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        type=setting,
        action=DictAction,
        metavar="KEY=VALUE",
        help=f"settings to override, such as {example}",
    )


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a user's own data."""
    group = parser.add_argument_group("your own data (docs/own_data.md)")
    group.add_argument(
        "--data",
        metavar="PATH",
        help="a folder, a zip, a data.yaml or a .json with images and annotations in COCO's, "
        "Pascal VOC's, YOLO's, LabelMe's or CVAT's format, or label maps: classes, heads, "
        "evaluator, batch, learning rate and schedule follow it",
    )
    group.add_argument(
        "--data-format", choices=FORMATS, help="its format (default: recognised by its files)"
    )
    group.add_argument(
        "--classes",
        metavar="A,B,…",
        help="class names: those to take, in this order; of label maps, by value",
    )
    group.add_argument(
        "--val-fraction",
        type=float,
        metavar="F",
        help="of the images, to validate on where the data has no such split (default: 0.2)",
    )
    group.add_argument(
        "--split-seed", type=int, metavar="N", help="of the choice of these images (default: 0)"
    )
    group.add_argument(
        "--keep-empty",
        action="store_true",
        help="take images without annotations as images without objects",
    )


def add_tile_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of images in tiles."""
    group = parser.add_argument_group("large images (docs/predict.md)")
    group.add_argument(
        "--tiles",
        type=int,
        metavar="PIXELS",
        help="cut images that are larger into tiles of this side, predict on each, and merge",
    )
    group.add_argument(
        "--overlap",
        type=float,
        metavar="SHARE",
        help="of its side that a tile has in common with the next (default: 0.2)",
    )
    group.add_argument(
        "--also-whole",
        action="store_true",
        help="predict on the whole image, too, for objects larger than a tile",
    )


def check_score(score: float) -> None:
    """Raises a UserError if a command's ``--score`` is none."""
    if not 0 <= score <= 1:
        raise UserError(f"--score {score}: a score is a number from 0 to 1")


def check_workers(workers: int) -> None:
    """Raises a UserError if a command's ``--workers`` is none, or so many that none would start."""
    if not 0 <= workers <= MAX_WORKERS:
        raise UserError(f"--workers {workers}: a number of processes from 0 to {MAX_WORKERS}")


def data_options_from(args: argparse.Namespace) -> DataOptions | None:
    """The user's own data of a command line, or None.

    Raises:
        ConfigError: there are options for it alone, or for the config's.
    """
    given = dict(
        format=args.data_format,
        classes=args.classes and [name.strip() for name in args.classes.split(",")],
        val_fraction=args.val_fraction,
        split_seed=args.split_seed,
        keep_empty=args.keep_empty or None,
    )
    given = {name: value for name, value in given.items() if value is not None}
    if args.data is None:
        if given:
            raise ConfigError(
                "--data-format, --classes, --val-fraction, --split-seed and --keep-empty "
                "are of --data, which isn't given"
            )
        return None
    if args.data_root is not None:
        raise ConfigError(
            "--data-root moves the config's own data sets, and --data takes their place",
            hint="name a folder that holds both images and annotations with --data",
        )
    from mmpvt.engine.own_data import DataOptions

    return DataOptions(path=args.data, **given)


def options_from(args: argparse.Namespace, kind: type[Options]) -> Options:
    """The fields of a dataclass of options, from arguments of the same names, where there are
    such."""
    given = vars(args)
    return kind(**{f.name: given[f.name] for f in fields(kind) if f.name in given})


@contextmanager
def user_errors(on_interrupt: str = "interrupted", **flags: str) -> Iterator[None]:
    """Sets up the environment, and ends the process with one sentence, settings as flags: code 2
    on :class:`UserError`, 130 on Ctrl-C, 143 on SIGTERM, 1 where another process is lost.

    Args:
        on_interrupt (str): the sentence for Ctrl-C while there is nothing to save.
        **flags (str): arguments of settings that the command calls otherwise.
    """
    setup_environment()
    print_safely()
    logging.raiseExceptions = False  # a full disk is said once, not by each line of the log

    def named(name: str, value: object = None) -> str:
        return as_flag(flags.get(name, name), value)

    UserError.name_setting = staticmethod(named)
    try:
        try:
            yield
        except Exception as error:
            if stop := Interrupted.behind(error):
                raise stop from None
            raise
    except UserError as error:
        _leave(f"error: {error}", USER_ERROR)
    except Interrupted as interrupt:
        said = str(interrupt)
        if interrupt.iteration is not None:
            saved = "could not be saved: --resume resumes from the checkpoint before"
            if interrupt.saved:
                saved = f"is saved in {interrupt.saved}: --resume resumes from there"
            said = f"{interrupt} after iteration {interrupt.iteration}, which {saved}"
        _leave(said, interrupt.code)
    except (TypeError, KeyError, ValueError, AssertionError, ImportError, RuntimeError) as error:
        if mismatch := _build_error(error):
            _leave(f"error: the config can't be built: {mismatch}", USER_ERROR)
        if not isinstance(error, RuntimeError):
            raise
        from mmpvt.engine.launch import failure_of

        failure = failure_of(error)
        if failure is None:
            raise
        _leave(f"error: {failure}", FAILURE)
    except OSError as error:
        is_amiss = error.errno in NAMED_AMISS or _is_of_config(error)
        if error.filename is None or not is_amiss:
            raise
        _leave(f"error: {error.filename} can't be used ({error.strerror})", USER_ERROR)
    except KeyboardInterrupt:
        _leave(on_interrupt, 128 + signal.SIGINT)
    finally:
        UserError.name_setting = staticmethod(as_argument)


def _building_frames(error: Exception) -> list[FrameType]:
    """The frames of an error from where the last class is built; none of other errors."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    builders = [
        place
        for place, frame in enumerate(frames)
        if _package(frame) == "mmengine" and frame.f_code.co_name in _BUILDERS
    ]
    return frames[builders[-1] :] if builders else []


def _package(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "").partition(".")[0]


def _is_of_config(error: OSError) -> bool:
    """Whether a class of a known package, as it was built, found no file of a config's name."""
    frames = _building_frames(error)
    return error.errno == errno.ENOENT and bool(frames) and _package(frames[-1]) in _PACKAGES


def _build_error(error: Exception) -> str | None:
    """What is wrong with a class's name or arguments in a config; None for other errors."""
    frames = _building_frames(error)
    if not frames:
        return None
    said = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if found := _BUILD_ERROR.match(said):
        return found[0]
    # of a class that refuses its arguments, itself or its base: not of what it builds in turn
    inits = frames[1:]
    made = [init.f_locals.get("self") for init in inits]
    is_init = bool(inits) and inits[0].f_code.co_name == "__init__"
    is_one = is_init and all(one is made[0] for one in made)
    if not is_one or made[0] is None or _package(frames[-1]) not in _PACKAGES:
        return None
    source = traceback.extract_tb(error.__traceback__)[-1].line
    return f"{type(made[0]).__name__}: {' '.join(said.split()) or source}"


def as_flag(name: str, value: object = None) -> str:
    """A setting as a command line writes it: ``--on-bad-data skip``."""
    flag = f"--{name.replace('_', '-')}"
    return flag if value is None or value is True else f"{flag} {value}"


def _leave(sentence: str, code: int) -> None:
    flush_output()
    print(printable(sentence), file=sys.stderr, flush=True)
    sys.exit(code)
