"""Files are written intact or not at all."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
import time
from pathlib import Path

import pytest

from mmpvt.utils.atomic import atomic_write, remove_parts, replacing


def _write_for_ever(path: Path) -> None:
    for i in range(1_000_000):
        atomic_write(path, bytes([i % 256]) * 3_000_000)


def test_killed_while_writing(tmp_path: Path):
    """What the file held before, or all of the new: never a part of it."""
    path = tmp_path / "epoch_1.pth"
    atomic_write(path, b"\0" * 3_000_000)
    torn = 0
    for i in range(20):
        process = multiprocessing.get_context("fork").Process(target=_write_for_ever, args=[path])
        process.start()
        while not list(tmp_path.glob(".*.part")):
            time.sleep(0.001)
        time.sleep(0.003 * i)
        process.kill()
        process.join()
        content = path.read_bytes()
        assert len(content) == 3_000_000 and len(set(content)) == 1
        torn += bool(list(tmp_path.glob(".*.part")))
    assert torn
    remove_parts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch_1.pth"]


def test_an_error_leaves_what_was_there(tmp_path: Path):
    path = tmp_path / "new" / "a"
    atomic_write(path, b"1")
    os.link(path, tmp_path / "link")
    with pytest.raises(RuntimeError), replacing(path) as part:
        part.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"1" and list(path.parent.iterdir()) == [path]
    atomic_write(path, b"2", sync=False)
    assert path.read_bytes() == b"2" and (tmp_path / "link").read_bytes() == b"1"


def test_where_folders_cannot_be_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Windows opens no folders, and flushes only files opened for writing."""
    real_open, real_fsync, flushed = os.open, os.fsync, []

    def windows_open(path: Path, flags: int) -> int:
        if path.is_dir():
            raise PermissionError(13, "Permission denied")
        flushed.append(flags & os.O_RDWR)
        return real_open(path, flags)

    with monkeypatch.context() as patch:
        patch.setattr("mmpvt.utils.atomic.os.open", windows_open)
        atomic_write(tmp_path / "a", b"1")
    assert (tmp_path / "a").read_bytes() == b"1" and flushed == [os.O_RDWR]

    def no_folders(descriptor: int) -> None:  # as some network file systems
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real_fsync(descriptor)

    monkeypatch.setattr("mmpvt.utils.atomic.os.fsync", no_folders)
    atomic_write(tmp_path / "a", b"2")
    assert (tmp_path / "a").read_bytes() == b"2"


def test_a_file_that_cannot_be_flushed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(descriptor: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr("mmpvt.utils.atomic.os.fsync", broken)
    with pytest.raises(OSError):
        atomic_write(tmp_path / "a", b"1")
    assert not list(tmp_path.iterdir())
