"""Several processes predict on one folder: torchrun's, SLURM's, and what one leaves to the next."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from helpers import ROOT, environment, free_port, kill_groups
from mmpvt.utils.outputs import LISTING, Outputs

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="copies of this process, which CUDA doesn't allow"
)
COUNT = 40


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small images of two sizes, one of them broken."""
    folder = tmp_path_factory.mktemp("images") / "photos"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(COUNT):
        size = (24, 32) if number % 7 else (32, 24)
        cv2.imwrite(str(folder / f"a{number:02}.png"), draw.integers(0, 255, (*size, 3), np.uint8))
    (folder / "a11.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def arguments(photos: Path, tiny_config: Path, trained: Path) -> tuple:
    return (tiny_config, trained / "epoch_2.pth", photos)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, arguments: tuple, run_tool) -> Path:
    """The results of a single process."""
    out = tmp_path_factory.mktemp("once") / "out"
    ended = run_tool("predict.py", *arguments, "--out", out)
    assert ended.code == 0, ended.err
    return out


def assert_same(out: Path, other: Path) -> None:
    """The same files with the same bytes; and all of them are listed as the tool's."""
    names = [
        sorted(path.relative_to(folder) for path in folder.rglob("[!.]*") if path.is_file())
        for folder in (out, other)
    ]
    assert names[0] == names[1] and len(names[0]) > COUNT
    for name in names[0]:
        assert (out / name).read_bytes() == (other / name).read_bytes(), name
    assert not list(out.glob(f"{LISTING}.*"))
    folder = Outputs(out)
    assert all(folder.owns(name.as_posix()) for name in names[0])


