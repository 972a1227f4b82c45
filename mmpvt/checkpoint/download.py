"""Fetching one file over HTTP: whole, or not at all."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from mmengine.logging import print_log

from mmpvt.errors import UserError

TIMEOUT = 30  # seconds without a byte


def download(address: str, target: Path) -> None:
    """Fetches ``address`` to ``target``, which appears only once every byte is there.

    Args:
        address (str): ``http://`` or ``https://``.
        target (Path): the file to make; its folder is made too.

    Raises:
        UserError: the address doesn't answer, answers with an error, or gives fewer bytes than
            it announced.
    """
    print_log(f"downloading {address} to {target}", logger="current")
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer, part.open("wb") as file:
            announced = answer.headers.get("Content-Length")
            shutil.copyfileobj(answer, file, 1 << 20)
            received = file.tell()
        if announced is not None and received != int(announced):
            raise OSError(f"the answer ended after {received} of {announced} bytes")
        part.replace(target)
    except (OSError, HTTPException, ValueError) as error:
        part.unlink(missing_ok=True)
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"could not download {address} ({reason}): fetch it elsewhere and pass "
            "--pretrained FILE, or --pretrained none to start from random weights"
        ) from error
