"""A request's image, taken in as a file that is never larger than allowed."""

from __future__ import annotations

import asyncio
import shutil
from typing import IO

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

FORM = "multipart/form-data"
BINARY = "application/octet-stream"
FRAME = 64 << 10  # bytes of a form around its file


async def receive_image(request: Request, file: IO[bytes], limit: int, timeout: float) -> None:
    """Writes the image that a request brings, its body or its form's one file, to ``file``.

    Neither the name that a form gives its file nor what it says of its kind are used.

    Args:
        request (Request): whose body hasn't been read.
        file (IO[bytes]): takes the image.
        limit (int): bytes of an image, whatever the request says of its length.
        timeout (float): seconds until all of it has to be there.

    Raises:
        HTTPException: 415 for a body of another kind, 413 beyond the limit, 408 beyond the time,
            400 for a form that can't be read or doesn't hold one file, 507 where the disk is full.
        ClientDisconnect: nobody waits for the answer any more.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != FORM and kind != BINARY and not kind.startswith("image/"):
        raise HTTPException(
            415,
            "send an image as the body, with its Content-Type (image/jpeg, say), or as the one "
            f"file of a form ({FORM})",
        )
    most = limit + FRAME if kind == FORM else limit
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise _too_large(limit)
    limited = Request(request.scope, _limited(request.receive, most, limit, timeout))
    try:
        if kind == FORM:
            await _receive_form(limited, file, limit)
        else:
            async for chunk in limited.stream():
                file.write(chunk)
        file.flush()
    except OSError as error:
        raise HTTPException(507, f"the image can't be stored ({error.strerror})") from error


async def wait_for_disconnect(request: Request) -> None:
    """Returns when nobody waits for the answer any more; the body has to be read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _receive_form(request: Request, file: IO[bytes], limit: int) -> None:
    async with request.form(max_files=1, max_fields=1) as form:  # a field: curl -F image=a.jpg
        parts = list(form.values())
        upload = parts[0] if len(parts) == 1 else None
        if not isinstance(upload, UploadFile):
            raise HTTPException(400, "a form holds one file alone, as of curl -F image=@a.jpg")
        if (upload.size or 0) > limit:
            raise _too_large(limit)
        await run_in_threadpool(shutil.copyfileobj, upload.file, file)


def _limited(receive: Receive, most: int, limit: int, timeout: float) -> Receive:
    """Receives no more than ``most`` bytes, and nothing after ``timeout`` seconds."""
    loop = asyncio.get_running_loop()
    end, left = loop.time() + timeout, most

    async def limited() -> Message:
        nonlocal left
        try:
            message = await asyncio.wait_for(receive(), end - loop.time())
        except asyncio.TimeoutError:
            said = f"the image took longer than {timeout:g} s to arrive"
            raise HTTPException(408, said) from None
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        left -= len(message.get("body", b""))
        if left < 0:
            raise _too_large(limit)
        return message

    return limited


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the image has more than the {limit} bytes that are taken")
