"""Unpacking zip archives."""

from __future__ import annotations

import os
import shutil
import stat
import struct
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

from rich.filesize import decimal as size

from mmpvt.errors import DatasetError, OutputError
from mmpvt.utils.files import leaves_folder
from mmpvt.utils.progress import progress

MAX_FILES = 400_000  # COCO's largest archive holds 118,288
MAX_DEPTH = 100  # folders in folders
MAX_RATIO = 100  # bytes that one byte may unpack to, on average; COCO's annotations: 4
IS_ENCRYPTED, IS_UTF8 = 0x1, 0x800  # flags of an entry
# What zipfile raises; RuntimeError: an encrypted file, whose list doesn't say so
ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError)


def unpack(path: Path, folder: Path) -> None:
    """Unpacks a zip archive, from anyone, into a new folder.

    ``zipfile`` compares each file with its size and checksum. What it lets pass is refused before
    anything is written: links, paths that lead out of the folder, names that are one on file
    systems that ignore case, compression bombs.

    Args:
        path (Path): the archive.
        folder (Path): the folder to make. It may be incomplete after an error.

    Raises:
        DatasetError: the file is no zip archive, damaged, or refused.
        OutputError: its content can't be written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            for entry in entries:
                _name_in_utf8(entry)
            if problem := _problem(entries, path.stat().st_size):
                raise DatasetError(f"the archive {path} is refused: {problem}", where=path)
            total, done = sum(entry.file_size for entry in entries), 0
            free = shutil.disk_usage(folder.parent).free
            if free < total:
                raise OutputError(
                    f"{folder.parent} has {size(free)} free, and {path.name} unpacks to "
                    f"{size(total)}",
                    where=folder,
                    hint="make room, and the same command resumes from there",
                )
            folder.mkdir()
            with progress(f"unpacking {path.name}", total, in_bytes=True) as advance:
                for entry in entries:
                    archive.extract(entry, folder)
                    done += entry.file_size
                    advance(done)
        os.sync()
    except (DatasetError, OutputError):
        raise
    except ERRORS as error:
        reason = f"{path} is no zip archive, or damaged ({error})"
        raise DatasetError(reason, where=path, hint="download it again") from error
    except OSError as error:
        raise OutputError(f"{path} can't be unpacked: {error.strerror}", where=path) from error


def _name_in_utf8(entry: zipfile.ZipInfo) -> None:
    """Reads a name in UTF-8 without its flag, as macOS' Finder writes it. zipfile takes it for code
    page 437, in which names beyond ASCII are hardly ever valid UTF-8."""
    if not entry.flag_bits & IS_UTF8:
        with suppress(UnicodeError):
            entry.filename = entry.filename.encode("cp437").decode()


def _problem(entries: list[zipfile.ZipInfo], packed: int) -> str | None:
    """What an archive of ``packed`` bytes is refused for."""
    if len(entries) > MAX_FILES:
        return f"it holds {len(entries)} files"
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > MAX_RATIO * packed:
        return f"its {packed} bytes would unpack to {unpacked}"
    names = set()
    for entry in entries:
        name, kind = entry.filename.casefold(), stat.S_IFMT(entry.external_attr >> 16)
        shown = f"{entry.filename[:80]!r} in it"
        if leaves_folder(entry.orig_filename):
            return f"{shown} leads out of the folder"
        if name.count("/") > MAX_DEPTH:
            return f"{shown} is too deep"
        if kind not in (0, stat.S_IFDIR, stat.S_IFREG):
            return f"{shown} is a link or a device"
        if entry.flag_bits & IS_ENCRYPTED:
            return f"{shown} is encrypted: unpack it yourself"
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            return f"{shown} is compressed in an unusual way"
        if name in names and not entry.is_dir():
            return f"{shown} has another file's name"
        names.add(name)
    return None
