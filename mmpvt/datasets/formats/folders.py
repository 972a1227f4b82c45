"""Classification: images in a folder a class, with folders of splits above them or without."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from mmpvt.datasets.formats.files import split_of
from mmpvt.datasets.formats.reading import Content, Reading
from mmpvt.datasets.formats.records import ALL, ImageRecord
from mmpvt.errors import DatasetError
from mmpvt.utils.constants import IMAGE_SUFFIXES
from mmpvt.utils.progress import with_progress
from mmpvt.utils.text import few

_SPLIT_NAME = re.compile(r"[a-z]+(?:[ _-](?:set|data|images))?")


def read_folders(reading: Reading) -> Content:
    """Reads ``train/cat/a.jpg`` and ``cat/a.jpg``; classes are the folders' names, sorted.

    Without splits, folders that hold all of the images (``pets/cat/a.jpg``) aren't classes. What
    lies in a class's folder at any depth is of that class, as in torchvision's ``ImageFolder``.

    Raises:
        DatasetError: there are no such folders, one of training is empty, or one that is validated
            or tested on isn't trained on.
    """
    places = _places(reading.files.images)
    outside = [name for name, place in places.items() if place is None]
    if len(outside) == len(places):
        raise DatasetError(
            f"{reading.source} has no classes: its images lie in no folder a class",
            where=reading.source,
        )
    for name in outside:
        reading.problem(name, "it lies in no class's folder")
    found: dict[str, set[str]] = defaultdict(set)  # classes by split
    for name, place in places.items():
        if place is not None:
            found[place.split].add(place.name)
            if PurePosixPath(name).parent != place.parent / place.name:
                reading.count("images lie deeper than their class's folder", name)
    trained = found.get("train") or found.get(ALL) or set()
    for split, names in found.items():
        if lacking := sorted(names - trained) if trained else []:
            raise DatasetError(
                f"{reading.source} has {few(lacking)} in {split}, and no image of it to train on",
                where=reading.source,
                hint="add images of it to train on, or remove it",
            )
    empty = _empty_folders(reading.root, {place.parent for place in places.values() if place})
    if empty and not reading.skip:
        raise DatasetError(
            f"there are no images in {few(empty)}, a folder beside those of the classes",
            where=reading.source,
            hint="add images, or remove it",
            instead=("on_bad_data", "skip"),
        )
    known = sorted(trained or set().union(*found.values()))
    classes = list(reading.classes or known)
    if missing := sorted(set(classes) - set(known)):
        raise DatasetError(
            f"{few(missing)} is no class of {reading.source}, which has {few(known, 8)}",
            setting="classes",
        )
    labels = {name: label for label, name in enumerate(classes)}
    splits: dict[str, list[ImageRecord]] = defaultdict(list)
    known_places = [(name, place) for name, place in places.items() if place is not None]
    for name, place in with_progress(known_places, "reading images"):
        if place.name not in labels:
            reading.count("images of other classes are skipped", name)
            continue
        record = reading.record(reading.root / name)
        if record is not None:
            record.labels = (labels[place.name],)
            splits[place.split].append(record)
    return Content(classes, dict(splits))


class _Place(NamedTuple):
    """The split and class of an image, and the folder that its class's folder lies in."""

    split: str
    name: str
    parent: PurePosixPath


def _places(images: Iterable[str]) -> dict[str, _Place | None]:
    """By image; None where it lies in no class's folder."""
    folders = {name: PurePosixPath(name).parent for name in images}
    starts = {name: _below_split(folder.parts) for name, folder in folders.items()}
    unsplit = {folders[name] for name, start in starts.items() if start is None} - {PurePosixPath()}
    shared = PurePosixPath(os.path.commonpath(unsplit)) if unsplit else PurePosixPath()
    if unsplit == {shared}:
        shared = shared.parent  # one folder holds them: it is the class
    places: dict[str, _Place | None] = {}
    for name, folder in folders.items():
        split, depth = starts[name] or (ALL, len(shared.parts))
        parts = folder.parts
        inside = len(parts) > depth
        places[name] = (
            _Place(split, parts[depth], PurePosixPath(*parts[:depth])) if inside else None
        )
    return places


def _below_split(parts: tuple[str, ...]) -> tuple[str, int] | None:
    """The split of the first folder named for one, and the depth of what lies in that folder."""
    found = ((split, i) for i, part in enumerate(parts, 1) if (split := _split(part)))
    return next(found, None)


def _split(folder: str) -> str | None:
    """The split that a folder is of by its whole name, ``test`` or ``test_set``: a class may be
    called test_tube."""
    return split_of(folder) if _SPLIT_NAME.fullmatch(folder.lower()) else None


def _empty_folders(root: Path, parents: Iterable[PurePosixPath]) -> list[str]:
    """Folders beside those of classes that hold no image."""
    empty = []
    for parent in sorted(parents):
        for entry in sorted(os.scandir(root / parent), key=lambda entry: entry.name):
            if not entry.is_dir() or entry.name.startswith(".") or _split(entry.name):
                continue
            held = (file for _, _, files in os.walk(entry.path) for file in files)
            if not any(PurePosixPath(file).suffix.lower() in IMAGE_SUFFIXES for file in held):
                empty.append((parent / entry.name).as_posix())
    return empty
