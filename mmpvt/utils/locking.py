"""One run a folder: a lock that ends with the process that holds it."""

from __future__ import annotations

import errno
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmpvt.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # no module there

LOCK = ".mmpvt-lock"


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
        # Closing any of a process's descriptors of this file would release its lock.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(Path(folder) / LOCK, flags, 0o666)
    except OSError as error:
        _warn(folder, error)
        yield
        return
    try:
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                holder = os.read(descriptor, 1000).decode(errors="replace").split()
                by = f" on {holder[0]}, process {holder[1]}" if len(holder) == 2 else ""
                other = f"pass another folder with {OutputError.name_setting(setting)}"
                raise OutputError(
                    f"the folder {os.fspath(folder)} is in use by another run{by}",
                    where=folder,
                    hint=f"wait until it has ended, or {other}",
                ) from None
            _warn(folder, error)
        else:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{platform.node()} {os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def _warn(folder: str | os.PathLike, error: OSError) -> None:
    print(
        f"warning: {os.fspath(folder)} can't be locked ({error.strerror}): see to it that no other "
        "run writes to it",
        file=sys.stderr,
        flush=True,
    )
