"""Files that are written intact or not at all, or put back as they were."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PART = ".part"


@contextmanager
def replacing(path: str | os.PathLike, sync: bool = True) -> Iterator[Path]:
    """Gives a temporary file's name, and renames that file to ``path`` at the end.

    What ``path`` held stays until then, and for good where the block raises; another hard link to
    it keeps it.

    Args:
        path (str | PathLike): the file to write; its folder is made.
        sync (bool): have all of it on the disk before the old content goes, so that it is intact
            whenever the machine stops, for some milliseconds. Default: True.

    Yields:
        Path: the temporary file, in the same folder.

    Raises:
        OSError: it can't be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{secrets.token_hex(8)}{PART}")  # of one writer among several
    try:
        yield part
        if sync:
            _sync(part)
        part.replace(path)
    except BaseException:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    if sync:
        _sync(path.parent)  # the new name, too


def atomic_write(path: str | os.PathLike, content: bytes | memoryview, sync: bool = True) -> None:
    """Writes bytes by :func:`replacing`, whose arguments it takes.

    Raises:
        OSError: it can't be written; what the file held is still there.
    """
    with replacing(path, sync) as part, part.open("xb") as file:
        file.write(content)


def put_back(path: Path, undo: ExitStack) -> None:
    """Has closing a stack give a file the content that it has now, or remove it if there is none.

    Args:
        path (Path): the file, which is about to be written.
        undo (ExitStack): popped once what is written shall stay.
    """
    if not path.is_file():
        undo.callback(path.unlink, missing_ok=True)
        return
    content = path.read_bytes()

    @undo.callback
    def write_again() -> None:
        if path.parent.is_dir():  # atomic_write would make it
            atomic_write(path, content)


def make_folder(folder: Path, undo: ExitStack) -> None:
    """Makes a folder, which closing a stack removes, and those made for it if they are empty then:
    other runs may have written to them."""
    new = [one for one in (*reversed(folder.parents), folder) if not one.exists()]
    for parent in new[:-1]:
        undo.callback(_remove_empty, parent)
    if new:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)


def _remove_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def remove_parts(folder: str | os.PathLike) -> None:
    """Removes what writing left behind when it was killed."""
    for part in Path(folder).glob(f".*{PART}"):
        part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    is_folder = path.is_dir()
    try:
        # Windows flushes only what may be written
        descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    except PermissionError:
        if is_folder:  # on Windows, which has no descriptors of folders
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems flush no folders
        if not is_folder or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
