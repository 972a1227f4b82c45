"""Fetching a file over HTTP that may be cut, stall, or change meanwhile.

What has come stays, so that another process goes on where one was stopped (RFC 9110, sections
13.1.5 and 14: ranges).
"""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from mmpvt.checkpoint.download import LIMIT, SameScheme
from mmpvt.datasets.download.parts import Part, on_disk
from mmpvt.datasets.download.sources import Source
from mmpvt.errors import UserError
from mmpvt.utils.progress import progress

BLOCK = 1 << 20  # bytes
BUSY = {408, 425, 429, 500, 502, 503, 504}  # answers that may be another a little later


@dataclass(frozen=True)
class Patience:
    """How long to go on where nothing comes.

    Attributes:
        timeout: seconds without a byte after which a connection is given up.
        tries: how many in a row may bring nothing new.
        pause: seconds before the second try; each next pause is twice as long.
        longest: seconds that a server may ask to wait.
    """

    timeout: float = 30.0
    tries: int = 6
    pause: float = 1.0
    longest: float = 300.0


class _Retry(Exception):
    """Nothing (more) came this time.

    Args:
        reason (str): why.
        wait (float | None): seconds that the server asks to wait. Default: None.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(_plain(reason))
        self.wait = wait


def _plain(text: object) -> str:
    """What a server has said, fit for a terminal."""
    return "".join(c if c.isprintable() else "?" for c in str(text))[:120]


def fetch(
    source: Source,
    target: Path,
    patience: Patience,
    verify: Callable[[Path], None] = lambda path: None,
) -> None:
    """Fetches a file, going on from what is there of it; it appears only when it is whole.

    Args:
        source (Source): the file.
        target (Path): what to make of it; its folder is made, too.
        patience (Patience): how long to go on where nothing comes.
        verify (Callable): called with the whole file, before it gets its name; raises a
            ``UserError`` that says what is wrong with it.

    Raises:
        UserError: the file doesn't come, or is another one than it should be. A beginning of it
            stays where it may be of use, nothing else does.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Part.found(target.with_name(target.name + ".part"))
    furthest, failed = part.size, 0
    while True:
        try:
            _continue(source, part, patience)
            _check(source, part, verify)
            break
        except _Retry as problem:
            failed = 1 if part.size > furthest else failed + 1
            furthest = max(furthest, part.size)
            if failed >= patience.tries:
                kept = "what has come is kept, and the same command goes on from there"
                raise UserError(
                    f"could not download {source.address} ({problem}; {failed} times in a row): "
                    + (kept if part.size else "try again later, or pass --mirror URL")
                ) from problem
            pause = patience.pause * 2 ** (failed - 1) if problem.wait is None else problem.wait
            print(f"{source.name}: {problem}; again in {pause:.3g} s", file=sys.stderr)
            time.sleep(pause)
    with on_disk(target):
        part.path.replace(target)
    part.discard()


def _continue(source: Source, part: Part, patience: Patience) -> None:
    """One connection: what it brings is added to the part."""
    if not part.validator and not source.sha1:
        part.discard()  # of which file it is the beginning can't be told
    size = part.size
    if size and size in (source.size, part.total):
        return
    headers = {"Accept-Encoding": "identity"}
    if size:
        headers["Range"] = f"bytes={size}-"
        if part.validator:
            headers["If-Range"] = part.validator
    request = urllib.request.Request(source.address, headers=headers)
    try:
        with _open(request, source, part, patience) as answer:
            if answer.status == 206 and not _fits(answer, part):
                part.discard()
                raise _Retry("the file has changed meanwhile")
            if answer.status != 206:
                total = _length(answer)
                if source.size and total not in (None, source.size):  # what is there stays
                    raise UserError(
                        f"{source.address} is another file than {source.name}: it has {total} "
                        f"bytes, not {source.size}"
                    )
                part.begin(_validator(answer), total)
            part.pieces += 1
            part.keep()
            _copy(answer, part)
            if part.total is not None and part.size < part.total:
                raise _Retry(f"cut after {part.size} of {part.total} bytes")
    except TimeoutError as error:
        raise _Retry(f"nothing came for {patience.timeout:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise _Retry(f"the connection was cut: {error}") from error


def _open(
    request: urllib.request.Request, source: Source, part: Part, patience: Patience
) -> http.client.HTTPResponse:
    opener = urllib.request.build_opener(SameScheme)
    try:
        answer = opener.open(request, timeout=patience.timeout)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416:
                part.discard()
                raise _Retry("the file has become shorter") from error
            if error.code in BUSY:
                raise _Retry(f"{error.code} {error.reason}", _wait(error, patience)) from error
            hint = "check the address" if error.code in (404, 410) else "it doesn't give the file"
            raise UserError(
                f"could not download {source.address} ({error.code} {_plain(error.reason)}): "
                f"{hint}, or pass --mirror URL of a server that has it"
            ) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, OSError):
            raise _Retry(str(error.reason)) from error
        raise UserError(f"could not download {source.address}: {_plain(error.reason)}") from error
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        answer.close()
        raise UserError(f"could not download {source.address}: its server packs what it sends")
    return answer


