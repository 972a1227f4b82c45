"""One run a folder, of one process or several: locks that end with the processes that hold them."""

from __future__ import annotations

import errno
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmpvt.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # no module there

LOCK = ".mmpvt-lock"
MUTEX, OTHERS = (1, 0), (0, 1)  # parts of the lock file: bytes (0 for all that follow), and where
TIMEOUT = 5.0  # seconds
MOST_BYTES = 2**24  # of what a run's processes tell each other


@contextmanager
def locked(folder: str | os.PathLike, setting: str) -> Iterator[None]:
    """Keeps other runs out of a folder, also those of other machines that share it.

    The lock is POSIX's, not ``flock``'s, which ``filelock`` takes: forked processes don't inherit
    it, so that a killed run's data-loading workers don't keep it for a while; and it works on NFS.
    Where the file system has no locks, a warning is printed.

    Args:
        folder (str | PathLike): it exists; a file ``.mmpvt-lock`` in it says who holds the lock.
        setting (str): the setting that names the folder: ``'work_dir'``.

    Raises:
        OutputError: another run holds it.
    """
    try:
        descriptor = _open(folder)
    except OSError as error:
        _warn(folder, error)
        yield
        return
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise _in_use(folder, setting, os.read(descriptor, 1000)) from None
            _warn(folder, error)
        else:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{platform.node()} {os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


class RunLock:
    """Lets the processes of one run write to a folder at once, and keeps other runs out.

    Byte 0 of the lock file is a mutex; the bytes behind it are shared by the run's live processes,
    so that whoever gets them exclusively is the only one. :func:`locked` takes all of them.
    What the processes tell each other stands in the lock file itself: that is what NFS keeps
    coherent between machines.

    Args:
        folder (str | PathLike): it exists.
        setting (str): the setting that names it.

    Attributes:
        works (bool): whether the file system has locks; where it hasn't, a warning is printed and
            every process takes itself for the only one.

    Raises:
        OutputError: a run that isn't of several processes holds it.
    """

    def __init__(self, folder: str | os.PathLike, setting: str) -> None:
        self.folder, self.setting, self.works = folder, setting, True
        self._descriptor: int | None = None
        try:
            self._descriptor = _open(folder)
            end = time.monotonic() + TIMEOUT  # a process may just be finding out if it is alone
            while not self._take(fcntl.LOCK_SH, OTHERS):
                if time.monotonic() > end:
                    raise self.in_use()
                time.sleep(0.05)
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, *OTHERS)
        except OutputError:
            self.close()
            raise
        except OSError as error:
            self.close()
            self.works = False
            _warn(folder, error)

    @contextmanager
    def mutex(self) -> Iterator[None]:
        """Waits until no other process is in such a block."""
        if self._descriptor is None:
            yield
            return
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, *MUTEX)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, *MUTEX)

    def join(self) -> None:
        """Counts this process among those of the run; within :meth:`mutex`."""
        if self._descriptor is not None:
            fcntl.lockf(self._descriptor, fcntl.LOCK_SH, *OTHERS)

    def leave(self) -> bool:
        """Takes this process out of the run; within :meth:`mutex`.

        Returns:
            bool: whether no other live process has joined.
        """
        if self._descriptor is None:
            return True
        alone = self._take(fcntl.LOCK_EX, OTHERS)
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, *OTHERS)
        return alone

    def read(self) -> bytes:
        """What :meth:`write` wrote last, in any process; within :meth:`mutex`."""
        if self._descriptor is None:
            return b""
        return os.pread(self._descriptor, MOST_BYTES, 0)

    def write(self, content: bytes) -> None:
        """Keeps bytes for the run's processes, over the end of this one; within :meth:`mutex`."""
        if self._descriptor is not None:
            os.pwrite(self._descriptor, content, 0)
            os.ftruncate(self._descriptor, len(content))

    def in_use(self) -> OutputError:
        """The error that another run's processes write to the folder."""
        return _in_use(self.folder, self.setting, self.read())

    def close(self) -> None:
        """Gives all locks back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _take(self, kind: int, place: tuple[int, int]) -> bool:
        assert self._descriptor is not None
        try:
            fcntl.lockf(self._descriptor, kind | fcntl.LOCK_NB, *place)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True


def _open(folder: str | os.PathLike) -> int:
    """Opens a folder's lock file; closing any of a process's descriptors of it releases its locks.

    Raises:
        OSError: it can't be opened, or the system has no such locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return os.open(Path(folder) / LOCK, flags, 0o666)


def _in_use(folder: str | os.PathLike, setting: str, content: bytes) -> OutputError:
    """Of a folder whose lock file begins with its holder's machine and process."""
    holder = content.split(b"\n")[0].decode(errors="replace").split()
    by = f" on {holder[0]}, process {holder[1]}" if len(holder) == 2 else ""
    other = f"pass another folder with {OutputError.name_setting(setting)}"
    return OutputError(
        f"the folder {os.fspath(folder)} is in use by another run{by}",
        where=folder,
        hint=f"wait until it has ended, or {other}",
    )


def _warn(folder: str | os.PathLike, error: OSError) -> None:
    print(
        f"warning: {os.fspath(folder)} can't be locked ({error.strerror}): see to it that no other "
        "run writes to it",
        file=sys.stderr,
        flush=True,
    )
