"""The files that annotations and lists name: within the data's folder, and there."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmpvt.errors import DatasetError
from mmpvt.utils.files import leaves_folder, read_bytes
from mmpvt.utils.text import few

GET_DATA: dict[str, Any] = dict(
    hint="get the data as docs/data.md says", instead=("data_root", None)
)
ALLOW_OUTSIDE = "allow_outside_files"  # a config's setting
TRUSTED = f"if you trust it, set {ALLOW_OUTSIDE}=True in the config"


def read_list(file: Path, allow_outside: bool) -> list[str]:
    """Reads a list of images, a name without its suffix a line.

    Raises:
        DatasetError: it is missing, empty, no text in UTF-8 or no list, or names files that
            :func:`check_inside` refuses.
    """
    if file.suffix.lower() in (".json", ".xml"):
        raise DatasetError(
            f"ann_file is {file}, and this data set reads a list: the name of an image a line",
            hint="set ann_file='' for all images of its folder",
        )
    try:
        lines = read_bytes(file).decode().splitlines()
    except OSError as error:
        raise DatasetError(f"no list of images at {file}: {error.strerror}", **GET_DATA) from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"the list of images {file} is no text in UTF-8") from error
    stems = [line.strip() for line in lines if line.strip()]
    if not stems:
        raise DatasetError(f"the list of images {file} is empty", **GET_DATA)
    check_inside(file, stems, allow_outside)
    return stems


def check_inside(file: Path, names: Iterable[str], allow_outside: bool) -> None:
    """Checks that the files that a list names lie in the folder that it is for.

    Otherwise a downloaded list could name any of the user's files to be read.

    Args:
        file (Path): the list, for the message.
        names (Iterable[str]): in it.
        allow_outside (bool): whether such names are allowed: then nothing is checked.

    Raises:
        DatasetError: a name is absolute or goes upwards.
    """
    outside = [] if allow_outside else [name for name in names if leaves_folder(name)]
    if outside:
        named = few([reprlib.repr(name) for name in outside])
        what = f"{file} names {len(outside)} files outside of the data's folder ({named})"
        raise DatasetError(what, hint=TRUSTED)


def check_present(folder: Path, names: list[str], where: str, what: str) -> None:
    """Checks that files are there: one listing a folder, as train2017 holds 118,287.

    Args:
        folder (Path): that the names are relative to.
        names (list[str]): of the files.
        where (str): they are named, for the message: ``'named in train.json'``.
        what (str): they are, for the message: ``'images'``.

    Raises:
        DatasetError: some are missing.
    """
    present: dict[Path, set[str]] = {}
    missing = []
    for name in names:
        path = folder / name
        if path.parent not in present:
            try:
                present[path.parent] = {entry.name for entry in path.parent.iterdir()}
            except (OSError, ValueError):  # no such folder, or a name that none can have
                present[path.parent] = set()
        if path.name not in present[path.parent]:
            missing.append(name)
    if not missing:
        return
    said = f"no {what}" if len(missing) == len(names) else f"{what} are missing"
    fields = GET_DATA
    if any("\\" in name for name in missing):
        fields = dict(hint="the names have backslashes, as Windows writes paths: replace them by /")
    raise DatasetError(
        f"{said} under {folder}: {len(missing)} of {len(names)} files {where} are missing "
        f"({few(missing)})",
        **fields,
    )
