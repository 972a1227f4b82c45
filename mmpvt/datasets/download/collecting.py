"""Whole data sets and weights from files that are fetched and unpacked one after the other.

A folder or file under its own name is whole; what is on its way lies in ``.getting`` beside it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from mmpvt.checkpoint import convert, describe_incompatible_keys, load_checkpoint, unwrap
from mmpvt.datasets.download.archives import content_size, unpack
from mmpvt.datasets.download.sources import Source
from mmpvt.datasets.download.transfer import Patience, fetch
from mmpvt.errors import UserError
from mmpvt.models import PyramidVisionTransformer, PyramidVisionTransformerV2
from mmpvt.models.archs import find_variant
from mmpvt.utils.progress import progress, size

ON_ITS_WAY = ".getting"
SPARE = 200_000_000  # bytes of a disk that are left free


def get_archives(
    sources: Sequence[Source],
    folder: Path,
    patience: Patience,
    keep_archives: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Fetches archives and unpacks them, each to the folder that its source names.

    Args:
        sources (Sequence[Source]): the archives.
        folder (Path): what they are unpacked in.
        patience (Patience): how long to go on where nothing comes.
        keep_archives (bool): leave them in the folder ``.getting`` once they are unpacked.
        say (Callable): is told what was done, and what is left.

    Raises:
        UserError: the disk is too small, a file doesn't come or is a wrong one, what is there
            already is no whole data set, or another process is at work in the folder.
    """
    with _alone(folder) as temporary:
        missing = []
        for source in sources:
            if (folder / source.folder).exists():
                _check_whole(source, folder)
                _clear(source, temporary, keep_archives)
                say(f"{folder / source.folder} is there, with all its {_count(source)} files")
            else:
                missing.append(source)
        _check_space(missing, folder, temporary, keep_archives)
        for place, source in enumerate(missing):
            archive = temporary / source.name
            _fetch(source, archive, missing[place + 1 :], patience, say)
            _unpack(source, archive, folder, say)
            _clear(source, temporary, keep_archives)


def get_weights(
    sources: Sequence[Source],
    folder: Path,
    patience: Patience,
    say: Callable[[str], None] = print,
) -> None:
    """Fetches published ImageNet weights, and compares each file with the model that it is of.

    Args:
        sources (Sequence[Source]): the files, named after the backbones.
        folder (Path): where to put them.
        patience (Patience): how long to go on where nothing comes.
        say (Callable): is told what was done, and what is left.

    Raises:
        UserError: a file doesn't come, or holds anything but its backbone's weights.
    """
    with _alone(folder) as temporary:
        missing = [source for source in sources if not (folder / source.name).is_file()]
        for source in sources:
            if source not in missing:
                say(f"{folder / source.name} is there")
        for place, source in enumerate(missing):
            fetched = temporary / source.name
            rest = missing[place + 1 :]
            _fetch(source, fetched, rest, patience, say, lambda path, of=source: _fits(path, of))
            fetched.replace(folder / source.name)


@contextmanager
def _alone(folder: Path) -> Iterator[Path]:
    """The folder for what is on its way, in which no other process is at work."""
    temporary = folder / ON_ITS_WAY
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        with FileLock(temporary / "lock", timeout=0):
            try:
                yield temporary
            finally:
                (temporary / "lock").unlink(missing_ok=True)
                if not any(temporary.iterdir()):
                    temporary.rmdir()
    except Timeout as error:
        raise UserError(f"another process is getting files to {folder}: wait for it") from error
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} can't be written to ({error.strerror or error}): pass "
            "another folder with --dir"
        ) from error


def _fetch(
    source: Source,
    target: Path,
    rest: Sequence[Source],
    patience: Patience,
    say: Callable[[str], None],
    verify: Callable[[Path], None] = lambda path: None,
) -> None:
    if target.is_file() and source.size in (None, target.stat().st_size):
        return
    left = sum(other.size or 0 for other in rest)
    after = f", then {len(rest)} more ({size(left)})" if left else f", then {len(rest)} more"
    say(f"downloading {source.address}" + (after if rest else ""))
    fetch(source, target, patience, verify)
    how = "its SHA-1 is the published one" if source.sha1 else "it holds its model's weights"
    say(f"{source.name}: {size(target.stat().st_size)}, {how}")


def _unpack(source: Source, archive: Path, folder: Path, say: Callable[[str], None]) -> None:
    temporary = _unpacked(archive)
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was stopped
    total = content_size(archive)
    with progress(f"unpacking {source.name}", total, in_bytes=True) as advance:
        unpack(archive, temporary, advance)
    _check_whole(source, temporary, f"the archive {archive} is another one: ")
    (temporary / source.folder).rename(folder / source.folder)
    say(f"{folder / source.folder}: {_count(source)} files")


def _unpacked(archive: Path) -> Path:
    return archive.with_name(f"unpacked-{archive.stem}")


def _clear(source: Source, temporary: Path, keep_archives: bool) -> None:
    """Removes what was needed to get a folder that is whole now."""
    archive = temporary / source.name
    shutil.rmtree(_unpacked(archive), ignore_errors=True)
    if not keep_archives:
        archive.unlink(missing_ok=True)


def _count(source: Source) -> str:
    return f"{sum(source.files.values()):,}"


def _check_whole(source: Source, folder: Path, what: str = "") -> None:
    for name, wanted in source.files.items():
        found = sum(len(files) for _, _, files in os.walk(folder / name))
        if found < wanted:
            raise UserError(
                f"{what}{folder / name} holds {found:,} of {wanted:,} files"
                + ("" if what else ": it is left as it is; move it away to get all of it anew")
            )


def _check_space(
    missing: Sequence[Source], folder: Path, temporary: Path, keep_archives: bool
) -> None:
    """One archive at a time lies beside what was unpacked, or all of them, if they are kept."""
    left = [max(0, (source.size or 0) - _there(temporary / source.name)) for source in missing]
    archives = sum(left) if keep_archives else max(left, default=0)
    needed = archives + sum(source.unpacked for source in missing)
    free = shutil.disk_usage(folder).free
    if missing and free < needed + SPARE:
        names = ", ".join(source.name for source in missing)
        raise UserError(
            f"{folder} has {size(free)} free, and {names} take {size(needed)} while they are "
            "unpacked: make room, or pass another folder with --dir"
        )


def _there(target: Path) -> int:
    """Bytes of a file that are there, of the whole one or of its beginning."""
    found = (path for path in (target, target.with_name(f"{target.name}.part")) if path.exists())
    return sum(path.stat().st_size for path in found)


def _fits(path: Path, source: Source) -> None:
    """Raises what keeps a file from being a published backbone's weights."""
    variant = find_variant(Path(source.name).stem)
    kind = PyramidVisionTransformer if variant.version == 1 else PyramidVisionTransformerV2
    with torch.device("meta"):
        target = kind(variant.arch).state_dict()
    misfit = describe_incompatible_keys(convert(unwrap(load_checkpoint(path)), target), target)
    if misfit:
        raise UserError(
            f"what {source.address} gives are not {Path(source.name).stem}'s weights: {misfit}"
        )
