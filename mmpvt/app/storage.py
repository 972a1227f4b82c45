"""The page's temporary folder, kept below a size."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

QUOTA = 250 << 20  # bytes of all files and of the uploads on their way
KEPT = 120  # seconds: younger files may still be waited for, or be shown
BLOCK = 4096  # bytes: what the smallest file takes of a disk


class Full(Exception):
    """There is no room, and nothing old enough to be removed."""


class Storage:
    """Counts what lies in the folder and what is on its way into it.

    Args:
        folder (Path): the only one that the page writes to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writing = asyncio.Lock()
        self._coming = 0

    @contextmanager
    def reserved(self, size: int) -> Iterator[None]:
        """Keeps room for an upload while it arrives. Nothing is awaited between counting and
        keeping, so that uploads at the same time can't share the same room.

        Args:
            size (int): bytes.

        Raises:
            Full: there is none.
        """
        self._make_room(size)
        self._coming += size
        try:
            yield
        finally:
            self._coming -= size

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
                found = path.lstat()
                files.append((found.st_mtime, max(found.st_size, BLOCK), path))
        excess = sum(taken for _, taken, _ in files) + self._coming + size - QUOTA
        now = time.time()
        for changed, taken, path in sorted(files):
            if excess <= 0:
                return
            if now - changed > KEPT:
                with suppress(OSError):  # a folder with a younger file in it
                    path.rmdir() if path.is_dir() else path.unlink()
                    excess -= taken
        if excess > 0:
            raise Full
