"""What the command lines share: options, and how a mistake ends them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.config import DictAction

from mmpvt.engine.launch import LAUNCHERS
from mmpvt.errors import UserError

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that training and testing have in common."""
    parser.add_argument("config", help="config file, or mmdet::… / mmseg::… for an installed one")
    parser.add_argument("--work-dir", help="where logs, checkpoints and pictures go")
    parser.add_argument("--data-root", metavar="DIR", help="the folder the data lies in")
    parser.add_argument("--seed", type=int, help="of every random draw")
    parser.add_argument("--deterministic", action="store_true", help="deterministic kernels only")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="settings to override, such as train_dataloader.batch_size=4",
    )
    parser.add_argument("--launcher", choices=LAUNCHERS, default="none", help="job launcher")


@contextmanager
def user_errors(on_interrupt: str = "interrupted") -> Iterator[None]:
    """Ends the process with one sentence and code 2 on :class:`UserError`, 130 on Ctrl-C.

    Args:
        on_interrupt (str): the sentence for Ctrl-C.
    """
    try:
        yield
    except UserError as error:
        _leave(f"error: {error.sentence}", USER_ERROR)
    except KeyboardInterrupt:
        _leave(on_interrupt, INTERRUPTED)


def _leave(sentence: str, code: int) -> None:
    sys.stdout.flush()
    print(sentence, file=sys.stderr, flush=True)
    sys.exit(code)
