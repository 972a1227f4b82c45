"""ASGI middleware: what the page's server answers, to whom, and how much it takes.

Gradio's server also fetches URLs that a visitor names, has routes for developers, and answers any
website that a visitor has open. Here a list says what is let through, and browsers are told to load
nothing from elsewhere.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import sys
import tempfile
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmpvt.app.bodies import MAX_JSON, validate
from mmpvt.app.storage import MIN_AGE, QUOTA, Storage, StorageFullError
from mmpvt.errors import UserError
from mmpvt.utils.text import printable

MAX_UPLOAD = 25 << 20  # bytes of an image file
MAX_BODY = MAX_UPLOAD + (1 << 20)  # bytes of a request: a file and the form around it
BODY_TIMEOUT = 300  # seconds
CHUNK = 1 << 20  # bytes
API = "/gradio_api/"
READ = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?|/(assets|static|svelte)/.+"
    r"|/gradio_api/(info|app_id|startup-events|upload_progress"
    r"|queue/data|heartbeat/\w+|call/\w+/\w+|file=(?!\w+:).+)/?"
)
POSTED = re.compile(r"/gradio_api/(upload|cancel|reset|queue/join|call/\w+)/?")
UPLOAD_ID = re.compile(rb"(upload_id=[\w-]{1,64})?")
CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; worker-src 'self' blob:; frame-ancestors 'none'; base-uri 'self'; "
    "form-action 'self'"
)
HEADERS = (
    (b"content-security-policy", CONTENT_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


class Guard:
    """Middleware before gradio's routes.

    Args:
        app (ASGIApp): gradio's.
        names (Iterable[str]): host names of the page, beside this machine's addresses: see
            :func:`host_names`.
        endpoints (dict[int, tuple[str, int]]): the page's functions: name and number of inputs.
        folder (Path): gradio's folder for uploads.
    """

    def __init__(
        self,
        app: ASGIApp,
        names: Iterable[str],
        endpoints: dict[int, tuple[str, int]],
        folder: Path,
    ) -> None:
        self.app = app
        self.names = frozenset(names)
        self.endpoints = endpoints
        self.storage = Storage(folder)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 404 to what the page doesn't need, 403 to other websites, 400 to what is
        malformed, 413 and 507 to what is too large."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        request, refusal = Request(scope, receive), None
        try:
            self._check_sender(request)
            if request.method == "POST" and POSTED.fullmatch(scope["path"]):
                await self._post(request, send_with_headers)
            elif request.method in ("GET", "HEAD") and READ.fullmatch(scope["path"]):
                await self.app(scope, receive, send_with_headers)
            else:
                raise HTTPException(404, "There is no such page.")
        except ClientDisconnect:
            pass
        except HTTPException as error:
            refusal = error
        except Exception as error:
            where = f"{request.method} {scope['path']}"
            line = printable(f"page: {where}: {type(error).__name__}: {error}")
            print(line, file=sys.stderr, flush=True)
            refusal = HTTPException(500, "The server failed on this request.")
        if refusal and not started:
            response = PlainTextResponse(refusal.detail, refusal.status_code)
            await response(scope, receive, send_with_headers)

    def _check_sender(self, request: Request) -> None:
        """Refuses other websites, and names that lead here only for one (DNS rebinding)."""
        headers = request.headers
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_known(hosts[0], request.scope.get("server")):
            allowed = UserError.name_setting("allow_host", "NAME")
            raise HTTPException(
                403,
                "This page isn't served under that host name: open it as http://localhost:PORT, "
                f"or start it with {allowed}.",
            )
        origin = headers.get("origin")
        if origin is None:
            elsewhere = headers.get("sec-fetch-site") in ("cross-site", "same-site")
            link = headers.get("sec-fetch-mode") == "navigate" and request.method == "GET"
            foreign = elsewhere and not link
        else:
            scheme, _, place = origin.partition("://")
            foreign = scheme not in ("http", "https") or place.lower() != hosts[0].lower()
        if foreign:
            raise HTTPException(403, "Requests from other websites are refused.")

    def _is_known(self, host: str, server: tuple | None) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").rstrip(".")
            if name in self.names:
                return True
            address = _address(name)
            return address.is_loopback or bool(server and address == _address(server[0]))
        except ValueError:  # no URL, or a name
            return False

    async def _post(self, request: Request, send: Send) -> None:
        """Gives gradio complete requests only: it keeps parts of those that aren't."""
        scope = request.scope
        route = scope["path"].removeprefix(API).rstrip("/")
        uploads = route == "upload"
        limit = MAX_BODY if uploads else MAX_JSON
        length = request.headers.get("content-length", "")
        size = int(length) if length.isdecimal() else limit
        if size > limit:
            raise _too_large(limit)
        if uploads and not UPLOAD_ID.fullmatch(scope["query_string"]):
            raise HTTPException(400, "An upload's URL has an upload_id or nothing.")
        ends = route in ("cancel", "reset")  # nothing new is written
        try:
            with (
                nullcontext() if ends else self.storage.reserve(size if uploads else 0),
                tempfile.SpooledTemporaryFile(MAX_JSON, dir=str(self.storage.folder)) as body,
            ):
                try:
                    await asyncio.wait_for(_read(request, body, limit), BODY_TIMEOUT)
                except asyncio.TimeoutError:
                    text = f"It took longer than {BODY_TIMEOUT} seconds to arrive."
                    raise HTTPException(408, text) from None
                if uploads:
                    await self._upload(scope, _replay(body, request.receive), send)
                    return
                body.seek(0)
                try:
                    clean = validate(route, body.read(), self.endpoints)
                except ValueError as error:
                    raise HTTPException(400, f"This request can't be used: {error}.") from None
                body.seek(0)
                body.truncate()
                body.write(clean)
                await self.app(scope, _replay(body, request.receive), send)
        except StorageFullError:
            raise HTTPException(
                507,
                f"The page keeps {QUOTA >> 20} MB of files at most, all of them younger than "
                f"{MIN_AGE} seconds now: try again later.",
            ) from None

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.storage.writing:
            try:
                await self.app(scope, receive, send)
            except OSError:
                raise
            except Exception:  # gradio's parser expects the form that a browser sends
                text = "This upload can't be used: it is no form with files."
                raise HTTPException(400, text) from None
            finally:
                self.storage.sweep()


def host_names(host: str, others: Iterable[str] = ()) -> set[str]:
    """The page's host names, beside this machine's addresses.

    Args:
        host (str): where it listens.
        others (Iterable[str]): further names. Default: none.
    """
    names = {"localhost", host, *others}
    if host in ("0.0.0.0", "::"):
        own = socket.gethostname()
        names |= {own, f"{own}.local", socket.getfqdn()}
    return {name.lower().rstrip(".") for name in names}


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


async def _read(request: Request, body: IO[bytes], limit: int) -> None:
    async for chunk in request.stream():
        body.write(chunk)
        if body.tell() > limit:
            raise _too_large(limit)


def _replay(body: IO[bytes], receive: Receive) -> Receive:
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


def _too_large(limit: int) -> HTTPException:
    most = f"{MAX_UPLOAD >> 20} MB" if limit == MAX_BODY else f"{limit >> 10} kB"
    return HTTPException(413, f"More than {most} are not taken.")
