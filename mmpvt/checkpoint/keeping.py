"""Files that are whole or not there, and finding the newest checkpoint among them."""

from __future__ import annotations

import os
import secrets
import zipfile
from contextlib import suppress
from pathlib import Path

import torch
from mmengine.fileio import LocalBackend, register_backend

from mmpvt.utils.text import encodable

POINTER = "last_checkpoint"
INTERRUPTED = "interrupted.pth"
PATTERNS = ("epoch_*.pth", "iter_*.pth", INTERRUPTED)  # that a run can go on from
PART = ".part"


def write_whole(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file that never is half there, whenever the machine stops.

    Args:
        path (str | PathLike): the file; what it held stays until all of the new is on the disk.
        content (bytes): what it will hold.

    Raises:
        OSError: it can't be written; what the file held is still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{secrets.token_hex(8)}{PART}")  # of one writer among several
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name, too
    finally:
        os.close(folder)


def remove_parts(folder: str | os.PathLike) -> None:
    """Removes what writing left behind when it was killed."""
    for part in Path(folder).glob(f".*{PART}"):
        part.unlink(missing_ok=True)


class WholeFilesBackend(LocalBackend):
    """MMEngine's way to local files, writing them with :func:`write_whole`."""

    def put(self, obj: bytes, filepath: str | os.PathLike) -> None:
        """Writes bytes."""
        write_whole(filepath, obj)


def register_backend_of_whole_files() -> None:
    """Makes :class:`WholeFilesBackend` the way that MMEngine writes checkpoints."""
    register_backend("local", WholeFilesBackend, force=True, prefixes="")


def is_whole(path: str | os.PathLike) -> bool:
    """Whether every byte of a checkpoint is as it was written, by the sums stored beside them."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # whatever is wrong with it, it is not whole
        return False


def newest_checkpoint(work_dir: str | os.PathLike) -> Path | None:
    """The checkpoint that a run in this folder goes on from.

    It is the one that ``last_checkpoint`` names, or one that was completed after that was
    written. Where the named one is gone or damaged, or the name itself is, it is the whole one
    that got furthest.

    Args:
        work_dir (str | PathLike): a run's folder.

    Returns:
        Path | None: the file, or None where none is whole.
    """
    folder = Path(work_dir)
    candidates = {path for pattern in PATTERNS for path in folder.glob(pattern)}
    named = _named(folder)
    if named is not None and is_whole(named):
        written = _written(folder / POINTER)
        candidates = {path for path in candidates if _written(path) > written} | {named}
    reached = {path: _iteration(path) for path in candidates if is_whole(path)}
    reached = {path: iteration for path, iteration in reached.items() if iteration is not None}
    return max(reached, key=lambda path: (reached[path], path == named), default=None)


def _named(folder: Path) -> Path | None:
    """What ``last_checkpoint`` names, also where the folder was moved since."""
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
    try:
        mmap = encodable(path) == str(path)  # PyTorch maps no file whose path is not UTF-8
        meta = torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)["meta"]
        return int(meta["iter"])
    except Exception:  # not a checkpoint that a run can go on from
        return None
