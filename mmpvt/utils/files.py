"""Reading files from others: regular ones, of a bounded size, and JSON of a bounded depth."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from mmpvt.errors import BadFileError

MAX_BYTES = 2**30  # of an image, a label map, a log
MAX_ANNOTATIONS = 2**33  # bytes of an annotation file: Objects365's has 5.4 GB
MAX_DEPTH = 100  # of JSON: parsers and printers recurse, and Python's stack ends near 1,000
_CHUNK = 2**22  # bytes
_NO_BRACKETS = bytes(set(range(256)) - set(b'[]{}"'))
_KINDS = {
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def read_bytes(path: str | os.PathLike, max_bytes: int = MAX_BYTES) -> bytes:
    """Reads a regular file, through links too.

    Args:
        path (str | PathLike): the file.
        max_bytes (int): a larger one is refused unread. Default: 1 GiB.

    Returns:
        bytes: its content.

    Raises:
        BadFileError: it is a pipe, a device, a folder or a socket, which may never end, or too
            large.
        OSError: it is missing or can't be read.
        ValueError: no file can have this name.
    """
    check_regular(path, max_bytes)
    # What lies there may have changed since: a pipe isn't waited for, nor read beyond the limit.
    with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        status = os.fstat(file.fileno())
        _check_status(path, status, max_bytes)
        return file.read(status.st_size)


def check_regular(path: str | os.PathLike, max_bytes: int = MAX_BYTES) -> None:
    """Raises what :func:`read_bytes` raises of a file's kind and size, without opening it."""
    _check_status(path, Path(path).stat(), max_bytes)


def _check_status(path: str | os.PathLike, status: os.stat_result, max_bytes: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "of an unknown kind")
        raise BadFileError(f"{os.fspath(path)} is not a regular file, but {kind}", where=path)
    if status.st_size > max_bytes:
        raise BadFileError(
            f"{os.fspath(path)} is too large: {status.st_size / 2**30:.1f} GiB, and "
            f"{max_bytes / 2**30:g} GiB are the limit",
            where=path,
        )


def file_sha256(path: str | os.PathLike) -> str:
    """A file's SHA-256, in hexadecimal; of a file of any size."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def parse_json(data: bytes) -> object:
    """Parses JSON in UTF-8, as Python's ``json`` does: NaN and infinite numbers too.

    msgspec takes a quarter of ``json``'s time for COCO's annotations, and less memory.

    Raises:
        ValueError: it is no JSON, or nested more than 100 levels deep.
    """
    if _is_deeper(data, MAX_DEPTH):
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    with collector_off():
        try:
            return msgspec.json.decode(data)
        except (msgspec.MsgspecError, UnicodeError):
            # NaN, Infinity, 1e999, lone surrogates: Python's json, which mmdet reads with, knows.
            return json.loads(data.decode())


def _is_deeper(data: bytes, limit: int) -> bool:
    """Whether brackets outside of strings are nested more than ``limit`` levels deep."""
    if data.count(b"[") + data.count(b"{") <= limit:
        return False
    if b"\\" in data:
        data = re.sub(rb"\\.", b"", data, flags=re.DOTALL)  # a quote behind one ends no string
    depth = quotes = 0
    for start in range(0, len(data), _CHUNK):
        marks = data[start : start + _CHUNK].translate(None, _NO_BRACKETS)
        codes = np.frombuffer(marks, np.uint8)
        if not codes.size:
            continue
        quoted = quotes + np.cumsum(codes == ord('"'))
        steps = np.isin(codes, (ord("["), ord("{"))).astype(np.int64)
        steps -= np.isin(codes, (ord("]"), ord("}")))
        depths = depth + np.cumsum(np.where(quoted % 2, 0, steps))
        if depths.max() > limit:
            return True
        depth, quotes = int(depths[-1]), int(quoted[-1])
    return False


@contextmanager
def collector_off() -> Iterator[None]:
    """Python's garbage collector would look again and again at dicts that are all in use."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def leaves_folder(name: str) -> bool:
    """Whether a relative file name leads out of its folder: it is absolute, or holds ``..``."""
    return Path(name).is_absolute() or ".." in re.split(r"[/\\]", name)
