"""What processes inherit of a run's signal handlers: none."""

from __future__ import annotations

import multiprocessing
import signal
import subprocess
import sys
import time

import pytest

PUT_BACK = """
import multiprocessing, signal, time
from mmpvt.utils.signals import handle

class Run:
    def note(self, number, frame):
        raise KeyboardInterrupt

first, second = Run(), Run()
handle(signal.SIGTERM, first.note)
handle(signal.SIGTERM, second.note)
signal.signal(signal.SIGTERM, first.note)  # by what had kept it before the second run
process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
process.start()
process.terminate()  # at once, while the new process may not have got as far as its first line
process.join()
print(process.exitcode)
"""


@pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no process is copied here"
)
def test_a_handler_that_was_put_back_is_not_inherited():
    """Else the process drops the signal, and a pool waits for it for ever."""
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", PUT_BACK], capture_output=True, text=True, timeout=120, check=True
    )
    assert ended.stdout.split() == [str(-signal.SIGTERM)]
    assert not ended.stderr and time.monotonic() - started < 60
