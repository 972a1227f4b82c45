"""Downloads over HTTP that resume, retry, and are verified before the file gets its name."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from urllib3.exceptions import HTTPError, InvalidHeader, MaxRetryError
from urllib3.util import Retry

from mmpvt.errors import DownloadError, OutputError, UserError
from mmpvt.utils.progress import progress
from mmpvt.utils.text import printable

MAX_BYTES = 16 << 30  # of a file of unknown size
MAX_WAIT = 300.0  # seconds that a server may ask to wait
CHUNK = 1 << 20  # bytes
WRONG_FILE = "it is damaged or another file, and was not kept; try again"
KEPT = "what was received is kept, and the same command resumes from there"
RETRIED = (408, 425, 429, 500, 502, 503, 504)  # HTTP status codes


@dataclass(frozen=True)
class RetryPolicy:
    """When a download is given up.

    Attributes:
        timeout: seconds without a byte after which a connection is closed.
        retries: how many in a row may bring nothing new.
        backoff: the pauses before them are 0, 2, 4, 8, … times this many seconds.
    """

    timeout: float = 30.0
    retries: int = 5
    backoff: float = 1.0


def download(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    sha1: str | None = None,
    verify: Callable[[Path], None] | None = None,
    policy: RetryPolicy | None = None,
    shared: bool = False,
) -> None:
    """Downloads a file, which gets its name only once it is complete and verified.

    What has been received is in ``NAME.part``. It is resumed (RFC 9110, sections 13.1.5 and 14) if
    the server's ``ETag`` or ``Last-Modified``, or ``sha1``, tells whether the rest belongs to it.

    Args:
        url (str): ``http://`` or ``https://``. Redirects from https to http fail.
        target (Path): the file to write; its folder is made, too.
        size (int | None): its bytes, if known. Default: None, at most 16 GiB.
        sha1 (str | None): its SHA-1 in hexadecimal digits, if known. Default: None.
        verify (Callable | None): is given the path of the complete file; raises a ``UserError`` if
            it is a wrong one. Default: None.
        policy (RetryPolicy | None): when to give up. Default: None, a ``RetryPolicy()``.
        shared (bool): whether other processes or machines may download to ``target`` at once. The
            partial file then has a name of its own, and is removed on failure. Default: False.

    Raises:
        DownloadError: the server can't be reached, doesn't give the file, or gives another one.
        OutputError: the file can't be written.
        UserError: what ``verify`` raises.
    """
    suffix = f".{platform.node()}-{os.getpid()}.part" if shared else ".part"
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = _Download(url, target.with_name(target.name + suffix), size, sha1, target.name)
    try:
        part.run(policy or RetryPolicy(), verify)
        with _writing(target):
            part.path.replace(target)
        part.discard()
    finally:
        if shared:
            part.discard()


class _TransientError(Exception):
    """What the next connection may not meet, after ``wait`` seconds if the server asks for it."""

    def __init__(self, reason: object, wait: float | None = None) -> None:
        super().__init__(printable(reason)[:120])
        self.wait = wait


class _Download:
    """A partial file, and the validator of the file ``name`` that it is the beginning of."""

    def __init__(self, url: str, path: Path, size: int | None, sha1: str | None, name: str) -> None:
        self.name = name
        self.url, self.path, self.expected_size, self.expected_sha1 = url, path, size, sha1
        self.validator_path = path.with_name(f"{path.name}.etag")
        self.resumed = self.size > 0  # put together from several responses

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def discard(self) -> None:
        for path in (self.path, self.validator_path):
            with _writing(path):
                path.unlink(missing_ok=True)

    def run(self, policy: RetryPolicy, verify: Callable[[Path], None] | None) -> None:
        """Completes the partial file."""
        retry = all_retries = Retry(policy.retries, backoff_factor=policy.backoff)
        largest = self.size
        while True:
            try:
                self._receive(policy.timeout)
                return self._verify(verify)
            except _TransientError as error:
                if self.size > largest:
                    largest, retry = self.size, all_retries
                try:
                    retry = retry.increment("GET", self.url, error=error)
                except MaxRetryError:
                    reason = f"{error}; {len(retry.history) + 1} times in a row"
                    raise self._error(reason, KEPT if self.size else "try again later") from error
                pause = retry.get_backoff_time() if error.wait is None else error.wait
                print(f"{self.name}: {error}; retrying in {pause:.3g} s", file=sys.stderr)
                time.sleep(pause)

    def _error(self, reason: object, hint: str | None = None) -> DownloadError:
        what = f"could not download {self.url} ({printable(reason)[:200]})"
        return DownloadError(what, where=self.url, hint=hint)

    def _receive(self, timeout: float) -> None:
        """Adds what one connection brings."""
        validator = None
        with _writing(self.validator_path):
            if self.validator_path.exists():
                validator = self.validator_path.read_text(encoding="latin-1")
        if not validator and not self.expected_sha1:
            self.discard()  # nothing tells which file it is the beginning of
        size = self.size
        if size and size == self.expected_size:
            return
        headers = {"Accept-Encoding": "identity"}
        if size:
            headers["Range"] = f"bytes={size}-"
            if validator:
                headers["If-Range"] = validator
        try:
            with requests.Session() as session:
                if self.url.lower().startswith("https://"):
                    del session.adapters["http://"]  # no redirect finds one
                response = session.get(self.url, headers=headers, stream=True, timeout=timeout)
                with response:
                    self._check(response, validator)
                    self._write(response)
        except (requests.ConnectionError, requests.Timeout, HTTPError) as error:
            cause: BaseException = error
            while deeper := cause.__cause__ or cause.__context__:
                cause = deeper
            if isinstance(cause, TimeoutError):
                raise _TransientError(f"no data for {timeout:g} s") from error
            raise _TransientError(f"connection failed: {cause}") from error
        except requests.RequestException as error:
            raise self._error(error) from error

    def _check(self, response: requests.Response, validator: str | None) -> None:
        """Raises if the body is of no use; discards the partial file if the body is all of it."""
        code, headers = response.status_code, response.headers
        status = f"{code} {response.reason}"
        if code in RETRIED:
            try:
                wait = Retry().get_retry_after(response.raw)
            except InvalidHeader:
                wait = None
            if wait and wait > MAX_WAIT:
                raise self._error(f"{status}: the server asks to wait {wait:.0f} seconds")
            raise _TransientError(status, wait)
        if code == 416:
            self.discard()
            raise _TransientError("the file has become shorter")
        if code not in (200, 206):
            raise self._error(status, "check the URL" if code in (404, 410) else None)
        if headers.get("Content-Encoding", "identity") != "identity":
            raise self._error("the server compresses what it sends")
        new = headers.get("ETag")
        if not new or new.startswith("W/"):
            new = headers.get("Last-Modified")
        if code == 206:
            start = re.match(rf"bytes {self.size}-", headers.get("Content-Range", ""))
            if not start or (validator and new not in (None, validator)):
                self.discard()
                raise _TransientError("the file has changed")
            self.resumed = True
            return
        length = headers.get("Content-Length", "")
        if self.expected_size and length.isdecimal() and int(length) != self.expected_size:
            raise self._error(f"it has {length} bytes, not {self.expected_size}", WRONG_FILE)
        self.discard()
        self.resumed = False
        if new:
            with _writing(self.validator_path):
                self.validator_path.write_text(new, encoding="latin-1")

    def _write(self, response: requests.Response) -> None:
        length = response.headers.get("Content-Length", "")
        done, limit = self.size, self.expected_size or MAX_BYTES
        total = done + int(length) if length.isdecimal() else self.expected_size
        with _writing(self.path):
            file = self.path.open("ab", buffering=0)
        with file, progress(self.path.stem, total, in_bytes=True, done=done) as advance:
            while chunk := response.raw.read1(CHUNK):  # iter_content drops what it waits with
                done += len(chunk)
                if done > limit:
                    raise self._error(f"it is longer than {limit} bytes", WRONG_FILE)
                with _writing(self.path):
                    file.write(chunk)
                advance(done)

    def _verify(self, verify: Callable[[Path], None] | None) -> None:
        """Discards a wrong file; one of several responses is downloaded once more."""
        try:
            if self.expected_size and self.size != self.expected_size:
                raise self._error(f"{self.size} bytes came, not {self.expected_size}", WRONG_FILE)
            if self.expected_sha1 and _digest(self.path, "sha1") != self.expected_sha1:
                raise self._error(f"its SHA-1 isn't {self.expected_sha1}", WRONG_FILE)
            if verify:
                verify(self.path)
        except UserError as error:
            self.discard()
            if self.resumed:
                raise _TransientError("it was put together wrongly") from error
            raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Tells an error of the disk from one of the network."""
    try:
        yield
    except OSError as error:
        what = f"{path} can't be written ({error.strerror or error})"
        raise OutputError(what, where=path, hint=KEPT) from error


def check_sha256(path: Path, digits: str, url: str) -> None:
    """Compares a file with the first hexadecimal digits of its SHA-256.

    Raises:
        DownloadError: it is another file.
    """
    if not digits or not _digest(path, "sha256").startswith(digits):
        raise DownloadError(
            f"could not download {url} (its SHA-256 doesn't begin with {digits})",
            where=url,
            hint=WRONG_FILE,
        )


def _digest(path: Path, algorithm: str) -> str:
    digest, done = hashlib.new(algorithm, usedforsecurity=False), 0
    name = f"verifying {path.stem}"
    with path.open("rb") as file, progress(name, path.stat().st_size, in_bytes=True) as advance:
        while block := file.read(1 << 20):
            digest.update(block)
            done += len(block)
            advance(done)
    return digest.hexdigest()
