"""What the page's server answers to: its own page and nothing else, in bounded amounts.

Gradio's server also fetches addresses that a visitor names and offers developers' routes, and it
answers to any website that a visitor has open. Here a list says what is let through and to whom,
and a browser is told to load nothing from elsewhere.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import nullcontext
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

from mmpvt.app.bodies import MAX_JSON, checked
from mmpvt.app.storage import KEPT, QUOTA, Full, Storage
from mmpvt.utils.text import printable

MAX_UPLOAD = 25 << 20  # bytes of an image file
MAX_BODY = MAX_UPLOAD + (1 << 20)  # bytes of a request: a file and what is packed around it
ARRIVAL = 300  # seconds that a request's body may take
CHUNK = 1 << 20  # bytes
API = "/gradio_api/"
READ = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?|/(assets|static|svelte)/.+"
    r"|/gradio_api/(info|app_id|startup-events|upload_progress"
    r"|queue/data|heartbeat/\w+|call/\w+/\w+|file=(?!\w+:).+)/?"
)
SENT = re.compile(r"/gradio_api/(upload|cancel|reset|queue/join|call/\w+)/?")
UPLOAD_ID = re.compile(rb"(upload_id=[\w-]{1,64})?")
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; worker-src 'self' blob:; frame-ancestors 'none'; base-uri 'self'; "
    "form-action 'self'"
)
HEADERS = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
}

Message = MutableMapping
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Refused(Exception):
    """A request that is answered here.

    Args:
        status (int): of HTTP.
        text (str): the answer.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Gone(Exception):
    """Whoever sent a request closed the connection in the middle of it."""


