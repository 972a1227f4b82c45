"""Names of files and classes as text that can always be printed, logged, drawn and written.

A file's name may be bytes that are not UTF-8, which Python holds as lone surrogates: printing them
raises, OpenCV crashes on them, JSON parsers refuse them. A name may also hold control characters
that a terminal obeys, newlines that forge a line of a log, and marks that reorder a line.
"""

from __future__ import annotations

import errno
import io
import json
import locale
import logging
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

# C0, DEL and C1; line and paragraph separators; marks that change the direction of text
CONTROLS = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
SURROGATES = r"\ud800-\udfff"
_UNPRINTABLE = re.compile(f"[{CONTROLS}{SURROGATES}]")
_UNPRINTABLE_IN_LINES = re.compile(f"(?![\n\t])[{CONTROLS}{SURROGATES}]")
_SURROGATE = re.compile(f"[{SURROGATES}]")
_BYTES = range(0xDC80, 0xDD00)  # as which Python holds a name's bytes that are not UTF-8


def printable(text: object) -> str:
    r"""A name or message as one line without control characters.

    Args:
        text (object): a string, or what ``str`` makes one of: a path.

    Returns:
        str: with ``\x1b`` for an escape, ``\n`` for a newline, ``\xe9`` for a byte that is not
        UTF-8. It is valid Unicode.
    """
    return _UNPRINTABLE.sub(_escaped, str(text))


def encodable(text: object) -> str:
    r"""A name that UTF-8 can encode: ``\xe9`` for a byte that isn't, all else as it was."""
    return _SURROGATE.sub(_escaped, str(text))


def to_json(content: object, **options: Any) -> bytes:
    r"""JSON that every parser reads: no lone surrogates, but what :func:`encodable` makes of them.

    Args:
        content (object): of what JSON can hold.
        **options: of ``json.dumps``.
    """
    text = json.dumps(content, ensure_ascii=False, **options)
    return _SURROGATE.sub(lambda match: "\\" + _escaped(match), text).encode()


def class_name(classes: Sequence[str], label: int) -> str:
    """The name of a class, or its number where ``classes`` don't reach to it."""
    return classes[label] if label < len(classes) else str(label)


def told_apart(*names: str) -> list[str]:
    """Names in quotes; in ASCII where they would look the same, as a letter and an accent do beside
    the accented letter."""
    composed = {unicodedata.normalize("NFKC", name) for name in names}
    return list(map(ascii if len(composed) < len(set(names)) else repr, names))


def few(names: Iterable[object], most: int = 3) -> str:
    """The first of ``names``, for a sentence."""
    names = list(names)
    return ", ".join(map(str, names[:most])) + (" …" if len(names) > most else "")


def counted(number: int, one: str, many: str = "") -> str:
    """A number and what it counts: ``1 class``, ``1,200 images``.

    Args:
        number (int): how many.
        one (str): a single one's name.
        many (str): the name of several. Default: with an s.
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def print_safely() -> None:
    """Has this process' log records without control characters, and its output never fail on a
    character that the terminal's or log file's encoding lacks: it is escaped. Nor does it fail once
    the terminal is gone, as after ``train.py … & disown``, but goes nowhere."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if os.name == "posix" and isinstance(stream, io.TextIOWrapper) and stream.isatty():
            stream.flush()
            raw = io.BufferedWriter(_Terminal(stream.fileno(), "w", closefd=False))
            stream = io.TextIOWrapper(raw, stream.encoding, line_buffering=True)
            setattr(sys, name, stream)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    logging.setLogRecordFactory(_Record)


class _Terminal(io.FileIO):
    """Takes what is written to a terminal that has been closed."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return super().write(content)


def flush_output(text: str = "") -> bool:
    """Writes to the standard output and flushes it; returns whether anybody still reads it.

    Where nobody does, as in ``mmpvt list | head``, what Python flushes at its end goes nowhere.
    """
    if sys.stdout is None:  # of a process that was started without one
        return True
    try:
        print(end=text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


class _Record(logging.LogRecord):
    """Keeps newlines and tabs, which tables in a log have."""

    def getMessage(self) -> str:
        text = _UNPRINTABLE_IN_LINES.sub(_escaped, super().getMessage())
        encoding = locale.getpreferredencoding(False)  # which log files are opened with
        return text.encode(encoding, "backslashreplace").decode(encoding)


def _escaped(match: re.Match) -> str:
    code = ord(match[0])
    if code in _BYTES:
        return f"\\x{code - 0xDC00:02x}"
    return match[0].encode("unicode_escape").decode()
