"""The page's temporary folder, kept below a size."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

QUOTA = 250 << 20  # bytes of all files and of the uploads that arrive
MIN_AGE = 120  # seconds: younger files may still be waited for, or be shown
BLOCK = 4096  # bytes: what the smallest file takes of a disk


class StorageFullError(Exception):
    """There is no room, and nothing old enough to be removed."""


class Storage:
    """Counts the files in the folder, and the uploads that arrive."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writing = asyncio.Lock()
        self._reserved = 0

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Keeps room for an upload of ``size`` bytes while it arrives, or raises StorageFullError.

        Nothing is awaited in between, so that uploads at once can't share the same room.
        """
        self._make_room(size)
        self._reserved += size
        try:
            yield
        finally:
            self._reserved -= size

    def sweep(self) -> None:
        """Removes what gradio leaves of an upload that it refuses: it moves complete files to
        folders of their own. To be called while nothing else is ``writing``."""
        for path in self.folder.iterdir():
            if not path.is_dir():
                path.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        files = []
        for path in self.folder.rglob("*"):
            with suppress(FileNotFoundError):
                status = path.lstat()
                files.append((status.st_mtime, max(status.st_size, BLOCK), path))
        excess = sum(size for _, size, _ in files) + self._reserved + size - QUOTA
        oldest = time.time() - MIN_AGE
        for changed, freed, path in sorted(files):
            if excess > 0 and changed < oldest:
                with suppress(OSError):  # a folder with a younger file in it
                    path.rmdir() if path.is_dir() else path.unlink()
                    excess -= freed
        if excess > 0:
            raise StorageFullError