class Guard:
    """ASGI middleware before gradio's routes.

    Args:
        app (Callable): what comes after it.
        names (Iterable[str]): hosts that the page is served as, beside this machine's addresses:
            see :func:`host_names`.
        endpoints (dict[int, tuple[str, int]]): the page's functions: name and number of inputs.
        folder (Path): gradio's, where uploads go.
    """

    def __init__(
        self,
        app: Callable,
        names: Iterable[str],
        endpoints: dict[int, tuple[str, int]],
        folder: Path,
    ) -> None:
        self.app = app
        self.names = frozenset(names)
        self.endpoints = endpoints
        self.storage = Storage(folder)

    async def __call__(self, scope: MutableMapping, receive: Receive, send: Send) -> None:
        """Answers 404 to what the page doesn't need, 403 to other websites, 400 to what is
        malformed, 413 and 507 to what is too large."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        started = False

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *HEADERS.items()]
            await send(message)

        try:
            self._check_sender(scope)
            if _is_allowed(scope, SENT, ("POST",)):
                await self._post(scope, receive, with_headers)
            elif _is_allowed(scope, READ, ("GET", "HEAD")):
                await self.app(scope, receive, with_headers)
            else:
                raise Refused(404, "There is no such page.")
        except Gone:
            pass
        except Exception as error:
            if not isinstance(error, Refused):
                where = f"{scope['method']} {scope['path']}"
                told = printable(f"page: {where}: {type(error).__name__}: {error}")
                print(told, file=sys.stderr, flush=True)
                error = Refused(500, "The server failed on this request.")
            if not started:
                await _refuse(send, error)

    def _check_sender(self, scope: MutableMapping) -> None:
        """Neither another website nor a name that leads here only for one (DNS rebinding)."""
        hosts = [value.decode("latin-1") for key, value in scope["headers"] if key == b"host"]
        if len(hosts) != 1 or not self._is_known(hosts[0], scope.get("server")):
            raise Refused(
                403,
                "This page isn't served under that host name: open it as http://localhost:PORT, "
                "or start it with --allow-host NAME.",
            )
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is None:
            elsewhere = headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site")
            link = headers.get(b"sec-fetch-mode") == b"navigate" and scope["method"] == "GET"
            foreign = elsewhere and not link
        else:
            scheme, _, place = origin.decode("latin-1").partition("://")
            foreign = scheme not in ("http", "https") or place.lower() != hosts[0].lower()
        if foreign:
            raise Refused(403, "Requests from other websites are refused.")

    def _is_known(self, host: str, server: tuple | None) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            address = _address(name)
            return address.is_loopback or (bool(server) and address == _address(server[0]))
        except ValueError:  # a name
            return False

    async def _post(self, scope: MutableMapping, receive: Receive, send: Send) -> None:
        """Gradio is given a request once it is complete: it keeps parts of those that aren't."""
        route = scope["path"].removeprefix(API).rstrip("/")
        uploads = route == "upload"
        limit = MAX_BODY if uploads else MAX_JSON
        told = dict(scope["headers"]).get(b"content-length")
        size = int(told) if told and told.isdigit() else limit
        if size > limit:
            raise _too_large(limit)
        if uploads and not UPLOAD_ID.fullmatch(scope["query_string"]):
            raise Refused(400, "An upload's address has an upload_id or nothing.")
        ends = route in ("cancel", "reset")  # nothing new is written
        try:
            with (
                nullcontext() if ends else self.storage.reserved(size if uploads else 0),
                tempfile.SpooledTemporaryFile(MAX_JSON, dir=self.storage.folder) as body,
            ):
                try:
                    await asyncio.wait_for(_read(receive, body, limit), ARRIVAL)
                except asyncio.TimeoutError:
                    raise Refused(
                        408, f"It took longer than {ARRIVAL} seconds to arrive."
                    ) from None
                if uploads:
                    await self._upload(scope, _replayed(body, receive), send)
                    return
                body.seek(0)
                try:
                    clean = checked(route, body.read(), self.endpoints)
                except ValueError as error:
                    raise Refused(400, f"This request can't be used: {error}.") from None
                body.seek(0)
                body.truncate()
                body.write(clean)
                await self.app(scope, _replayed(body, receive), send)
        except Full:
            raise Refused(
                507,
                f"The page keeps {QUOTA >> 20} MB of files at most, all of them younger than "
                f"{KEPT} seconds now: try again later.",
            ) from None

    async def _upload(self, scope: MutableMapping, receive: Receive, send: Send) -> None:
        async with self.storage.writing:
            try:
                await self.app(scope, receive, send)
            except OSError:
                raise
            except Exception:  # its parser expects the form that a browser sends
                raise Refused(400, "This upload can't be used: it is no form with files.") from None
            finally:
                self.storage.sweep()


def host_names(host: str, others: Iterable[str] = ()) -> set[str]:
    """What the page may be called in an address, beside this machine's addresses.

    Args:
        host (str): what it listens at.
        others (Iterable[str]): further names. Default: none.
    """
    names = {"localhost", host, *others}
    if host in ("0.0.0.0", "::"):
        own = socket.gethostname()
        names |= {own, f"{own}.local", socket.getfqdn()}
    return {name.lower().rstrip(".") for name in names}


def _is_allowed(scope: MutableMapping, routes: re.Pattern, methods: tuple[str, ...]) -> bool:
    return scope["method"] in methods and bool(routes.fullmatch(scope["path"]))


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


async def _read(receive: Receive, body: BinaryIO, limit: int) -> None:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        body.write(message.get("body", b""))
        if body.tell() > limit:
            raise _too_large(limit)
        more = message.get("more_body", False)


def _replayed(body: BinaryIO, receive: Receive) -> Receive:
    body.seek(0)
    more = True

    async def replay() -> Message:
        nonlocal more
        if not more:
            return await receive()
        part = body.read(CHUNK)
        more = len(part) == CHUNK
        return {"type": "http.request", "body": part, "more_body": more}

    return replay


def _too_large(limit: int) -> Refused:
    most = f"{MAX_UPLOAD >> 20} MB" if limit == MAX_BODY else f"{limit >> 10} kB"
    return Refused(413, f"More than {most} are not taken.")


async def _refuse(send: Send, refused: Refused) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": refused.text.encode()})
