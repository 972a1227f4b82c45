"""A signal that Python lost ends the run all the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from mmpvt.engine import InterruptHook
from mmpvt.errors import Stopped


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


class Swallows:
    """Is interrupted in its destructor, where Python only reports the exception."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(1000))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_lost_in_a_destructor():
    hook = InterruptHook()
    hook.before_run(None)
    hook.after_test_iter(None, 0)
    swallows = Swallows()
    del swallows
    with pytest.raises(KeyboardInterrupt) as caught:
        hook.after_test_iter(None, 1)
    assert caught.value.code == 130


def test_training_ends_after_the_iteration():
    hook = InterruptHook()
    hook.before_run(None)
    hook.before_train(None)
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Stopped, match=str(int(signal.SIGTERM))):  # the second, at once
        os.kill(os.getpid(), signal.SIGTERM)
