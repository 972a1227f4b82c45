"""Which images a command line names, and what each one's results are called."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmpvt.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".jp2"}
SUFFIXES |= {".pbm", ".pgm", ".ppm", ".pnm"}


@dataclass(frozen=True)
class Source:
    """An image file.

    Attributes:
        path: the file.
        name: what its results are called, without a suffix: its path below the folder given.
        file_name: the same with its suffix, as an annotation file would name it.
        image_id: the number in its name where all files are called by different numbers;
            otherwise its place in the order, from 1.
    """

    path: Path
    name: str
    file_name: str
    image_id: int


def find_sources(
    inputs: Iterable[str | os.PathLike], out: Path | None = None
) -> tuple[list[Source], list[Path]]:
    """Images named on a command line and in folders, in a lasting order.

    A folder is walked with all below it, sorted by name; files there that aren't called as images
    are, hidden ones and the folder of results are left alone. A file that is named itself is taken
    whatever it is called. A file that is named twice counts once.

    Args:
        inputs (Iterable[str | PathLike]): files and folders.
        out (Path | None): the folder of results. Default: none.

    Returns:
        tuple[list[Source], list[Path]]: one an image, no two of one name; and files in the
        folders that aren't called as images are.

    Raises:
        UserError: there is no such file or folder, or there are no images.
    """
    found: dict[Path, str] = {}
    others: list[Path] = []
    inputs = [Path(path).expanduser() for path in inputs]
    for path in inputs:
        if path.is_dir():
            for file in _walk(path, out):
                if file.suffix.lower() in SUFFIXES:
                    found.setdefault(file.resolve(), str(file.relative_to(path)))
                else:
                    others.append(file)
        elif path.exists():  # what isn't a regular file is refused where it is read
            found.setdefault(path.resolve(), path.name)
        else:
            raise UserError(f"no image or folder at {path}: there is no such file")
    if not found:
        named = ", ".join(map(str, inputs[:3]))
        raise UserError(
            f"no images under {named}: no file there ends in .jpg, .png, .webp, .tif, .bmp or "
            "another ending of images"
        )
    names = _distinct_names(list(found.values()))
    ids = _image_ids(list(found.values()))
    sources = [
        Source(path, name, Path(file_name).as_posix(), image_id)
        for (path, file_name), name, image_id in zip(found.items(), names, ids, strict=True)
    ]
    return sources, others


def _walk(folder: Path, out: Path | None) -> Iterator[Path]:
    skipped = out.resolve() if out is not None else None
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.resolve() == skipped:
            continue
        if entry.is_dir() and not entry.is_symlink():  # a link may lead round in a circle
            yield from _walk(entry, out)
        elif entry.exists() and not entry.is_dir():  # pipes and devices are refused when read
            yield entry


def _distinct_names(file_names: Sequence[str]) -> list[str]:
    """``a/x`` for ``a/x.jpg``; ``a/x_png`` for an ``a/x.png`` beside it; then ``a/x_png_2``."""
    taken: set[str] = set()
    names = []
    for file_name in file_names:
        path = Path(file_name)
        stem = path.with_suffix("").as_posix()
        long = f"{stem}_{path.suffix[1:].lower()}"
        name, number = stem, 1
        while name.casefold() in taken:  # as folders that take X.jpg and x.jpg for one do
            name = long if number == 1 else f"{long}_{number}"
            number += 1
        taken.add(name.casefold())
        names.append(name)
    return names


def _image_ids(file_names: Sequence[str]) -> list[int]:
    stems = [Path(name).stem for name in file_names]
    if all(stem.isascii() and stem.isdecimal() for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(1, len(stems) + 1))
