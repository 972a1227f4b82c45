"""How far long work has come: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

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
        yield _Lines(what, total, in_bytes, done)
        return
    unit = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(),)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        *unit,
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda now: bar.update(task, completed=now)


class _Lines:
    """Prints a line at most every :data:`PAUSE` seconds."""

    def __init__(self, what: str, total: int | None, in_bytes: bool, done: int) -> None:
        self.what, self.total, self.in_bytes = what, total, in_bytes
        self.began = self.said = time.monotonic()
        self.first = done

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self.said < PAUSE:
            return
        self.said = now
        rate = (done - self.first) / max(now - self.began, 1e-9)
        show = size if self.in_bytes else str
        said = f"{self.what}: {show(done)}"
        if self.total is not None:
            said += f" of {show(self.total)}"
            if rate > 0:
                said += f", {timedelta(seconds=round((self.total - done) / rate))} left"
        print(said, file=sys.stderr, flush=True)
