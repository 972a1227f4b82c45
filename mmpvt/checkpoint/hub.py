"""Files of repositories on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

from mmpvt.errors import DownloadError, UserError

SCHEME = "hf://"
WEIGHTS_FILE = "model.safetensors"
_URL = re.compile(rf"{SCHEME}(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>[^/]+))?(/(?P<file>.+))?")


def download_from_hub(url: str, *files: str) -> list[Path]:
    """Downloads files of a repository, all of one commit, to huggingface_hub's cache.

    Args:
        url (str): ``hf://OWNER/NAME``, with ``@REVISION`` or not, with ``/FILE`` or not.
        *files (str): which, where the URL doesn't say. Default: ``'model.safetensors'``.

    Returns:
        list[Path]: the files, which were downloaded now or before.

    Raises:
        DownloadError: the URL names no repository, or the hub can't be reached or lacks the file.
        UserError: huggingface_hub isn't installed.
    """
    match = _URL.fullmatch(url)
    if match is None:
        raise DownloadError(f"{url} is no repository", where=url, hint=f"write {SCHEME}OWNER/NAME")
    hub = import_hub()
    found: list[Path] = []
    revision = match["revision"]
    for name in [match["file"]] if match["file"] else files or [WEIGHTS_FILE]:
        try:
            found.append(Path(hub.hf_hub_download(match["repo"], name, revision=revision)))
        except Exception as error:  # its own, and those of what it downloads with
            raise DownloadError(
                f"{name} of {url} can't be downloaded: {reason_of(error)}", where=url
            ) from error
        revision = found[0].parents[name.count("/")].name  # the cache's folder of a commit
    return found


def import_hub() -> ModuleType:
    """``huggingface_hub``, an optional package.

    Raises:
        UserError: it isn't installed.
    """
    try:
        import huggingface_hub
    except ModuleNotFoundError as error:
        raise UserError(
            "the Hugging Face hub needs huggingface_hub", hint="pip install 'mmpvt[hub]'"
        ) from error
    return huggingface_hub


def reason_of(error: Exception) -> str:
    """An error's kind and its first line that isn't empty."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
