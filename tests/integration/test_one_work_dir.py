"""Two runs in one work directory: the second ends with a sentence, the first loses nothing."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import platform
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helpers import Started
from mmpvt import UserError
from mmpvt.checkpoint import load_checkpoint
from mmpvt.checkpoint.saving import newest_checkpoint
from mmpvt.utils.locking import locked


@pytest.fixture
def start(tmp_path: Path, shapes: Path, tiny_config: Path, start_tool) -> Callable[..., Started]:
    """Starts a run in the one work directory."""
    places = ("--data-root", shapes, "--work-dir", tmp_path / "work")

    def start(*options: object, epochs: int = 500) -> Started:
        cfg = (f"train_cfg.max_epochs={epochs}", f"train_cfg.val_interval={epochs}")
        cfg += ("train_dataloader.num_workers=1", "default_hooks.checkpoint.max_keep_ckpts=3")
        return start_tool("train.py", tiny_config, *places, *options, "--cfg-options", *cfg)

    return start


def refusal(work: Path, first: Started, second: Started) -> None:
    """Makes sure that the second was refused for the first."""
    assert second.wait(60) == 2, second.text
    assert "Traceback" not in second.text
    assert second.text.rstrip().splitlines()[-1] == (
        f"error: the folder {work} is in use by another run on {platform.node()}, process "
        f"{first.pid}: wait until it has ended, or pass another folder with --work-dir"
    )


def others(work: Path) -> dict[Path, tuple[int, int]]:
    """What is there beside checkpoints and growing logs."""
    files = (file for file in work.rglob("*") if file.suffix in ("", ".py"))
    return {
        file: (file.stat().st_ino, file.stat().st_mtime_ns)
        for file in files
        if file.is_file() and file.name != "last_checkpoint"
    }


@pytest.mark.parametrize("options", [(), ("--resume",)], ids=["anew", "resumed"])
def test_the_second_is_refused(options: tuple, tmp_path: Path, start):
    work = tmp_path / "work"
    first = start()
    first.wait_for((work / "epoch_2.pth").exists)
    before = others(work)
    refusal(work, first, start(*options))
    assert others(work) == before and work / ".mmpvt-lock" in before
    first.signal(signal.SIGTERM)
    assert first.wait(60) == 143, first.text
    saved = load_checkpoint(newest_checkpoint(work))["meta"]
    assert f"stopped by SIGTERM after iteration {saved['iter']}, which is saved" in first.text
    third = start("--resume", epochs=saved["epoch"] + 2)
    assert third.wait() == 0, third.text


def test_two_at_once(tmp_path: Path, start):
    """In a folder that neither finds."""
    pair = [start(), start()]
    pair[0].wait_for(lambda: not all(process.is_alive() for process in pair))
    first, second = sorted(pair, key=lambda process: not process.is_alive())
    refusal(tmp_path / "work", first, second)
    first.wait_for((tmp_path / "work" / "epoch_2.pth").exists)


def test_workers_of_a_killed_run_keep_no_lock(tmp_path: Path, start):
    first = start()
    first.wait_for((tmp_path / "work" / "epoch_2.pth").exists)
    workers = Path(f"/proc/{first.pid}/task/{first.pid}/children").read_text().split()
    assert workers
    for worker in workers:
        os.kill(int(worker), signal.SIGSTOP)
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    second = start("--resume")
    second.wait_for(lambda: "in use by" in second.text or "Epoch(train)" in second.text)
    assert "in use by" not in second.text
    assert all(Path(f"/proc/{worker}").exists() for worker in workers)


def hold(folder: Path, pipe) -> None:
    with locked(folder, "out"):
        pipe.send(os.getpid())
        pipe.recv()


@contextmanager
def held(folder: Path) -> Iterator[multiprocessing.Process]:
    """Another process holds the folder."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=hold, args=(folder, theirs), daemon=True)
    process.start()
    assert ours.recv() == process.pid
    yield process
    process.kill()
    process.join()


def test_one_holder(tmp_path: Path):
    with held(tmp_path) as process:
        expected = f"in use by another run on {platform.node()}, process {process.pid}: "
        for _ in range(2):
            with pytest.raises(UserError, match=expected), locked(tmp_path, "out"):
                pass
    for _ in range(2):  # its holder was killed; and after an orderly end
        with locked(tmp_path, "out"):
            assert (tmp_path / ".mmpvt-lock").read_text().split() == [
                platform.node(),
                str(os.getpid()),
            ]


def test_reproduce(tmp_path: Path, call_tool):
    (tmp_path / "x.pth").write_bytes(b"")
    out = tmp_path / "out"
    out.mkdir()
    args = ("reproduce.py", "--checkpoints", tmp_path, "--out", out)
    with held(out) as process:
        sentence = call_tool(*args).one_sentence()
        assert f"{out} is in use by another run" in sentence and f"{process.pid}" in sentence
        assert "pass another folder with --out" in sentence
        assert [file.name for file in out.iterdir()] == [".mmpvt-lock"]
    assert call_tool(*args).code == 0
    assert (out / "index.html").is_file()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_no_locks(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    """As file systems without them answer, which a test can't mount."""

    def refuse(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with locked(tmp_path, "out"):
        (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {tmp_path} can't be locked ({os.strerror(code)}): ")
