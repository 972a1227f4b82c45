"""The files of a data set's folder, and what their names and folders say."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from mmpvt.datasets.formats.records import ALL
from mmpvt.errors import DatasetError
from mmpvt.utils.constants import IMAGE_SUFFIXES
from mmpvt.utils.text import few

VIDEOS = {".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"}
_SPLIT = re.compile(
    r"(?:^|[^a-z])(train|training|valid|validation|val|dev|test|testing)\d*(?:$|[^a-z])"
)
_SPLITS = dict(
    train="train",
    training="train",
    valid="val",
    validation="val",
    val="val",
    dev="val",
    test="test",
    testing="test",
)


def split_of(name: str) -> str | None:
    """The split that a file's or folder's name names: ``'val'`` of ``'instances_val2017'``."""
    found = _SPLIT.search(name.lower())
    return _SPLITS[found[1]] if found else None


def split_of_path(path: str) -> str:
    """The split that one of a relative path's folders is of, or :data:`ALL`."""
    return next(filter(None, map(split_of, PurePosixPath(path).parts[:-1])), ALL)


def split_of_list(name: str) -> str | None:
    """The split of a list of images, by all of its name: ``'cat_train'`` is a class's list.

    ``trainval`` is a split of its own, and ``default`` is :data:`ALL`.
    """
    others = dict(trainval="trainval", default=ALL)
    return {**_SPLITS, **others}.get(name.lower().rstrip("0123456789"))


def stem(path: str) -> str:
    """A relative path without its suffix."""
    return os.path.splitext(path)[0]  # noqa: PTH122  a string in, a string out


def _refuse(error: OSError) -> None:
    raise DatasetError(f"{error.filename} can't be read: {error.strerror}", where=error.filename)


class Files:
    """The files of a data set's folder, without what is hidden.

    Args:
        root (Path): the folder; links in it are followed.

    Raises:
        DatasetError: a folder can't be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.names: list[str] = []  # relative, with slashes, sorted: the same on every machine
        seen = set()
        for folder, folders, files in os.walk(root, onerror=_refuse, followlinks=True):
            real = os.path.realpath(folder)
            folders[:] = sorted(  # a folder counts once: links to it come last
                (name for name in folders if not name.startswith(".") and name != "__MACOSX"),
                key=lambda name: (os.path.islink(f"{folder}/{name}"), name),  # noqa: PTH114
            )
            if real in seen:  # a link to a folder above it
                folders.clear()
                continue
            seen.add(real)
            prefix = "" if folder == str(root) else f"{Path(folder).relative_to(root).as_posix()}/"
            self.names.extend(f"{prefix}{name}" for name in files if not name.startswith("."))
        self.names.sort()

    @cached_property
    def _by_suffix(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.names:
            found[os.path.splitext(name)[1].lower()].append(name)  # noqa: PTH122
        return found

    def of(self, *suffixes: str) -> list[str]:
        """The files of some suffixes, sorted."""
        return sorted(name for suffix in suffixes for name in self._by_suffix.get(suffix, ()))

    @cached_property
    def images(self) -> list[str]:
        """The image files, sorted."""
        return self.of(*IMAGE_SUFFIXES)

    def composed(self, name: str) -> str:
        """A name in Unicode's composed form, in which those that macOS decomposes equal others';
        as it is where two images' names differ by their form alone."""
        return name if self._differ_by_form else _composed(name)

    @cached_property
    def _differ_by_form(self) -> bool:
        stems = set(map(stem, self.images))
        return len(set(map(_composed, stems))) < len(stems)

    @cached_property
    def _images_by_name(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.images:
            found[name.rsplit("/", 1)[-1]].append(name)
        return found

    @cached_property
    def _images_by_folded_name(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for name in self.images:
            found[_folded(name.rsplit("/", 1)[-1])].append(name)
        return found

    def find_image(
        self, file_name: str, near: str = "", split: str | None = None, of: str = ""
    ) -> str | None:
        """The image that an annotation means, which may name its folders or not.

        Args:
            file_name (str): as the annotation names it: with Windows' backslashes, perhaps, and
                with folders of the machine that it was written on.
            near (str): the folder of the annotation's file, which is looked at first.
            split (str | None): that the annotation is of, whose folders are looked at then.
            of (str): the annotation file's stem, ``instances_train2017``, which may name a folder.

        Returns:
            str | None: an image of :attr:`images`; None where there is none. One whose name
            differs in case, in Unicode's composition (macOS) or in percent-encoding (web tools) is
            taken where none fits better.

        Raises:
            DatasetError: several fit.
        """
        parts = [part for part in re.split(r"[/\\]+", file_name) if part not in ("", ".", "..")]
        if not parts:
            return None
        found = self._images_by_name.get(parts[-1])
        if not found:
            found = self._images_by_folded_name.get(_folded(parts[-1]), [])
            parts, near = [_folded(part) for part in parts], _folded(near)
            original = {_folded(name): name for name in found}
            if len(original) < len(found):
                raise DatasetError(f"{file_name!r} may be any of {few(found)}")
            match = self._fitting(list(original), parts, file_name, near, split, of)
            return original[match] if match else None
        return self._fitting(found, parts, file_name, near, split, of)

    @staticmethod
    def _fitting(
        found: list[str], parts: list[str], file_name: str, near: str, split: str | None, of: str
    ) -> str | None:
        """The one of some images of one name whose folders fit best."""
        for length in range(len(parts), 0, -1):
            tail = "/".join(parts[-length:])
            if near and f"{near}/{tail}" in found:
                return f"{near}/{tail}"
            fit = [name for name in found if name == tail or name.endswith(f"/{tail}")]
            if len(fit) > 1 and near:
                fit = [name for name in fit if name.startswith(f"{near}/")] or fit
            if len(fit) > 1 and of:
                fit = [n for n in fit if any(_names(of, f) for f in n.split("/")[:-1])] or fit
            if len(fit) > 1 and split is not None:
                fit = [name for name in fit if split_of_path(name) == split] or fit
            if len(fit) > 1 and tail in fit:
                fit = [tail]
            if len(fit) > 1:
                raise DatasetError(f"{file_name!r} may be any of {few(fit)}")
            if fit:
                return fit[0]
        return None


def _names(file: str, folder: str) -> bool:
    """Whether a file's name has a folder's in it as a word or number: ``labels`` has no ``a``, and
    ``train2017`` has ``2017``."""
    for match in re.finditer(re.escape(folder), file):
        borders = file[: match.start()][-1:] + folder[0], folder[-1] + file[match.end() :][:1]
        if not any(len(pair) == 2 and (pair.isalpha() or pair.isdigit()) for pair in borders):
            return True
    return False


def _folded(name: str) -> str:
    """A name without what file systems and web tools change in it."""
    return _composed(unquote(name, errors="surrogateescape")).casefold()


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
