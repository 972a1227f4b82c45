"""Fetching one file over HTTP: whole, or not at all."""

from __future__ import annotations

import os
import platform
import urllib.error
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

from mmengine.logging import print_log

from mmpvt.errors import UserError

TIMEOUT = 30  # seconds without a byte
LIMIT = 16 << 30  # bytes; the largest checkpoints of this field are a tenth of it


class SameScheme(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but from ``https://`` only to ``https://``."""

    def redirect_request(self, request, file, code, message, headers, address):
        """The request to go on with.

        Raises:
            URLError: the new address is less safe than the old.
        """
        safe = address.startswith("https://") or (
            address.startswith("http://") and request.full_url.startswith("http://")
        )
        if not safe:
            raise urllib.error.URLError(f"it redirects to {address}")
        return super().redirect_request(request, file, code, message, headers, address)


def download(address: str, target: Path) -> None:
    """Fetches ``address`` to ``target``, which appears only once every byte is there.

    Args:
        address (str): ``http://`` or ``https://``.
        target (Path): the file to make; its folder is made too.

    Raises:
        UserError: the address doesn't answer, answers with an error, redirects to another kind
            of address, or gives fewer bytes than it announced or more than 16 GiB.
    """
    print_log(f"downloading {address} to {target}", logger="current")
    # Several machines may download to a folder that they share.
    part = target.with_name(f"{target.name}.{platform.node()}-{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        opener = urllib.request.build_opener(SameScheme)
        with opener.open(address, timeout=TIMEOUT) as answer, part.open("wb") as file:
            announced = answer.headers.get("Content-Length")
            while block := answer.read(1 << 20):
                file.write(block)
                if file.tell() > LIMIT:
                    raise OSError(f"the answer is longer than {LIMIT} bytes")
            received = file.tell()
        if announced is not None and received != int(announced):
            raise OSError(f"the answer ended after {received} of {announced} bytes")
        part.replace(target)
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"could not download {address} ({reason}): fetch it elsewhere and pass "
            "--pretrained FILE, or --pretrained none to start from random weights"
        ) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
