"""Folders of results: which of the files in them the tools wrote, and so may replace.

Each has a list of them, ``.mmpvt-files``, a line of JSON a file: its name and the SHA-256 of what
was written. A file is the tools' while it holds that. ``tools/run_onnx.py``, which imports nothing
of this package, reads and writes the same list.

Processes that write to one folder at once have a list each beside it, ``.mmpvt-files.NAME``, as
appending to one file from several machines loses lines on NFS.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

from mmpvt.errors import OutputError
from mmpvt.utils.atomic import atomic_write, make_folder, put_back, replacing
from mmpvt.utils.files import file_sha256
from mmpvt.utils.locking import LOCK

LISTING = ".mmpvt-files"
LONGEST_NAME = 255  # bytes, of most file systems
# of one file's name or place, where others can still be written
ONE_FILES = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EISDIR, errno.ENOTDIR, errno.EEXIST}

Listing = dict[str, set[str]]


class CannotWriteError(OutputError):
    """One file can't be written; others may be."""


class Outputs:
    """A folder of results.

    What no tool wrote is never replaced: a user's file, a link, what was written and changed
    since. A file is replaced under its name, never written into, so that another link to it keeps
    its content.

    Args:
        folder (str | PathLike): made by the first file.
        setting (str): the setting that names it. Default: ``'out'``.
        undo (ExitStack | None): puts back, when it is closed, what :meth:`write` replaced. Default:
            None, nothing is put back.
    """

    def __init__(
        self, folder: str | os.PathLike, setting: str = "out", undo: ExitStack | None = None
    ) -> None:
        self.folder = Path(folder)
        self.setting = setting
        self._undo = undo
        self._listing = self.folder / LISTING
        self._known = read_listing(self.folder)
        if undo is not None:
            put_back(self._listing, undo)

    def check_folder(self) -> None:
        """Refuses a folder that is neither new nor empty nor an earlier run's.

        Raises:
            OutputError: it is a file, holds what no tool wrote, or can't be read.
        """
        self.check()
        try:
            if self._known is None and self.folder.is_dir() and any(self._others()):
                self._known = read_listing(self.folder)  # another process may just have begun
                if self._known is None:
                    raise self._refused("holds other files", "name a new folder for the results")
        except OSError as error:
            raise self._refused(f"can't be read ({error.strerror})") from error

    def share(self, name: str) -> None:
        """Lists what is written from now on in a list of this process's own.

        Args:
            name (str): of the list; no other process's.

        Raises:
            OutputError: nothing can be written there.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / LISTING).touch()  # it says that the folder is the tools'
        except OSError as error:
            raise self._refused(f"can't be written to ({error.strerror})") from error
        self._known = self._known or {}
        self._listing = self.folder / f"{LISTING}.{name}"

    def gather(self) -> None:
        """Makes one list of those of all processes, while none of them writes.

        Raises:
            OutputError: nothing can be written there.
        """
        listing = self.folder / LISTING
        try:
            if parts := list(self.folder.glob(f"{LISTING}.*")):
                texts = [path.read_bytes() for path in (listing, *parts) if _is_regular(path)]
                atomic_write(listing, b"".join(text + b"\n" for text in texts))  # a kill cuts lines
            for part in parts:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise self._refused(f"can't be written to ({error.strerror})") from error
        self._listing, self._known = listing, read_listing(self.folder)

    def owns(self, name: str) -> bool:
        """Whether a file is there, and holds what a tool wrote."""
        return self._known is not None and is_listed(self.folder / name, name, self._known)

    def check(self, *names: str) -> None:
        """Refuses to replace what no tool wrote.

        Args:
            names (str): files, or folders of files, in the folder.

        Raises:
            CannotWriteError: one of them is there, and not the tools'.
            OutputError: the folder is a file.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise self._refused("is a file", "name a folder for the results")
        other = f"move it, or name another folder with {OutputError.name_setting(self.setting)}"
        for name in names:
            path = self.folder / name
            if os.path.lexists(path) and not self._owns(path, name):
                raise CannotWriteError(
                    f"{path} is not of an earlier run and isn't overwritten", where=path, hint=other
                )
            link = next((p for p in path.parents if p.is_symlink()), None)
            if link is not None and self.folder in link.parents:
                raise CannotWriteError(
                    f"{link} is a link, which isn't followed", where=link, hint=other
                )

    def write(self, name: str, content: bytes | memoryview) -> Path:
        """Writes a file, intact or not at all, with the folders above it.

        Args:
            name (str): its path in the folder.
            content (bytes | memoryview): what it will hold.

        Returns:
            Path: the file.

        Raises:
            CannotWriteError: a file of that name isn't the tools', or the name can't be one.
            OutputError: nothing can be written there: the disk is full, say.
        """
        path = self.folder / name
        digest = hashlib.sha256(content).hexdigest()
        try:
            if is_listed(path, name, {name.casefold(): {digest}}):
                return path  # by another process of the run, say
            self.check(name)
            if self._undo is None:
                path.parent.mkdir(parents=True, exist_ok=True)
            else:
                make_folder(path.parent, self._undo)
                put_back(path, self._undo)
            self._list(name, digest)
            atomic_write(path, content, sync=False)
        except OSError as error:
            kind = CannotWriteError if error.errno in ONE_FILES else OutputError
            raise kind(f"{path} can't be written ({error.strerror})", where=path) from error
        except UnicodeEncodeError as error:
            raise CannotWriteError(f"{path!r} can't be a file's name", where=path) from error
        return path

    def write_parts(self, name: str, parts: Iterable[bytes]) -> Path:
        """Writes a file as :meth:`write` does, of parts that aren't all in memory at once.

        Args:
            name (str): its path in the folder.
            parts (Iterable[bytes]): of what it will hold.

        Returns:
            Path: the file.

        Raises:
            CannotWriteError: a file of that name isn't the tools'.
            OutputError: nothing can be written there.
        """
        path = self.folder / name
        self.check(name)
        digest = hashlib.sha256()
        try:
            with replacing(path, sync=False) as part:
                with part.open("xb") as file:
                    for content in parts:
                        digest.update(content)
                        file.write(content)
                self._list(name, digest.hexdigest())
        except OSError as error:
            raise OutputError(f"{path} can't be written ({error.strerror})", where=path) from error
        return path

    def adopt(self, name: str, part: Path) -> Path:
        """Gives a file in the folder, written by a tool, its name.

        Args:
            name (str): its path in the folder.
            part (Path): the file, which has this name no more.

        Returns:
            Path: the file.

        Raises:
            CannotWriteError: a file of that name isn't the tools'.
            OutputError: nothing can be written there.
        """
        path = self.folder / name
        self.check(name)
        try:
            self._list(name, file_sha256(part))
            part.replace(path)
        except OSError as error:
            raise OutputError(f"{path} can't be written ({error.strerror})", where=path) from error
        return path

    def _refused(self, reason: str, hint: str | None = None) -> OutputError:
        folder = OutputError.name_setting(self.setting, str(self.folder))
        return OutputError(f"{folder} {reason}", where=self.folder, hint=hint)

    def _owns(self, path: Path, name: str) -> bool:
        if self._known is None or path.is_symlink():
            return False
        if path.is_dir() or is_listed(path, name, self._known):
            return True
        # another process may have written it since
        return is_listed(path, name, read_listing(self.folder) or {})

    def _others(self) -> Iterator[Path]:
        return (path for path in self.folder.iterdir() if path.name not in (LISTING, LOCK))

    def _list(self, name: str, digest: str) -> None:
        """Adds a file to the list before it is there, as the next moment may be the last."""
        listing = self._listing
        if self._known is None:
            self._known = {}
        elif listing.exists() and listing.stat().st_nlink > 1:  # of a copy made of hard links
            atomic_write(listing, listing.read_bytes(), sync=False)
        sums = self._known.setdefault(name.casefold(), set())
        if digest not in sums or not listing.exists():
            sums.add(digest)
            with listing.open("a", encoding="ascii") as file:
                file.write(json.dumps({"file": name, "sha256": digest}) + "\n")


