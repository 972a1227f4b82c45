"""Archives that nobody should unpack, each with part of what is said of it."""

from __future__ import annotations

import io
import random
import stat
import struct
import tarfile
import unicodedata
import warnings
import zipfile
from collections.abc import Callable
from typing import NamedTuple

GOOD = {f"data/{i}.bin": random.Random(i).randbytes(700 + i) for i in range(8)}

# of the standard library: since Python 3.11.8, 3.12.2 and 3.13.0
SEES_OVERLAPS = "_end_offset" in zipfile.ZipInfo.__slots__


class Archive(NamedTuple):
    """A hostile or damaged archive.

    Attributes:
        make: its bytes.
        reason: part of what is said of it.
    """

    make: Callable[[], bytes]
    reason: str


def packed(
    *entries: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED
) -> bytes:
    """A zip archive of these files, beside some good ones."""
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", method) as archive:
        warnings.simplefilter("ignore")  # of names that are there already
        for name, content in (*GOOD.items(), *entries):
            archive.writestr(name, content)
    return file.getvalue()


def named(*names: str) -> Callable[[], bytes]:
    """With files of these names."""

    def make() -> bytes:
        entries = []
        for name in names:
            info = zipfile.ZipInfo("placeholder")
            info.filename = name  # as it is: the constructor changes some
            entries.append((info, b"evil"))
        return packed(*entries)

    return make


def of_kind(kind: int, content: bytes, *more: tuple[str, bytes]) -> Callable[[], bytes]:
    """With an entry that says it is a link or a device."""
    info = zipfile.ZipInfo("data/special")
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    return lambda: packed((info, content), *more)


def central(content: bytes, field: int, form: str, value: int) -> bytes:
    """Another value in the last entry of the list of files.

    Args:
        content (bytes): the archive's.
        field (int): of the entry: 8 flags, 10 method, 20 packed size, 24 size, 42 place.
        form (str): of the field, for :mod:`struct`.
        value (int): to put there.
    """
    start = content.rindex(b"PK\x01\x02") + field
    value_ = struct.pack(form, value)
    return content[:start] + value_ + content[start + len(value_) :]


def without_end() -> bytes:
    return packed()[:-60]


def many() -> bytes:
    """A list of many files, all of them one."""
    end = packed()
    entry = end[end.rindex(b"PK\x01\x02") : end.rindex(b"PK\x05\x06")]
    count = 1001
    head = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 65535, 65535, len(entry) * count, 0, 0)
    return entry * count + head


def overlapping() -> bytes:
    """Entries that begin within another's bytes."""
    content = packed(("data/a", b"a" * 900), ("data/b", b"b" * 900), method=zipfile.ZIP_STORED)
    return central(content, 42, "<I", content.index(b"data/a") - 30 + 100)


def damaged() -> bytes:
    content = packed(("data/a", b"a" * 900), method=zipfile.ZIP_STORED)
    return content.replace(b"a" * 900, b"a" * 899 + b"b")


def other_local_name() -> bytes:
    """A name in the list of files, another before the file's bytes."""
    content = packed(("data/innocent", b"evil"))
    place = content.index(b"data/innocent")
    return content[:place] + b"data/../../ev" + content[place + 13 :]


def tar(kind: bytes) -> Callable[[], bytes]:
    """Tape archives hold hard links; none is unpacked."""

    def make() -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            info = tarfile.TarInfo("data/link")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        return file.getvalue()

    return make


LEADS_OUT = "leads out of the folder"
HOSTILE = {
    "up": Archive(named("../evil"), LEADS_OUT),
    "up and up": Archive(named("data/../../../evil"), LEADS_OUT),
    "absolute": Archive(named("/tmp/evil"), LEADS_OUT),
    "two slashes": Archive(named("//tmp/evil"), LEADS_OUT),
    "up by backslashes": Archive(named("..\\..\\evil"), LEADS_OUT),
    "a zero byte": Archive(named("data/a\x00/../../evil"), LEADS_OUT),
    "a long name": Archive(named("data/" + "a" * 300), "File name too long"),
    "a deep path": Archive(named("a/" * 2000 + "a"), "is too deep"),
    "the same twice": Archive(named("data/a", "data/a"), "has another file's name"),
    "another case": Archive(named("data/A", "data/a"), "has another file's name"),
    "a file as a folder": Archive(named("data/a", "data/a/b"), "Not a directory"),
    "a symbolic link": Archive(of_kind(stat.S_IFLNK, b"/etc/passwd"), "a link or a device"),
    "through a link": Archive(
        of_kind(stat.S_IFLNK, b"../..", ("data/special/evil", b"evil")), "a link or a device"
    ),
    "a device": Archive(of_kind(stat.S_IFCHR, b""), "a link or a device"),
    "a pipe": Archive(of_kind(stat.S_IFIFO, b""), "a link or a device"),
    "a socket": Archive(of_kind(stat.S_IFSOCK, b""), "a link or a device"),
    "a hard link": Archive(tar(tarfile.LNKTYPE), "is no zip archive"),
    "a tape archive's device": Archive(tar(tarfile.CHRTYPE), "is no zip archive"),
    "a bomb": Archive(lambda: packed(("data/a", bytes(50_000_000))), "would unpack to"),
    "an archive that says it is a bomb": Archive(
        lambda: central(packed(("data/a", b"a" * 900)), 24, "<I", 2**32 - 2), "would unpack to"
    ),
    "more than it says": Archive(
        lambda: central(packed(("data/a", b"a" * 90_000)), 24, "<I", 9), "damaged (Bad CRC-32"
    ),
    "too many": Archive(many, "it holds 1001 files"),
    "one within the other": Archive(
        overlapping, f"damaged ({'Overlapped entries' if SEES_OVERLAPS else 'Bad magic number'}"
    ),
    "encrypted": Archive(
        lambda: central(packed(("data/a", b"a")), 8, "<H", 1), "in it is encrypted"
    ),
    "packed by LZMA": Archive(lambda: packed(method=zipfile.ZIP_LZMA), "in an unusual way"),
    "packed in no known way": Archive(
        lambda: central(packed(("data/a", b"a")), 10, "<H", 99), "in an unusual way"
    ),
    "another name before the bytes": Archive(other_local_name, "and header"),
    "a wrong byte": Archive(damaged, "damaged (Bad CRC-32"),
    "no end": Archive(without_end, "is no zip archive"),
    "a page": Archive(lambda: b"<html>Please log in</html>", "is no zip archive"),
    "empty": Archive(lambda: b"", "is no zip archive"),
    "no files": Archive(lambda: b"PK\x05\x06" + bytes(18), "holds 0 of 8 files"),
}
HARMLESS = {  # odd, but all that it writes is in the folder
    "a drive": named("C:/evil"),
    "a terminal's escape": named("data/\x1b[2J"),
    "a dot": named("data/./a"),
    "an empty part": named("data//a"),
    "a folder of another case": named("Data/z"),
    "another normal form": named(unicodedata.normalize("NFD", "data/caf\u00e9"), "data/caf\u00e9"),
    "less than it says": lambda: central(packed(("data/a", b"a" * 900)), 24, "<I", 1000),
}


def reaching_too_far() -> bytes:
    """An entry that says to have more bytes than the archive."""
    return central(packed(("data/a", b"a" * 900)), 20, "<I", 10**6)


if SEES_OVERLAPS:
    HOSTILE["more than it has"] = Archive(reaching_too_far, "damaged (Overlapped entries")
else:
    HARMLESS["more than it has"] = reaching_too_far
