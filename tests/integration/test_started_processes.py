"""Processes that a metric, a hook or a transform starts can be ended, and end with the run."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, METRICS, TRANSFORMS

from helpers import Started, environment

LONG = 600  # seconds


class Computes(BaseMetric):
    """A metric that computes in processes of its own, several times.

    Args:
        method (str): how they are started; ``'executor'`` for ``concurrent.futures``.
        rounds (int): how many times.
        seconds (float): that each process takes.
    """

    def __init__(self, method: str = "fork", rounds: int = 1, seconds: float = 0) -> None:
        super().__init__()
        self.method, self.rounds, self.seconds = method, rounds, seconds

    def process(self, data_batch, data_samples) -> None:
        self.results.append(1)

    def compute_metrics(self, results: list) -> dict:
        print(f"computing in {os.getpid()}", flush=True)
        for _ in range(self.rounds):
            if self.method == "executor":
                with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as executor:
                    list(executor.map(time.sleep, [self.seconds] * 2))
                    for worker in executor._processes.values():
                        worker.terminate()
                        worker.join()
                continue
            context = multiprocessing.get_context(self.method)
            with context.Pool(2) as pool:  # its end is SIGTERM's
                pool.map(time.sleep, [self.seconds] * 2)
            lone = context.Process(target=time.sleep, args=(LONG,))
            lone.start()
            lone.terminate()
            lone.join()
            assert lone.exitcode == -signal.SIGTERM
        return dict(rounds=self.rounds)


class ComputesInTraining(Hook):
    """A hook that waits for a pool."""

    def after_train_iter(self, *args, **kwargs) -> None:
        print("the hook waits", flush=True)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            pool.map(time.sleep, [LONG] * 2)


class Executes:
    """A transform that starts programs, and ends them."""

    def __call__(self, results: dict) -> dict:
        for number in (signal.SIGTERM, signal.SIGINT):
            program = subprocess.Popen(["sleep", str(LONG)])
            program.send_signal(number)
            assert program.wait(60) == -number
            ready, tell = os.pipe()
            pid = os.fork()
            if not pid:
                try:
                    os.close(tell)
                    while True:  # a signal just before a long sleep would wait for its end
                        time.sleep(0.01)
                finally:  # KeyboardInterrupt's, too
                    os._exit(1)
            os.close(tell)
            os.read(ready, 1)
            os.close(ready)
            os.kill(pid, number)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (-number, 1)
        return results


@pytest.fixture(autouse=True)
def _registered():
    parts = ((METRICS, Computes), (HOOKS, ComputesInTraining), (TRANSFORMS, Executes))
    for registry, part in parts:
        registry.register_module(module=part)
    yield
    for registry, part in parts:
        registry.module_dict.pop(part.__name__)


@pytest.fixture
def start(tmp_path: Path, shapes: Path, tiny_config: Path, start_tool) -> Callable[..., Started]:
    """Starts a run whose config has some lines more."""

    def start(lines: str, copied: bool = True) -> Started:
        config = tmp_path / "more.py"
        config.write_text(f'_base_ = "{tiny_config}"\n{lines}\n')
        places = ("--data-root", shapes, "--work-dir", tmp_path / "work")
        return start_tool("train.py", config, *places, "--seed", 0, copied=copied)

    return start


def metric(epochs: int = 4, **settings: object) -> str:
    evaluator = dict(_delete_=True, type="Computes", **settings)
    return f"train_cfg = dict(max_epochs={epochs}, val_interval=1)\nval_evaluator = {evaluator!r}"


def alive(group: int) -> list[int]:
    """The processes of a group that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


