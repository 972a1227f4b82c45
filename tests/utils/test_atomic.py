"""Files are written intact or not at all."""

from __future__ import annotations

import multiprocessing
import os
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
        time.sleep(0.02 + 0.003 * i)
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
