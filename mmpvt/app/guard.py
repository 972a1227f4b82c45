"""What the page's server answers to: its own page and nothing else, in bounded amounts.

Gradio's server also fetches addresses that a visitor names and offers developers' routes. Here a
list says what is let through, and a browser is told to load nothing from elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping

MAX_UPLOAD = 25 << 20  # bytes of an image file
MAX_BODY = MAX_UPLOAD + (1 << 20)  # bytes of a request: a file and what is packed around it
ROUTES = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)/?|/(assets|static|svelte)/.+"
    r"|/gradio_api/(info|app_id|startup-events|upload|upload_progress|cancel|reset"
    r"|queue/(join|data)|heartbeat/\w+|(call|run|api)/\w+(/\w+)?|file=(?!\w+:).+)/?"
)
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


class TooLarge(Exception):
    """A request's body goes on beyond what is taken."""


class Guard:
    """ASGI middleware before gradio's routes.

    Args:
        app (Callable): what comes after it.
    """

    def __init__(self, app: Callable) -> None:
        self.app = app

    async def __call__(self, scope: MutableMapping, receive: Receive, send: Send) -> None:
        """Answers 404 to what the page doesn't need, 413 to what is too large."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        if not ROUTES.fullmatch(scope["path"]):
            await _refuse(send, 404, "There is no such page.")
            return
        taken, started = 0, False

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > MAX_BODY:
                raise TooLarge
            return message

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), *HEADERS.items()]
            await send(message)

        told = dict(scope["headers"]).get(b"content-length", b"0")
        try:
            if not told.isdigit() or int(told) > MAX_BODY:
                raise TooLarge
            await self.app(scope, counted, with_headers)
        except TooLarge:
            if not started:
                await _refuse(send, 413, f"More than {MAX_UPLOAD >> 20} MB are not taken.")


async def _refuse(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *HEADERS.items()]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
