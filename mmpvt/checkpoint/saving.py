"""Checkpoint files of a run: written atomically, checked by their checksums, the newest found."""

from __future__ import annotations

import os
import zipfile
from contextlib import suppress
from pathlib import Path

import torch
from mmengine.fileio import LocalBackend, register_backend

from mmpvt.utils.atomic import atomic_write
from mmpvt.utils.text import encodable

POINTER = "last_checkpoint"
INTERRUPTED = "interrupted.pth"
PATTERNS = ("epoch_*.pth", "iter_*.pth", INTERRUPTED)  # of what a run resumes from


class AtomicBackend(LocalBackend):
    """MMEngine's backend of local files, writing bytes with :func:`atomic_write`."""

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Writes bytes."""
        atomic_write(filepath, obj)


def atomic_backend_args() -> dict[str, str]:
    """MMEngine's ``backend_args`` that choose :class:`AtomicBackend`, by its name alone."""
    name = "mmpvt.atomic"
    register_backend(name, AtomicBackend, force=True)
    return dict(backend=name)


def is_intact(path: str | os.PathLike) -> bool:
    """Whether every byte of a checkpoint is as it was written, by the checksums in the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # whatever is wrong with it
        return False


def newest_checkpoint(work_dir: str | os.PathLike) -> Path | None:
    """The checkpoint that a run in this folder resumes from.

    It is the one that ``last_checkpoint`` names, or one that was completed after that was
    written. Where the named one is gone or damaged, or the name itself is, it is the intact one
    that got furthest.

    Args:
        work_dir (str | PathLike): a run's folder.

    Returns:
        Path | None: the file, or None where none is intact.
    """
    folder = Path(work_dir)
    candidates = {path for pattern in PATTERNS for path in folder.glob(pattern)}
    named = last_checkpoint(folder)
    if named is not None and is_intact(named):
        written = _written(folder / POINTER)
        candidates = {path for path in candidates if _written(path) > written} | {named}
    reached = {path: _iteration(path) for path in candidates if is_intact(path)}
    reached = {path: iteration for path, iteration in reached.items() if iteration is not None}
    return max(reached, key=lambda path: (reached[path], path == named), default=None)


def last_checkpoint(folder: Path) -> Path | None:
    """What ``last_checkpoint`` names, also where the folder was moved since; None if it is gone."""
    try:
        name = Path(os.fsdecode((folder / POINTER).read_bytes()).strip())
    except (OSError, ValueError):
        return None
    return next((path for path in (name, folder / name.name) if path.is_file()), None)


def _written(path: Path) -> int:
    """When, in nanoseconds; 0 for what has been removed meanwhile."""
    with suppress(OSError):
        return path.stat().st_mtime_ns
    return 0


def _iteration(path: Path) -> int | None:
    from mmpvt.checkpoint.loading import weights_only

    try:
        mmap = encodable(path) == str(path)  # PyTorch maps no file whose path is not UTF-8
        with weights_only():
            meta = torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)["meta"]
        return int(meta["iter"])
    except Exception:  # not a checkpoint that a run resumes from
        return None
