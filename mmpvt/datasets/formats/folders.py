"""Classification: images in a folder a class, with folders of splits above them or without."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import PurePosixPath

from mmpvt.datasets.formats.reading import Content, Reading, split_of
from mmpvt.datasets.formats.records import ALL, ImageRecord
from mmpvt.errors import DatasetError
from mmpvt.utils.constants import IMAGE_SUFFIXES
from mmpvt.utils.progress import with_progress
from mmpvt.utils.text import few

_SPLIT_NAME = re.compile(r"[a-z]+(?:[ _-](?:set|data|images))?")


def read_folders(reading: Reading) -> Content:
    """Reads ``train/cat/a.jpg`` and ``cat/a.jpg``; classes are the folders' names, sorted.

    Raises:
        DatasetError: there are no such folders, one of training is empty, or one that is validated
            or tested on isn't trained on.
    """
    places = {name: _place(name) for name in reading.files.images}
    outside = [name for name, place in places.items() if place is None]
    if len(outside) == len(places):
        raise DatasetError(
            f"{reading.source} has no classes: its images lie in no folder a class",
            where=reading.source,
        )
    for name in outside:
        reading.problem(name, "it lies in no class's folder")
    found: dict[str, set[str]] = defaultdict(set)  # classes by split
    for place in filter(None, places.values()):
        found[place[0]].add(place[1])
    trained = found.get("train") or found.get(ALL) or set()
    for split, names in found.items():
        if lacking := sorted(names - trained) if trained else []:
            raise DatasetError(
                f"{reading.source} has {few(lacking)} in {split}, and no image of it to train on",
                where=reading.source,
                hint="add images of it to train on, or remove it",
            )
    empty = _empty_folders(reading)
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
    for name, (split, kind) in with_progress(known_places, "reading images"):
        if kind not in labels:
            reading.count("images of other classes are skipped", name)
            continue
        record = reading.record(reading.root / name)
        if record is not None:
            record.labels = (labels[kind],)
            splits[split].append(record)
    return Content(classes, dict(splits))


def _place(name: str) -> tuple[str, str] | None:
    """An image's split and class: the folder under that of a split, or else its own."""
    folders = PurePosixPath(name).parts[:-1]
    for place, folder in enumerate(folders):
        if split := _split(folder):
            return (split, folders[place + 1]) if place + 1 < len(folders) else None
    return (ALL, folders[-1]) if folders else None


def _split(folder: str) -> str | None:
    """The split that a folder is of by its whole name, ``test`` or ``test_set``: a class may be
    called test_tube."""
    return split_of(folder) if _SPLIT_NAME.fullmatch(folder.lower()) else None


def _empty_folders(reading: Reading) -> list[str]:
    """Folders beside those of classes that hold no image."""
    parents = set()
    for name in reading.files.images:
        place = _place(name)
        if place is not None:
            folders = PurePosixPath(name).parts[:-1]
            depth = len(folders) - 1 - folders[::-1].index(place[1])
            parents.add(PurePosixPath(*folders[:depth]))
    empty = []
    for parent in sorted(parents):
        for entry in sorted(os.scandir(reading.root / parent), key=lambda entry: entry.name):
            if not entry.is_dir() or entry.name.startswith(".") or _split(entry.name):
                continue
            held = (file for _, _, files in os.walk(entry.path) for file in files)
            if not any(PurePosixPath(file).suffix.lower() in IMAGE_SUFFIXES for file in held):
                empty.append((parent / entry.name).as_posix())
    return empty
