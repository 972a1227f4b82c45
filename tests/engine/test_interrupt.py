"""Ctrl-C that Python lost is raised again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from mmpvt.engine import InterruptHook


@pytest.fixture(autouse=True)
def _handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


class Swallows:
    """Is interrupted in its destructor, where Python only reports the exception."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(1000))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_lost_in_a_destructor():
    hook = InterruptHook()
    hook.before_run(None)
    hook.after_train_iter(None, 0)
    swallows = Swallows()
    del swallows
    for after_iter in (hook.after_train_iter, hook.after_val_iter, hook.after_test_iter):
        with pytest.raises(KeyboardInterrupt):
            after_iter(None, 1)
