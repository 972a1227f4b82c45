"""The image files that a command line names, and the names of their results."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mmpvt.errors import BadFileError, DatasetError
from mmpvt.utils.constants import IMAGE_SUFFIXES
from mmpvt.utils.outputs import fitting, is_result
from mmpvt.utils.text import encodable


@dataclass(frozen=True)
class Source:
    """An image file."""

    path: Path
    # of its results, without a suffix: its path below the folder given or, where those of several
    # folders would have one name, below the folder that holds all
    name: str
    file_name: str  # the same with its suffix, as an annotation file would name it
    # the number in its name where all files are named by different ones; else its index, from 1
    image_id: int
    problem: str = ""  # why it is skipped, where it is a folder that can't be read


def find_sources(
    inputs: Iterable[str | os.PathLike], out: Path | None = None
) -> tuple[list[Source], list[Path]]:
    """Image files, by themselves and in folders, in a reproducible order.

    A folder is searched recursively, sorted by name; files without an image's suffix, hidden ones,
    the folder of results and results of other runs are ignored. A file that is given itself is
    taken whatever its suffix, unless it is a result of a run; one that is given twice counts once.
    What has an image's suffix and can't be read (a dangling link, a pipe) is found, too: whoever
    reads it says why.

    Args:
        inputs (Iterable[str | PathLike]): files and folders.
        out (Path | None): the folder of results. Default: none.

    Returns:
        tuple[list[Source], list[Path]]: one an image, no two of one name; and the files that are
        ignored.

    Raises:
        DatasetError: there is no such file or folder, or there are no images.
    """
    found: dict[Path, str] = {}
    places: dict[Path, str] = {}  # without following links
    others: list[Path] = []
    problems: dict[Path, str] = {}
    listings: dict = {}
    given = [Path(path).expanduser() for path in inputs]
    for path in given:
        if path.is_dir():
            for file in _walk(path, out, problems):
                is_image = file.suffix.lower() in IMAGE_SUFFIXES or file in problems
                if is_image and not is_result(file, listings):
                    found.setdefault(_real(file), str(file.relative_to(path)))
                    places.setdefault(_real(file), os.path.abspath(file))  # noqa: PTH100
                else:
                    others.append(file)
        elif is_result(path, listings):
            others.append(path)
        elif os.path.lexists(path):  # what isn't a regular file is refused where it is read
            found.setdefault(_real(path), path.name)
            places.setdefault(_real(path), os.path.abspath(path))  # noqa: PTH100
        else:
            raise BadFileError(f"no image or folder at {path}: there is no such file", where=path)
    if not found:
        named = ", ".join(map(str, given[:3]))
        if any(is_result(file, listings) for file in others):
            raise DatasetError(f"no images under {named} but results of an earlier run")
        raise DatasetError(
            f"no images under {named}: no file there ends in .jpg, .png, .webp, .tif, .bmp or "
            "another ending of images"
        )
    if len(set(found.values())) < len(found):  # x.jpg of two folders
        with suppress(ValueError):  # of Windows' drives, which have nothing in common
            common = os.path.commonpath([Path(place).parent for place in places.values()])
            found = {path: os.path.relpath(place, common) for path, place in places.items()}
    names = _distinct_names([encodable(name) for name in found.values()])
    ids = _image_ids(list(found.values()))
    problems = {_real(path): reason for path, reason in problems.items()}
    sources = [
        Source(path, name, encodable(Path(file_name).as_posix()), image_id, problems.get(path, ""))
        for (path, file_name), name, image_id in zip(found.items(), names, ids, strict=True)
    ]
    return sources, others


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # unlike resolve(), also of a link to itself


def _walk(folder: Path, out: Path | None, problems: dict[Path, str]) -> Iterator[Path]:
    """All files, and folders that can't be read, with the reason in ``problems``."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        problems[folder] = f"{folder} can't be read ({error.strerror})"
        yield folder
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_symlink() and entry.is_dir():  # there may be a loop
            continue
        if not entry.is_dir():  # pipes and devices are refused when read
            yield entry
        elif out is None or not out.is_dir() or not out.samefile(entry):
            yield from _walk(entry, out, problems)


def _distinct_names(file_names: Sequence[str]) -> list[str]:
    """``a/x`` for ``a/x.jpg``; ``a/x_png`` for an ``a/x.png`` beside it; then ``a/x_png_2``."""
    taken: set[str] = set()
    names = []
    for file_name in file_names:
        path = Path(file_name)
        long = f"{path.stem}_{path.suffix[1:].lower()}"
        name, number = (path.parent / fitting(path.stem)).as_posix(), 1  # a folder given has none
        while name.casefold() in taken:  # as folders that take X.jpg and x.jpg for one do
            end = "" if number == 1 else f"_{number}"
            name = (path.parent / fitting(long, end)).as_posix()
            number += 1
        taken.add(name.casefold())
        names.append(name)
    return names


def _image_ids(file_names: Sequence[str]) -> list[int]:
    stems = [Path(name).stem for name in file_names]
    if all(stem.isascii() and stem.isdecimal() and len(stem) <= 18 for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(stems) + 1))
