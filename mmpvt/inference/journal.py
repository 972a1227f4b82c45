"""The lines of a run that grow as images are done, in one process or in several at once.

A single process writes to ``predictions.jsonl.part``, in the images' order. Each of several has a
file of its own, ``predictions.RUN.INDEX.jsonl.part``, and what was done before they began stands in
``predictions.jsonl.part``, which none of them changes: so all of them divide the same images. The
one that finds that all is done writes ``predictions.jsonl``.

Assumed of a file system that machines share: POSIX locks between them, and that a file which is
closed on one is seen by another that opens it then (close-to-open, as NFS has it).
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from mmpvt.engine.launch import Share
from mmpvt.errors import LaunchError, OutputError
from mmpvt.inference.sources import Source
from mmpvt.utils.atomic import PART, replacing
from mmpvt.utils.files import parse_json
from mmpvt.utils.locking import RunLock
from mmpvt.utils.outputs import Outputs
from mmpvt.utils.text import to_json

LINES, SETTINGS = "predictions.jsonl", "run.json"
JOURNAL = re.compile(r"predictions\.[0-9a-f]{8}\.\d+\.jsonl\.part")


class _Line(msgspec.Struct):
    file_name: str
    image_id: int
    error: str | None = None


class _Run(msgspec.Struct):
    """What the processes of a run tell each other through the lock file."""

    name: str  # of its journals
    job: str
    attempt: str
    count: int
    images: str  # a sum over their names
    joined: list[int] = []  # processes that have begun
    ended: list[int] = []  # those that have done their part
    complete: bool = False


@dataclass
class _Found:
    """Lines of journals, in the images' order.

    Attributes:
        places: of each line, the image's index, the journal's and the line's offset.
        done: indices of images that have one.
        failed: those of them that have an error in it.
        is_in_order: whether the one journal holds these lines and, perhaps, the start of another.
        end: of the last line in it, in bytes.
    """

    places: list[tuple[int, int, int]] = field(default_factory=list)
    done: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    is_in_order: bool = True
    end: int = 0


class Journal:
    """The lines of a run, which become ``predictions.jsonl`` at the end.

    Args:
        folder (Outputs): of results.
        settings (dict): of the run.
        sources (Sequence[Source]): all images, the same in all processes.
        share (Share): this process' part.
        resume (bool): whether lines of an earlier run stay; those of an earlier attempt of the same
            job, which was restarted, do in any case.

    Attributes:
        done (set[int]): indices of the images that an earlier run has done.
        todo (list[int]): indices of those that this process does.
        complete (bool): whether this process has done them.
        missing (int): of the last live process, images that none has done, as some have ended
            before they were done.
        awaited (int): the same, where some processes have yet to begin.

    Raises:
        OutputError: another run writes to the folder, the earlier run was one of other settings, or
            a file can't be written.
        LaunchError: the processes were given different images.
    """

    def __init__(
        self,
        folder: Outputs,
        settings: dict,
        sources: Sequence[Source],
        share: Share,
        resume: bool,
    ) -> None:
        self.folder, self.share = folder, share
        self.path = self._base = folder.folder / f"{LINES}{PART}"
        self.complete, self.missing, self.awaited = False, 0, 0
        self._index = {(s.image_id, s.file_name): i for i, s in enumerate(sources)}
        self._names = {source.file_name for source in sources}
        self._ids = {source.image_id for source in sources}
        self._in_order, self._last = True, -1
        self._closed: _Found | None = None
        try:
            folder.folder.mkdir(parents=True, exist_ok=True)
            self._lock = RunLock(folder.folder, folder.setting)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            if share.count > 1 and not self._lock.works:
                raise LaunchError(
                    f"several processes can't share {folder.folder}, which can't be locked",
                    hint="name a folder on another file system, or start one process",
                )
            with self._lock.mutex():
                self._join(settings, resume)
            self._begin()
        except OSError as error:
            self._lock.close()
            raise self._unwritable(error) from error
        except BaseException:
            self._lock.close()
            raise

    def add(self, line: dict) -> None:
        """Adds an image's line, which is in the file when this returns."""
        index = self._index[line["image_id"], line["file_name"]]
        self._in_order &= index > self._last
        self._last = index
        try:
            self._file.write(msgspec.json.encode(line) + b"\n")
            self._file.flush()
        except OSError as error:
            raise self._unwritable(error) from error

    @contextmanager
    def closed(self) -> Iterator[bool]:
        """Closes the file; afterwards, of a run that is complete, the lines have their name.

        Yields:
            bool: whether this process is to write, in the block, what comes of :meth:`lines`: it is
            the only one, or all images are done. No other process is in such a block.

        Raises:
            OutputError: a restart has taken over this process' part, or a file can't be written.
        """
        with suppress(OSError):  # of a full disk, which was said
            self._file.close()
        try:
            with self._lock.mutex():
                is_last = self.share.count == 1 or self._gather()
                yield is_last
                if self.complete and is_last:
                    self._finish()
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            self._lock.close()

    def lines(self) -> Iterator[bytes]:
        """What was written, line by line, in the images' order."""
        yield from _read_lines([self.path], self._all())

    def predicted(self) -> set[int]:
        """Indices of the images that were predicted on, by now."""
        found = self._all()
        return found.done - found.failed

    def _join(self, settings: dict, resume: bool) -> None:
        """Begins a run, or joins that of other processes."""
        run, share = self._read_run(), self.share
        images = hashlib.sha256(repr(list(self._index)).encode()).hexdigest()
        theirs = (run.job, run.attempt, run.count) if run else None
        if (
            run
            and theirs == (share.job, share.attempt, share.count)
            and share.job
            and share.index not in run.joined
        ):
            self._check(settings)
            if run.images != images:
                raise LaunchError(
                    f"the processes of this run were given different images: {len(self._index)} "
                    f"to process {share.index}",
                    hint="let no files come or go, then start them anew",
                )
            self._run = run
        else:
            restarted = bool(run and share.job and run.job == share.job)
            if run and restarted and run.complete and run.attempt == share.attempt:
                restarted = False  # one job runs the command again
            if not restarted and not self._lock.leave():
                raise self._lock.in_use()
            journals = sorted(
                path for path in self.folder.folder.iterdir() if JOURNAL.fullmatch(path.name)
            )
            if run:  # a folder's list may be older than what another machine wrote
                known = (self._journal(run.name, i) for i in run.joined)
                journals += [path for path in known if path.exists() and path not in journals]
            self.folder.gather()
            if resume or restarted:
                self._check(settings)
                self._take_over(journals)
            else:
                self._base.unlink(missing_ok=True)
            for path in journals:
                path.unlink()
            self._base.touch()
            self.folder.write(SETTINGS, to_json(settings))
            self._run = _Run(secrets.token_hex(4), share.job, share.attempt, share.count, images)
        self._run.joined.append(share.index)
        self._write_run(self._run)
        self._lock.join()

    def _begin(self) -> None:
        """Divides the images and opens this process' file."""
        count, index = self.share.count, self.share.index
        try:
            found = self._find([self._base])
        except FileNotFoundError:  # the others have done all and found nothing left for this one
            self.done = set(self._index.values())
            self.todo: list[int] = []
        else:
            self.done = found.done
            self._in_order, self._last = found.is_in_order, max(found.done, default=-1)
            left = (i for i in self._index.values() if i not in self.done)
            self.todo = list(left)[index::count]
        if count > 1:
            self.path = self._journal(self._run.name, index)
            self.folder.share(f"{self._run.name}.{index}")
        self._file = self.path.open("ab")

    def _gather(self) -> bool:
        """Whether all images are done by now; if so, all lines are in one file then."""
        run = self._read_run()
        if run is None or run.name != self._run.name:
            if self.complete:
                raise OutputError(
                    f"{self.folder.folder} was taken over by a restart of process "
                    f"{self.share.index}'s run",
                    where=self.folder.folder,
                )
            return False
        if run.complete:
            self.path.unlink(missing_ok=True)
            self.folder.gather()
            return False
        if self.complete:
            run.ended.append(self.share.index)
            self._write_run(run)
        if not self._lock.leave() and len(run.ended) < run.count:
            return False
        paths = [self._base, *(self._journal(run.name, i) for i in run.joined)]
        found = self._find(paths)
        if missing := len(self._index) - len(found.done):
            if len(run.joined) == run.count:
                self.missing = missing
            else:
                self.awaited = missing
            return False
        self._rewrite(paths, found)
        for path in paths[1:]:
            path.unlink()
        self.folder.gather()
        self.path, self._run = self._base, run
        return True

    def _finish(self) -> None:
        if not self._in_order:
            self._rewrite([self._base], self._all())
        self.path = self.folder.adopt(LINES, self._base)
        self._run.complete = True
        self._write_run(self._run)

    def _all(self) -> _Found:
        """All lines, once this process' file is closed; they are in one file then."""
        if self._closed is None:
            self._closed = self._find([self.path])
        return self._closed

    def _find(self, paths: Sequence[Path]) -> _Found:
        """Lines that are complete, each image's first, and those of images that aren't given,
        whose numbers no others may have now."""
        found, last = _Found(is_in_order=len(paths) == 1), -1
        for number, path in enumerate(paths):
            found.end = 0
            with path.open("rb") as file:
                for text in file:
                    try:
                        line = msgspec.json.decode(text, type=_Line)
                    except msgspec.MsgspecError:
                        break
                    if not text.endswith(b"\n"):
                        break
                    index = self._index.get((line.image_id, line.file_name), -1)
                    is_given = line.file_name in self._names
                    is_other = index < 0 and (is_given or line.image_id in self._ids)
                    if is_other and not is_given and line.error is None:
                        raise OutputError(
                            f"the run in {self.folder.folder} has results of {line.file_name}, "
                            f"which isn't given now, and its image_id {line.image_id} is another's",
                            setting="resume",
                            hint="give it, too, or name another folder",
                        )
                    if index in found.done or is_other:
                        found.is_in_order = False  # another number: files came or went
                    else:
                        found.is_in_order &= index > last or index == last == -1
                        found.places.append((index, number, found.end))
                        last = index
                        if index >= 0:
                            found.done.add(index)
                        if line.error is not None:
                            found.failed.add(index)
                    found.end += len(text)
        found.places.sort()
        return found

    def _take_over(self, journals: list[Path]) -> None:
        """Has all lines of an earlier run in one file."""
        paths = [path for path in (self._base, *journals) if path.exists()]
        if not paths and (finished := self.folder.folder / LINES).exists():
            paths = [finished]
        found = self._find(paths)
        if paths == [self._base] and found.is_in_order:
            os.truncate(self._base, found.end)
        elif paths:
            self._rewrite(paths, found)

    def _rewrite(self, paths: Sequence[Path], found: _Found) -> None:
        with replacing(self._base) as part, part.open("xb") as file:
            file.writelines(_read_lines(paths, found))

    def _check(self, settings: dict) -> None:
        path = self.folder.folder / SETTINGS
        if not path.is_file():
            return  # there is nothing to resume
        before: object = None
        with suppress(ValueError):  # of a damaged file
            before = parse_json(path.read_bytes())
        if before != settings:
            run = f"the run in {self.folder.folder}"
            if not isinstance(before, dict) or not settings.keys() <= before.keys():
                what = f"{run} is of a version that didn't record all that determines predictions"
            else:
                other = next((key for key in settings if before[key] != settings[key]), "version")
                name = other.removesuffix("_sha256")
                what = f"the {name} has changed since {run}"
                if name == other:
                    what = f"{run} had another {name}: {before.get(name)}"
            raise OutputError(
                what,
                setting="resume",
                hint="name another folder, or run it anew",
            )

    def _read_run(self) -> _Run | None:
        try:
            return msgspec.json.decode(self._lock.read().partition(b"\n")[2], type=_Run)
        except msgspec.MsgspecError:
            return None

    def _write_run(self, run: _Run) -> None:
        """Keeps what the processes share behind the machine and process that hold the folder."""
        holder = f"{platform.node()} {os.getpid()}\n".encode()
        self._lock.write(holder + msgspec.json.encode(run))

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(f"{self.path} can't be written ({error.strerror})", where=self.path)

    def _journal(self, name: str, index: int) -> Path:
        return self.folder.folder / f"predictions.{name}.{index}.jsonl{PART}"


def _read_lines(paths: Sequence[Path], found: _Found) -> Iterator[bytes]:
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in paths]
        for _, number, offset in found.places:
            files[number].seek(offset)
            yield files[number].readline()
