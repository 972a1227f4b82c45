"""Signal handlers of a run, which no process that it starts inherits.

A forked worker that inherits a Python handler can't be ended by SIGTERM, and
``multiprocessing.Pool``, which ends its workers that way, waits for it for ever. An executed
program (``subprocess``; multiprocessing's ``spawn`` and ``forkserver``) inherits no handlers, but
it does inherit blocked and ignored signals.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object]

# a run's handlers, and those before, by signal
_handled: dict[int, tuple[Handler, Handler | int | None]] = {}
_fork = threading.local()


def handle(number: int, handler: Handler) -> None:
    """Handles a signal in this process, and in none that is forked from it.

    Args:
        number (int): the signal's.
        handler (Callable): takes the signal's number and the interrupted frame.
    """
    _register_at_fork()
    before = signal.signal(number, handler)
    _, before = _handled.get(number, (handler, before))
    _handled[number] = (handler, before)


def stop_signals() -> list[signal.Signals]:
    """Those that ask a run to stop: of a terminal; of a cluster that takes a node back; of a
    terminal that is closed, unless that is ignored, as after ``nohup``."""
    found = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        found.append(signal.SIGHUP)  # Windows has none
    return found


def _before_fork() -> None:
    """A signal that came between the fork and the reset would still meet the handler."""
    _fork.mask = signal.pthread_sigmask(signal.SIG_BLOCK, _handled)


def _after_fork_in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _fork.mask)


def _after_fork_in_child() -> None:
    for number, (handler, before) in _handled.items():
        # an earlier run's, too: others may have put that back, as servers do when they end
        if _function(signal.getsignal(number)) is _function(handler):
            signal.signal(number, signal.SIG_DFL if before is None else before)
    mask = _fork.mask - _handled.keys()
    _handled.clear()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # from here on a signal can end the process


def _function(handler: object) -> object:
    return getattr(handler, "__func__", handler)


@functools.cache  # once a process
def _register_at_fork() -> None:
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(
            before=_before_fork,
            after_in_parent=_after_fork_in_parent,
            after_in_child=_after_fork_in_child,
        )


@contextmanager
def delayed() -> Iterator[None]:
    """Signals that a run handles are handled afterwards; on Windows, as they come."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _handled)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
