"""What Linux has and Windows or macOS lack is taken away: the rest works, and says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from helpers import environment

WITHOUT = """
import os, signal, sys
import mmengine.runner  # and with it the standard library, which looks at the system

for module, name in ((os, "register_at_fork"), (os, "sched_getaffinity"), (os, "O_NOFOLLOW"),
                     (signal, "pthread_sigmask"), (signal, "SIGCHLD"), (signal, "SIGKILL")):
    delattr(module, name)
sys.modules["fcntl"] = sys.modules["resource"] = None

from pathlib import Path
import mmpvt

mmpvt.setup_environment()  # what is imported next takes in mmpretrain, where it is installed
from mmpvt.cli import build_parser
from mmpvt.datasets.samplers import init_worker, kill_workers
from mmpvt.engine.hooks.interrupt import InterruptHook
from mmpvt.reproduction.reproduction_hook import _peak_memory
from mmpvt.utils import signals
from mmpvt.utils.atomic import atomic_write
from mmpvt.utils.locking import locked

folder = Path(sys.argv[1])
with locked(folder, "work_dir"), signals.delayed():
    atomic_write(folder / "a", b"1")
hook = InterruptHook()
hook.before_run(None)
hook.before_train(None)
signal.raise_signal(signal.SIGTERM)
assert hook.asked == signal.SIGTERM
init_worker(0)
signal.raise_signal(signal.SIGTERM)
kill_workers()
build_parser()
print(_peak_memory())
"""


def test_what_only_linux_has_is_not_needed(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, tmp_path],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "can't be locked (Function not implemented)" in done.stderr
    assert "not measured" in done.stdout or "GPU" in done.stdout
    assert (tmp_path / "a").read_bytes() == b"1"