@pytest.fixture
def torchrun(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    started: list[subprocess.Popen] = []

    def run(*args: object, options: Sequence[str] = ()) -> subprocess.Popen:
        line = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
        line += ["--master_port", str(free_port()), *options, str(ROOT / "tools" / "predict.py")]
        started.append(
            subprocess.Popen(
                [*line, *map(str, args), "--launcher", "pytorch"],
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield run
    kill_groups(started)


@pytest.mark.full
def test_torchrun(once: Path, arguments: tuple, tmp_path: Path, torchrun):
    """A process is killed in the middle; torchrun starts both again, which do what is left."""
    out = tmp_path / "out"
    run = torchrun(*arguments, "--out", out, options=("--max-restarts", "1"))
    wait_for(functools.partial(has, out, 1, 5), run)
    (pid,) = (
        pid
        for pid in map(int, Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split())
        if b"\0RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()
    )
    os.kill(pid, signal.SIGKILL)
    said = run.communicate(timeout=240)[0]
    assert run.returncode == 0, said
    assert "done before" in said and "all processes: 39 images: see" in said
    assert_same(out, once)


def slurm(index: int, step: int = 0) -> dict[str, str]:
    names = dict(PROCID=index, NTASKS=2, LOCALID=index, JOB_ID=7, STEP_ID=step, CPUS_PER_TASK=1)
    return {f"SLURM_{name}": str(value) for name, value in names.items()}


def test_slurm(once: Path, arguments: tuple, tmp_path: Path, start_tool):
    """By its variables: each process does its half, and the last one what is of all."""
    out = tmp_path / "out"
    args = ("predict.py", *arguments, "--out", out, "--launcher", "slurm")
    pair = [start_tool(*args, **slurm(index)) for index in (0, 1)]
    assert [process.wait() for process in pair] == [0, 0], pair[0].text + pair[1].text
    said = [process.text for process in pair]
    for index, text in enumerate(said):
        assert f"process {index} of 2: {20 - (index == 1)} images" in text
    assert sum("all processes: 39 images: see" in text for text in said) == 1
    assert sum("skipped: /" in text for text in said) == 1
    assert_same(out, once)


def test_what_two_began_one_ends(
    once: Path, arguments: tuple, tmp_path: Path, start_tool, run_tool
):
    """One of the two is killed, and its line cut: nothing is lost, done twice or mixed up."""
    out = tmp_path / "out"
    args = ("predict.py", *arguments, "--out", out, "--launcher", "slurm")
    pair = [start_tool(*args, **slurm(index)) for index in (0, 1)]
    pair[0].wait_for(functools.partial(has, out, 0, 1))
    pair[0].signal(signal.SIGSTOP)
    pair[1].wait_for(functools.partial(has, out, 1, 5))
    os.kill(pair[1].pid, signal.SIGKILL)
    assert pair[1].wait() == -signal.SIGKILL
    pair[0].signal(signal.SIGCONT)
    (journal,) = out.glob("predictions.*.1.jsonl.part")
    done = journal.read_bytes().count(b"\n")
    with journal.open("ab") as file:
        file.write(b'{"image_id": 40, "file_na')
    assert pair[0].wait() == 1
    assert f"error: {20 - done} of 40 images are missing" in pair[0].text
    assert "the same command with --resume does them" in pair[0].text
    assert not (out / "predictions.json").exists()

    ended = run_tool("predict.py", *arguments, "--out", out, "--resume")
    assert ended.code == 0, ended.err
    assert f"{20 + done} done before" in ended.out
    assert_same(out, once)

    again = [start_tool(*args, "--resume", **slurm(index, 1)) for index in (0, 1)]
    assert [process.wait() for process in again] == [0, 0]
    assert "0 images, 0 skipped, 40 done before" in again[0].text
    assert_same(out, once)

    for step in (2, 3):  # anew, and again over what that has left
        left = set(out.glob("predictions.*.0.jsonl.part"))
        pair = [start_tool(*args, **slurm(index, step)) for index in (0, 1)]
        pair[0].wait_for(functools.partial(has, out, 0, 3, left))
        for process in pair:
            process.kill()
        assert "done before" not in pair[0].text + pair[1].text
    pair = [start_tool(*args, **slurm(i, 3), SLURM_RESTART_COUNT="1") for i in (0, 1)]  # requeued
    assert [process.wait() for process in pair] == [0, 0], pair[0].text + pair[1].text
    assert "done before" in pair[0].text
    assert_same(out, once)


def test_another_run_into_the_folder(
    arguments: tuple, tmp_path: Path, start_tool, call_tool, monkeypatch
):
    """Refused while a process of the first lives; and a training run's lock keeps it out."""
    out = tmp_path / "out"
    args = ("predict.py", *arguments, "--out", out)
    first = start_tool(*args, "--launcher", "slurm", **slurm(0))
    first.wait_for(functools.partial(has, out, 0, 2))
    first.signal(signal.SIGSTOP)
    said = call_tool(*args).one_sentence()
    assert "is in use by another run on" in said and f"process {first.pid}" in said
    for name, value in slurm(1, 1).items():
        monkeypatch.setenv(name, value)
    assert "in use" in call_tool(*args, "--launcher", "slurm").one_sentence()
    first.signal(signal.SIGCONT)
    first.signal(signal.SIGINT)
    assert first.wait() == 130
    assert "interrupted: what was predicted so far is written" in first.text


def test_careless(arguments: tuple, photos: Path, tmp_path: Path, call_tool, monkeypatch):
    out = tmp_path / "out"
    args = ("predict.py", *arguments[:2])
    rest = ("--out", out, "--launcher")
    said = call_tool(*args, photos, *rest, "pytorch").one_sentence()
    assert "not started by torchrun (RANK is not set): start the command with torchrun" in said
    said = call_tool(*args, photos, *rest, "slurm").one_sentence()
    assert "not started by srun (SLURM_PROCID is not set)" in said
    said = call_tool(*args, "clip.mp4", *rest, "slurm").one_sentence()
    assert "--launcher is for images" in said
    assert not out.exists()
    for name, value in slurm(0).items():
        monkeypatch.setenv(name, value)
    ended = call_tool(*args, photos / "a11.png", photos / "a12.png", *rest, "slurm")
    assert ended.code == 0
    assert "1 of 2 images are left to processes that have yet to begin" in ended.out
    for name, value in slurm(1).items():
        monkeypatch.setenv(name, value)
    said = call_tool(*args, photos / "a12.png", *rest, "slurm").one_sentence()
    assert "the processes of this run were given different images" in said
    ended = call_tool(*args, photos / "a11.png", photos / "a12.png", *rest, "slurm")
    assert ended.code == 0 and "all processes: 1 image:" in ended.out
    for name, value in slurm(0, 1).items():
        monkeypatch.setenv(name, value)
    ended = call_tool(*args, photos / "a11.png", *rest, "slurm")
    assert "no image can be used, of 1" in ended.one_sentence()


def has(out: Path, index: int, count: int, left: Collection[Path] = ()) -> bool:
    """Whether a process has done so many images, but for journals that an earlier one has left."""
    journals = set(out.glob(f"predictions.*.{index}.jsonl.part")).difference(left)
    with suppress(FileNotFoundError):  # it may just be taken over
        return any(path.read_bytes().count(b"\n") >= count for path in journals)
    return False


def wait_for(condition: Callable[[], bool], run: subprocess.Popen) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)
