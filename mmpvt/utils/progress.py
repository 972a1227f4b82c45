"""How far long work has come: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TypeVar

from rich.console import Console
from rich.filesize import decimal as size
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mmpvt.utils.text import printable

PAUSE = 15.0  # seconds between a log's lines
PROGRESS_AFTER = 2.0  # seconds without a word

Item = TypeVar("Item")


@contextmanager
def progress(
    what: str, total: int | None, in_bytes: bool = False, done: int = 0
) -> Iterator[Callable[[int], None]]:
    """Shows how far work has come and how long the rest takes, on the error stream.

    Args:
        what (str): the work: ``'train2017.zip'``.
        total (int | None): steps, or bytes; None where that isn't known.
        in_bytes (bool): whether steps are bytes. Default: False.
        done (int): how many are done already. Default: 0.

    Yields:
        Callable[[int], None]: to be called with the number of steps that are done.
    """
    what = printable(what)
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what, total, size if in_bytes else str, done)
        return
    unit = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)
    name = TextColumn("{task.description}", markup=False)
    with Progress(name, BarColumn(), *unit, TimeRemainingColumn(), console=console) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda now: bar.update(task, completed=now)


def with_progress(items: Sequence[Item], what: str) -> Iterator[Item]:
    """The items, with a progress bar once they take long."""
    began, advance = time.monotonic(), None
    with ExitStack() as stack:
        for done, item in enumerate(items):
            yield item
            if advance is None and time.monotonic() - began > PROGRESS_AFTER:
                advance = stack.enter_context(progress(what, len(items), done=done))
            if advance is not None:
                advance(done + 1)


def _lines(
    what: str, total: int | None, show: Callable[[int], str], first: int
) -> Callable[[int], None]:
    """Prints a line at most every :data:`PAUSE` seconds."""
    began = said = time.monotonic()

    def advance(done: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said < PAUSE:
            return
        said = now
        line = f"{what}: {show(done)}"
        if total is not None:
            line += f" of {show(total)}"
            if done > first:
                left = (total - done) * (now - began) / (done - first)
                line += f", {timedelta(seconds=round(left))} left"
        print(line, file=sys.stderr, flush=True)

    return advance
