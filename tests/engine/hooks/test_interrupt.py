"""A signal that Python lost ends the run all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from helpers import environment
from mmpvt.engine.hooks.interrupt import InterruptHook, raise_if_asked
from mmpvt.errors import Interrupted


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before, hook = [signal.getsignal(number) for number in numbers], sys.unraisablehook
    yield
    sys.unraisablehook = hook
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
    with pytest.raises(KeyboardInterrupt):  # nor is the test of a report made afterwards
        InterruptHook(follows=True).before_run(None)
    hook.asked = signal.SIGTERM
    hook.before_train(None)  # which saves first
    raise_if_asked()


def test_lost_while_metrics_are_computed():
    """As where one starts a process: nothing else would end it."""
    hook = InterruptHook()
    hook.before_run(None)
    hook.before_train(None)
    hook.computing = SimpleNamespace(iter=3, hooks=[])
    swallows = Swallows()
    del swallows
    with pytest.raises(Interrupted) as caught:
        time.sleep(20)
    assert (caught.value.code, caught.value.iteration) == (130, 3)


TRAINING = """
import os, signal
from mmpvt.engine.hooks.interrupt import InterruptHook, raise_if_asked

hook = InterruptHook()
hook.before_run(None)
hook.before_train(None)
os.kill(os.getpid(), signal.SIGTERM)
print("the iteration goes on", flush=True)
try:
    os.kill(os.getpid(), signal.SIGTERM)
    sum(range(1000))
except BaseException:
    print("caught")
"""


def test_training_ends_after_the_iteration_or_at_the_second_signal():
    """Which whatever is running can't catch."""
    command = [sys.executable, "-c", TRAINING]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stdout.endswith("the iteration goes on\n")  # OneDL's packages print, too
    assert done.stderr.endswith("stopped by SIGTERM\n")


CLOSED = """
import os, signal, sys
from mmpvt.engine.hooks.interrupt import InterruptHook

hook = InterruptHook()
hook.before_run(None)
hook.before_train(None)
for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
    os.kill(os.getpid(), number)
    print(int(hook.asked), flush=True)
os.close(2), os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize("ignored", [False, True])
def test_a_terminal_that_is_closed(ignored: bool):
    """The kernel, a shell and torchrun each send a signal; nohup has one ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    command = [sys.executable, "-c", CLOSED]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    signal.signal(signal.SIGHUP, before)
    assert done.stdout.split()[-4:] == ["0" if ignored else "1"] * 2 + ["15"] * 2
    assert done.returncode == 128 + signal.SIGTERM