def _copy(answer: http.client.HTTPResponse, part: Part) -> None:
    done, name = part.size, part.path.stem
    with on_disk(part.path):
        file = part.path.open("ab", buffering=0)
    with file, progress(name, part.total, True, done) as advance:
        while block := answer.read1(BLOCK):
            done += len(block)
            if part.total is not None and done > part.total:
                raise _Retry(f"more came than the {part.total} bytes announced")
            if done > LIMIT:
                raise UserError(f"what comes as {name} is longer than {LIMIT} bytes")
            with on_disk(part.path):
                file.write(block)
            advance(done)


def _fits(answer: http.client.HTTPResponse, part: Part) -> bool:
    """Whether a part of a file is what follows what is there, of the same file."""
    told = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if not told or int(told[1]) != part.size:
        return False
    total = None if told[2] == "*" else int(told[2])
    if part.total is None:
        part.total = total
    same = _validator(answer) in (None, part.validator) or not part.validator
    return same and total in (None, part.total)


def _validator(answer: http.client.HTTPResponse) -> str | None:
    """What tells a file from a later one of the same name."""
    tag = answer.headers.get("ETag")
    return tag if tag and not tag.startswith("W/") else answer.headers.get("Last-Modified")


def _length(answer: http.client.HTTPResponse) -> int | None:
    announced = answer.headers.get("Content-Length")
    return int(announced) if (announced or "").isdecimal() else None


def _wait(error: urllib.error.HTTPError, patience: Patience) -> float | None:
    """Seconds that a server asks to wait: a number, or a date."""
    asked = error.headers.get("Retry-After")
    if asked is None:
        return None
    try:
        seconds = float(asked)
    except ValueError:
        try:
            when = email.utils.parsedate_to_datetime(asked)
        except ValueError:
            return None
        if when.tzinfo is None:
            when = when.replace(tzinfo=timezone.utc)
        seconds = (when - datetime.now(timezone.utc)).total_seconds()
    if not seconds <= patience.longest:
        raise UserError(
            f"could not download {_plain(error.url)} ({error.code} {_plain(error.reason)}): "
            f"its server asks to come back in {seconds:.0f} seconds"
        ) from error
    return max(0.0, seconds)


def _check(source: Source, part: Part, verify: Callable[[Path], None]) -> None:
    """Compares with what is known of the file; what is broken isn't kept.

    One that was put together from several answers is fetched once more.
    """
    try:
        if source.size and part.size != source.size:
            raise _broken(source, f"{part.size} bytes came, not {source.size}")
        if source.sha1 and _checksum(part.path) != source.sha1:
            raise _broken(source, f"its SHA-1 isn't {source.sha1}")
        verify(part.path)
    except UserError as error:
        pieces = part.pieces
        part.discard()
        if pieces > 1:
            raise _Retry("it was put together wrongly") from error
        raise


def _broken(source: Source, reason: str) -> UserError:
    return UserError(
        f"what {source.address} gives is damaged or another file than {source.name} ({reason}), "
        "and was not kept: try again, or pass --mirror URL of another server"
    )


def _checksum(path: Path) -> str:
    digest, done = hashlib.sha1(usedforsecurity=False), 0
    name = f"checking {path.stem}"
    with path.open("rb") as file, progress(name, path.stat().st_size, in_bytes=True) as advance:
        while block := file.read(BLOCK):
            digest.update(block)
            done += len(block)
            advance(done)
    return digest.hexdigest()
