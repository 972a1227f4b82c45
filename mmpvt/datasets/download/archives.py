"""Unpacking a zip archive from anywhere: all of it, below one folder, or nothing.

Everything an archive says of itself is looked at before anything is written, and compared with
what is in it as it is written.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmpvt.errors import UserError

ENTRIES = 400_000  # files and folders of an archive; COCO's largest holds 118,288
DIRECTORY = 32 << 20  # bytes of its list of them, which is read into memory
RATIO = 100  # bytes that one byte may unpack to; COCO's annotations: 4
NAME = 255  # bytes of one part of a path
DEPTH = 16  # parts of a path
BLOCK = 1 << 20  # bytes
HEADER = 30  # bytes before an entry's name, at least
ENCRYPTED = 0x1
DAMAGED = (  # what zipfile raises on archives that are
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    ValueError,
)
FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\:]")


def unpack(path: Path, folder: Path, advance: Callable[[int], None] = lambda done: None) -> None:
    """Unpacks an archive into a folder that isn't there yet.

    Args:
        path (Path): the archive.
        folder (Path): what to make. Where this raises, it may hold a part of the archive's
            content: make it one that nobody takes for the whole.
        advance (Callable): called with the bytes that are written.

    Raises:
        UserError: it is no zip archive, damaged, or anything in it is more than a plain file or
            folder of a name of its own below ``folder``, or larger than it says.
    """
    with _open(path) as archive:
        entries = _checked(path, archive)
        _check_space(path, folder, sum(entry.file_size for entry in entries))
        folder.mkdir(parents=True)
        done = 0
        for entry in entries:
            target = folder.joinpath(*entry.filename.rstrip("/").split("/"))
            if entry.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            done += _write(path, archive, entry, target)
            advance(done)
    os.sync()  # before its name says that it is whole


def content_size(path: Path) -> int:
    """Bytes that an archive says it unpacks to.

    Raises:
        UserError: it is refused, as :func:`unpack` says.
    """
    with _open(path) as archive:
        return sum(entry.file_size for entry in _checked(path, archive))


@contextmanager
def _open(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with path.open("rb") as file:
            end = zipfile._EndRecData(file)
        if end is None:
            raise UserError(f"{path} is no zip archive")
        if end[zipfile._ECD_SIZE] > DIRECTORY:
            raise _refusal(path, f"its list of files is longer than {DIRECTORY} bytes")
        with zipfile.ZipFile(path) as archive:
            yield archive
    except UserError:
        raise
    except DAMAGED as error:
        raise UserError(f"the archive {path} is damaged ({error}): get it anew") from error
    except OSError as error:
        raise UserError(f"{path} can't be unpacked: {error.strerror or error}") from error


def _refusal(path: Path, reason: str) -> UserError:
    return UserError(f"the archive {path} is refused: {reason}")


def _checked(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The archive's entries, once nothing is wrong with any of them."""
    entries = archive.infolist()
    if len(entries) > ENTRIES:
        raise _refusal(path, f"it holds {len(entries)} files, more than {ENTRIES}")
    for entry in entries:
        problem = _problem(entry)
        if problem:
            raise _refusal(path, f"{entry.filename[:80]!r} in it {problem}")
    _check_names(path, entries)
    _check_places(path, entries)
    total, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if total > RATIO * size:
        raise _refusal(path, f"its {size} bytes would become {total}")
    return entries


def _problem(entry: zipfile.ZipInfo) -> str | None:
    # orig_filename: zipfile cuts a name at a zero byte, and makes / of another system's separator
    name = entry.orig_filename
    parts = name.removesuffix("/").split("/")
    if FORBIDDEN.search(name):
        return "has a name with a backslash, a colon or a control character"
    if name.startswith("/"):
        return "has an absolute path"
    if ".." in parts:
        return "leads out of its folder"
    if "" in parts or "." in parts:
        return "has an empty part in its path"
    if len(parts) > DEPTH or any(len(part.encode("utf-8", "replace")) > NAME for part in parts):
        return "has too long a path"
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFDIR if entry.is_dir() else stat.S_IFREG):
        return "is no plain file or folder but a link or a device"
    if entry.flag_bits & ENCRYPTED:
        return "is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "is packed in an unusual way"
    return None


def _check_names(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """No two names may be one on any file system, nor a file be another one's folder."""
    spelled: dict[str, str] = {}
    files: set[str] = set()
    folders: set[str] = set()
    for entry in entries:
        parts = entry.filename.rstrip("/").split("/")
        for depth in range(1, len(parts) + 1):
            name = "/".join(parts[:depth])
            key = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
            if spelled.setdefault(key, name) != name:
                raise _refusal(path, f"{name[:80]!r} and {spelled[key][:80]!r} in it are alike")
            is_file = depth == len(parts) and not entry.is_dir()
            if is_file and key in files:
                raise _refusal(path, f"{name[:80]!r} is in it twice")
            (files if is_file else folders).add(key)
    if both := files & folders:
        raise _refusal(path, f"{spelled[both.pop()][:80]!r} in it is a file and a folder")


def _check_places(path: Path, entries: list[zipfile.ZipInfo]) -> None:
    """No two entries may share bytes, as those of archives do that unpack to a thousandfold."""
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset < end:
            raise _refusal(path, f"{entry.filename[:80]!r} in it overlaps another file")
        end = entry.header_offset + HEADER + len(entry.orig_filename) + entry.compress_size
    if end > path.stat().st_size:
        raise _refusal(path, "it claims more bytes than it has")


def _check_space(path: Path, folder: Path, total: int) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < total:
        raise UserError(
            f"{folder.parent} has {free / 1e9:.1f} GB free, and {path.name} unpacks to "
            f"{total / 1e9:.1f} GB: make room, and the same command goes on from there"
        )


def _write(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, target: Path) -> int:
    size = 0
    with archive.open(entry) as source, target.open("xb") as file:
        while block := source.read(BLOCK):
            size += len(block)
            file.write(block)
    if size != entry.file_size:
        raise _refusal(
            path, f"{entry.filename[:80]!r} in it has {size} bytes where it says {entry.file_size}"
        )
    return size