def check_free(path: Path, force: bool, setting: str | None = None) -> Path:
    """Refuses the path of a single file to write where something would be lost by it.

    Args:
        path (Path): the file.
        force (bool): whether it may be replaced.
        setting (str | None): the setting that names it. Default: None, for a positional argument.

    Returns:
        Path: the path.

    Raises:
        OutputError: it is there, unless ``force`` is given, is no regular file, or there is no
            folder for it.
    """
    named = OutputError.name_setting(setting, str(path)) if setting else str(path)
    if path.is_dir():
        raise OutputError(f"{named} is a folder", where=path, hint="name a file")
    if not path.parent.is_dir():
        raise OutputError(f"{named}: there is no folder {path.parent}", where=path)
    if path.exists() and not path.is_file():
        raise OutputError(f"{named} is no regular file", where=path, hint="name another")
    if os.path.lexists(path) and not force:
        hint = f"pass {OutputError.name_setting('force', True)} to overwrite it, or another name"
        raise OutputError(f"{named} exists", where=path, hint=hint)
    return path


def read_listing(folder: Path) -> Listing | None:
    """SHA-256 sums of the files that tools wrote to a folder, by name, in lower case.

    Returns:
        dict[str, set[str]] | None: None where there is no list; what isn't there any more may
        still be listed.
    """
    path = folder / LISTING
    known: Listing = {}
    try:
        if not _is_regular(path):
            return None
        _read_into(known, path)
    except OSError:
        return None
    with suppress(OSError):
        for part in folder.glob(f"{LISTING}.*"):
            with suppress(OSError):  # another process may just be gathering them
                _read_into(known, part)
    return known


def _is_regular(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _read_into(known: Listing, path: Path) -> None:
    if not _is_regular(path):
        return
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        with suppress(ValueError, RecursionError, TypeError, KeyError, AttributeError):
            entry = json.loads(line)
            known.setdefault(entry["file"].casefold(), set()).add(entry["sha256"])


def is_listed(path: Path, name: str, known: Listing) -> bool:
    """Whether a file is the tools', and holds what they wrote."""
    sums = known.get(name.casefold())
    try:
        if not sums or not _is_regular(path):
            return False
        return file_sha256(path) in sums
    except OSError:
        return False


def is_result(path: Path, listings: dict[Path, Listing | None]) -> bool:
    """Whether a tool wrote a file, by the lists of the folders that it lies in.

    Args:
        path (Path): the file.
        listings (dict): of folders that were looked at before; added to.
    """
    path = Path(os.path.realpath(path))
    for folder in path.parents:
        if folder not in listings:
            listings[folder] = read_listing(folder)
        known = listings[folder]
        if known and is_listed(path, path.relative_to(folder).as_posix(), known):
            return True
    return False


def fitting(stem: str, end: str = "", suffix: str = ".jpg") -> str:
    """A file's name without its suffix, cut to what file systems take.

    Args:
        stem (str): the name; where it is cut, a sum tells it from others that begin alike.
        end (str): what follows, such as a number. Default: nothing.
        suffix (str): the longest that the name gets. Default: ``'.jpg'``.
    """
    longest = LONGEST_NAME - len(suffix)
    if len(os.fsencode(stem + end)) <= longest:
        return stem + end
    end = f"~{hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]}{end}"
    return os.fsencode(stem)[: longest - len(end)].decode(errors="ignore") + end
