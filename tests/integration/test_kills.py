"""Runs that are killed, stopped or short of disk go on from their newest whole checkpoint."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import mmpvt
from helpers import Started
from mmpvt.checkpoint.saving import is_intact, newest_checkpoint

EVERY_ITERATION = """
_base_ = "{base}"
train_cfg = dict(max_epochs={epochs})
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1, max_keep_ckpts=2))
"""


@pytest.fixture
def arguments(tmp_path: Path, shapes: Path, tiny_config: Path) -> Callable[..., tuple]:
    """Options of a run that saves after every iteration, four an epoch."""

    def make(epochs: int, *cfg_options: str) -> tuple:
        config = tmp_path / f"every_{epochs}.py"
        config.write_text(EVERY_ITERATION.format(base=tiny_config, epochs=epochs))
        options = ("--cfg-options", *cfg_options) if cfg_options else ()
        places = ("--data-root", shapes, "--work-dir", tmp_path / "work")
        return (config, *places, "--seed", 0, *options)

    return make


def iteration(checkpoint: Path | str) -> int:
    return mmpvt.checkpoint.load_checkpoint(checkpoint)["meta"]["iter"]


def saved(process: Started) -> int:
    """The newest iteration that a run has announced to save."""
    numbers = re.findall(r"Saving checkpoint at (\d+) iterations", process.text)
    return int(numbers[-1]) if numbers else 0


def stop_within_writing(process: Started, work: Path) -> None:
    """Stops a run where a checkpoint is half written, which takes milliseconds."""
    while True:
        process.wait_for(lambda: list(work.glob(".*.part")))
        process.signal(signal.SIGSTOP)
        time.sleep(0.01)  # it stops in its own time
        if list(work.glob(".*.part")):
            return
        process.signal(signal.SIGCONT)


def kill_and_resume(times: int, epochs: int, work: Path, args: tuple, start_tool) -> None:
    """Kills a run at random moments, every second one while a checkpoint is being written."""
    rng = random.Random(0)
    reached = within_writing = 0
    for number in range(times):
        process = start_tool("train.py", *args, *(["--resume"] if reached else []))
        least = reached + rng.randint(1, 3)
        process.wait_for(lambda p=process, n=least: saved(p) > n)
        if number % 2:
            stop_within_writing(process, work)
        else:
            time.sleep(rng.uniform(0, 0.5))
        process.kill()
        within_writing += bool(list(work.glob(".*.part")))
        newest = newest_checkpoint(work)
        assert newest and is_intact(newest)
        assert iteration(newest) >= saved(process) - 1
        assert iteration(newest) > reached
        reached = iteration(newest)
        for scalars in work.glob("*/vis_data/scalars.json"):
            assert all(json.loads(line) for line in scalars.read_text().splitlines())
    assert within_writing >= times // 2
    process = start_tool("train.py", *args, "--resume")
    assert process.wait() == 0, process.text
    assert f"iter: {reached}" in process.text
    assert iteration(newest_checkpoint(work)) == 4 * epochs
    assert not list(work.glob(".*.part"))


def test_killed_and_resumed(tmp_path: Path, arguments, start_tool, call_tool):
    """It also ends with the weights of a run that was left alone."""
    args = arguments(6)
    kill_and_resume(4, 6, tmp_path / "work", args, start_tool)
    alone = call_tool("train.py", *args, "--work-dir", tmp_path / "alone")
    assert alone.code == 0, alone.err
    ours, theirs = (
        mmpvt.checkpoint.load_checkpoint(newest_checkpoint(tmp_path / name))["state_dict"]
        for name in ("work", "alone")
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.full
def test_killed_twenty_times(tmp_path: Path, arguments, start_tool):
    kill_and_resume(20, 40, tmp_path / "work", arguments(40), start_tool)


@pytest.mark.parametrize(
    "number",
    [pytest.param(n, marks=pytest.mark.full) for n in (signal.SIGINT, signal.SIGHUP)]
    + [signal.SIGTERM],
)
def test_signals_save(number: signal.Signals, tmp_path: Path, arguments, start_tool, call_tool):
    """Sent to the loading processes, too, between two regular checkpoints."""
    work = tmp_path / "work"
    args = arguments(
        100, "default_hooks.checkpoint.interval=1000", "train_dataloader.num_workers=2"
    )
    process = start_tool("train.py", *args)
    process.wait_for(lambda: "[2][2/4]" in process.text)
    process.signal(number)
    assert process.wait() == 128 + number
    last = process.text.rstrip().splitlines()[-1]
    stopped = re.fullmatch(
        rf"stopped by {number.name} after iteration (\d+), which is saved in "
        rf"{work}/interrupted\.pth: --resume resumes from there",
        last,
    )
    assert stopped, last
    done = int(stopped[1])
    assert iteration(work / "interrupted.pth") == done >= 6
    more = ("train_cfg.max_epochs", done // 4 + 1)
    resumed = call_tool("train.py", *args, "{}={}".format(*more), "--resume")
    assert resumed.code == 0, resumed.err
    assert f"iter: {done}" in resumed.out
    steps = mmpvt.checkpoint.load_checkpoint(newest_checkpoint(work))["optimizer"]["state"]
    assert {int(state["step"]) for state in steps.values()} == {4 * (done // 4 + 1)}


def test_second_signal_ends_at_once(tmp_path: Path, arguments, start_tool):
    process = start_tool("train.py", *arguments(100))
    process.wait_for(lambda: "[2][2/4]" in process.text)
    for _ in range(2):
        process.signal(signal.SIGINT)
        time.sleep(0.001)
    assert process.wait() == 130, process.text
    assert "stopped by SIGINT" in process.text.splitlines()[-1]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The work directory on a file system of 64 MiB."""
    work = tmp_path / "work"
    work.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "small", work]
    if os.getuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield work
    subprocess.run(["umount", "--lazy", work], check=True)  # workers may still be ending


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 10, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


def test_full_disk(small_disk: Path, arguments, start_tool):
    """Training goes on, and saves again once there is room."""
    process = start_tool("train.py", *arguments(60))
    process.wait_for(lambda: saved(process) >= 3)
    fill(small_disk / "ballast")
    process.wait_for(lambda: process.text.count("could not be written (No space left") >= 3)
    kept = newest_checkpoint(small_disk)
    reached = iteration(kept)
    assert reached >= 2
    (small_disk / "ballast").unlink()
    process.wait_for(lambda: newest_checkpoint(small_disk) not in (kept, None))
    process.signal(signal.SIGTERM)
    assert process.wait() == 143
    assert iteration(newest_checkpoint(small_disk)) > reached
    assert "which is saved in" in process.text
    assert "Traceback" not in process.text


@pytest.mark.parametrize("before", [0, 3])
def test_disk_that_stays_full(before: int, tmp_path: Path, arguments, start_tool):
    """Where nobody may mount: a limit to what the process can write to a file."""
    process = start_tool("train.py", *arguments(6))
    process.wait_for(lambda: saved(process) >= before)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
    assert process.wait() == 2, process.text
    last = process.text.rstrip().splitlines()[-1]
    assert last.startswith("error: the run is over, but its last checkpoint could not be written")
    assert "File too large" in last and "Traceback" not in process.text
    newest = newest_checkpoint(tmp_path / "work")
    if before:
        assert newest and iteration(newest) >= 2
    how = f"resume from {newest.name}" if newest else "train again"
    assert last.endswith(f"make room, then {how}") and bool(newest) == bool(before)
