"""A real server on loopback that does to its clients what networks and servers do."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Fault = Callable[["Handler", bytes], None]


class Server(http.server.ThreadingHTTPServer):
    """Serves what is in ``files``; each request takes the next of ``faults``, then there are none.

    Attributes:
        files: content by path, such as ``'/a.zip'``.
        tag: the ``ETag`` of all of it, or None.
        ranges: whether parts of a file are given.
        faults: what goes wrong with the requests to come.
        always: what goes wrong with each.
        asked: the ``Range`` of each request so far.
        rate: bytes a second, or None for as many as it can.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.tag: str | None = '"1"'
        self.ranges = True
        self.faults: list[Fault] = []
        self.always: Fault | None = None
        self.asked: list[str | None] = []
        self.rate: float | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address) -> None:
        """Clients that are gone are what this is about."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers a request, with a fault or without."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        server.asked.append(self.headers.get("Range"))
        fault = server.faults.pop(0) if server.faults else server.always
        content = server.files.get(self.path)
        if content is None:
            self.send_error(404)
        elif fault:
            fault(self, content)
        else:
            self.give(content)

    def give(
        self,
        content: bytes,
        end: int | None = None,
        length: int | None = None,
        close: bool = False,
        honest: bool = True,
    ) -> None:
        """A file, or the part of it that was asked for.

        Args:
            content (bytes): the file's.
            end (int | None): where to stop sending.
            length (int | None): the length to announce, if not the true one.
            close (bool): cut the connection then.
            honest (bool): whether ``If-Range`` is heeded.
        """
        server = self.server
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and server.ranges else 0
        if honest and self.headers.get("If-Range") not in (None, server.tag):
            start = 0
        if start >= len(content) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if server.tag:
            self.send_header("ETag", server.tag)
        self.send_header("Content-Length", str(length or len(content) - start))
        self.end_headers()
        self.send(content[start : end if end is None else max(start, end)])
        self.close_connection = self.close_connection or close

    def send(self, content: bytes) -> None:
        """Bytes, at the server's rate."""
        rate = self.server.rate
        step = len(content) if rate is None else max(1, round(rate / 100))
        with contextlib.suppress(OSError):
            for i in range(0, len(content), max(1, step)):
                self.wfile.write(content[i : i + step])
                if rate:
                    time.sleep(0.01)

    def log_message(self, *args: object) -> None:
        pass


def cut(handler: Handler, content: bytes) -> None:
    """Half of what is announced, then the end of the connection."""
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    start = int(asked[1]) if asked else 0
    handler.give(content, end=(start + len(content)) // 2, close=True)


def stall(handler: Handler, content: bytes) -> None:
    """A third, then nothing for longer than the tests' patience."""
    handler.give(content, end=len(content) // 3, close=True)
    time.sleep(1.5)


def silence(handler: Handler, content: bytes) -> None:
    """No answer."""
    time.sleep(1.5)
    handler.close_connection = True


def hang_up(handler: Handler, content: bytes) -> None:
    """The end of the connection in place of an answer."""
    handler.close_connection = True


def nonsense(handler: Handler, content: bytes) -> None:
    """An answer that isn't HTTP's."""
    handler.wfile.write(b"\x00\xff" * 20 + b"\r\n\r\n")
    handler.close_connection = True


def too_long(handler: Handler, content: bytes) -> None:
    """A length announced that never comes."""
    handler.give(content, length=len(content) + 1000, close=True)


def too_short(handler: Handler, content: bytes) -> None:
    """Less announced, and sent, than the file is."""
    handler.give(content[:-1000])


def no_length(handler: Handler, content: bytes) -> None:
    """Half of a file whose length isn't said."""
    handler.send_response(200)
    handler.end_headers()
    handler.send(content[: len(content) // 2])
    handler.close_connection = True


def wrong_byte(handler: Handler, content: bytes) -> None:
    """A bit of the second half is another."""
    place = len(content) * 3 // 4
    handler.give(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


def page(handler: Handler, content: bytes) -> None:
    """A page to log in on."""
    del handler.headers["Range"]
    handler.give(b"<html>Please log in</html>")


def another_range(handler: Handler, content: bytes) -> None:
    """Another part than was asked for."""
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes 0-{len(content) - 1}/{len(content)}")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.send(content)


def heedless(handler: Handler, content: bytes) -> None:
    """The rest of a file that has changed: If-Range is ignored."""
    handler.give(content, honest=False)


def status(code: int, words: str | None = None, **headers: str) -> Fault:
    """An error, with headers such as ``Retry_After``."""

    def answer(handler: Handler, content: bytes) -> None:
        handler.send_response(code, words)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def redirect(target: str) -> Fault:
    """To another URL."""
    return status(302, Location=target)


def changes(content: bytes, then: Fault) -> Fault:
    """The file is another from now on."""

    def answer(handler: Handler, old: bytes) -> None:
        handler.server.files[handler.path] = content
        handler.server.tag = '"2"'
        then(handler, content)

    return answer


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Server]:
    """A server with these files, until the end of the block."""
    with Server(files) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