def wait_for_none(group: int) -> None:
    end = time.monotonic() + 30
    while left := alive(group):
        assert time.monotonic() < end, f"{left} outlive the run"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("method", "rounds"),
    [
        ("fork", 5),
        pytest.param("executor", 3, marks=pytest.mark.full),
        pytest.param("spawn", 1, marks=pytest.mark.full),
        pytest.param("forkserver", 1, marks=pytest.mark.full),
        pytest.param("fork", 50, marks=pytest.mark.full),
    ],
)
def test_a_metric_ends_its_processes(method: str, rounds: int, tmp_path: Path, start):
    # a copy of the tests' process has the state that hundreds of tests left, a user's has not
    (tmp_path / "computing.py").write_text(
        "import multiprocessing, os, signal, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "from mmengine.evaluator import BaseMetric\n"
        "from mmengine.registry import METRICS\n"
        f"LONG = {LONG}\n@METRICS.register_module()\n{inspect.getsource(Computes)}"
    )
    imports = (
        f"import sys\nsys.path.append({str(tmp_path)!r})\n"
        'custom_imports = dict(imports=["computing"])\n'
    )
    process = start(imports + metric(2, method=method, rounds=rounds), copied=False)
    assert process.wait(240) == 0, process.text
    assert process.text.count("computing in") == 2
    wait_for_none(process.pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("to_all", [False, True], ids=["alone", "group"])
def test_a_metric_is_interrupted(number: signal.Signals, to_all: bool, tmp_path: Path, start):
    process = start(metric(method="fork", seconds=LONG))
    process.wait_for(lambda: "computing in" in process.text and len(alive(process.pid)) >= 3)
    time.sleep(0.3)  # until it waits for them
    (process.signal if to_all else lambda n: os.kill(process.pid, n))(number)
    assert process.wait(30) == 128 + number, process.text
    saved = f"after iteration 4, which is saved in {tmp_path / 'work'}"
    assert saved in process.text.rstrip().splitlines()[-1]
    wait_for_none(process.pid)


def test_a_killed_run_leaves_no_process(start):
    process = start(metric(method="fork", seconds=3))
    process.wait_for(lambda: "computing in" in process.text and len(alive(process.pid)) >= 3)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    wait_for_none(process.pid)


def test_a_second_signal_ends_a_hook_and_its_processes(start):
    process = start('custom_hooks = [dict(type="ComputesInTraining")]')
    process.wait_for(lambda: "the hook waits" in process.text and len(alive(process.pid)) >= 3)
    for _ in range(2):
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(0.3)
    assert process.wait(30) == 128 + signal.SIGTERM, process.text
    wait_for_none(process.pid)


def test_a_transform_ends_its_programs(tmp_path: Path, start):
    process = start(
        "_base_.train_pipeline.insert(2, dict(type='Executes'))\n"
        "train_dataloader = dict(num_workers=1, dataset=dict(pipeline=_base_.train_pipeline))\n"
        "train_cfg = dict(max_epochs=1, val_interval=1)"
    )
    assert process.wait(120) == 0, process.text
    wait_for_none(process.pid)


def test_a_worker_that_hangs_ends_with_the_run(
    tmp_path: Path, shapes: Path, tiny_config: Path, run_tool
):
    """It ignores the SIGTERM by which Python ends it, and which Python then waits for."""
    (tmp_path / "hanging.py").write_text(
        "import time\n"
        "from mmengine.registry import TRANSFORMS\n"
        "@TRANSFORMS.register_module()\n"
        "class Hangs:\n"
        "    def __call__(self, results):\n"
        f"        time.sleep({LONG})\n"
    )
    config = tmp_path / "hangs.py"
    config.write_text(
        f"import sys\nsys.path.append({str(tmp_path)!r})\n"
        f'_base_ = "{tiny_config}"\ncustom_imports = dict(imports=["hanging"])\n'
        "_base_.train_pipeline.insert(2, dict(type='Hangs'))\n"
        "pipeline = dict(pipeline=_base_.train_pipeline)\n"
        "train_dataloader = dict(num_workers=1, timeout=2, dataset=pipeline)\n"
    )
    places = ("--data-root", shapes, "--work-dir", tmp_path / "work")
    done = run_tool("train.py", config, *places, timeout=100, fresh=True)
    assert done.code == 1
    assert "DataLoader timed out after 2 seconds" in done.err


def test_nothing_inherits_a_handler():
    """Those before the run's are inherited instead."""
    code = (
        "import os, signal\n"
        "from mmpvt.utils.signals import handle\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "handle(signal.SIGINT, print)\n"
        "handle(signal.SIGTERM, print)\n"
        "handle(signal.SIGTERM, repr)\n"
        "def told():\n"
        "    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())\n"
        "    return *(signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)), blocked\n"
        "if not os.fork():\n"
        "    os._exit(told() != (signal.SIG_IGN, signal.SIG_DFL, set()))\n"
        "assert told() == (print, repr, set())\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)


def test_a_pool_that_is_left_open_ends_with_the_process():
    """Its workers aren't killed as those are that load data: one holds the lock of its tasks."""
    code = (
        "import atexit, multiprocessing\n"
        "from mmpvt.datasets.samplers import kill_workers\n"
        "atexit.register(kill_workers)\n"
        "pool = multiprocessing.get_context('fork').Pool(2)\n"
        "pool.map(abs, [1, 2])\n"
    )
    line = [sys.executable, "-c", code]
    subprocess.run(line, env=environment(), check=True, timeout=100)
