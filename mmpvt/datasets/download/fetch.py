"""Data sets and weights, complete under their own names; ``.download`` holds what is incomplete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import torch
from rich.filesize import decimal as size

from mmpvt.checkpoint import convert, describe_incompatible_keys, load_checkpoint, unwrap
from mmpvt.datasets.download.archives import unpack
from mmpvt.datasets.download.catalog import RemoteFile
from mmpvt.errors import CheckpointMismatchError, DatasetError, DownloadError, OutputError
from mmpvt.models import PyramidVisionTransformer, PyramidVisionTransformerV2
from mmpvt.models.archs import find_variant
from mmpvt.utils.download import RetryPolicy, check_sha256, download
from mmpvt.utils.locking import LOCK, locked

INCOMPLETE = ".download"
RESERVE = 200_000_000  # bytes of a disk that are left free


def download_archives(
    archives: Sequence[RemoteFile],
    folder: Path,
    policy: RetryPolicy | None = None,
    keep_archives: bool = False,
) -> None:
    """Downloads and unpacks archives, one after the other.

    Args:
        archives (Sequence[RemoteFile]): each with the folder that it unpacks to.
        folder (Path): where to unpack them.
        policy (RetryPolicy | None): when to give up. Default: None, a ``RetryPolicy()``.
        keep_archives (bool): keep them in ``.download``. Default: False.

    Raises:
        DownloadError: an archive can't be downloaded.
        DatasetError: an archive is damaged, or the folder that it unpacks to exists, incomplete.
        OutputError: the disk is too small, or the folder can't be written to.
        UserError: another process downloads to the folder.
    """
    with _incomplete_files(folder) as temporary:
        missing = [archive for archive in archives if not (folder / archive.folder).exists()]
        for archive in archives:
            if archive not in missing:
                _count_files(archive, folder, "it is left as it is; move it to download all of it")
        _check_space(missing, folder, temporary, keep_archives)
        for archive in archives:
            path = temporary / archive.name
            unpacked = path.with_name(f"unpacked-{path.stem}")
            shutil.rmtree(unpacked, ignore_errors=True)  # of a process that was killed
            if archive in missing:
                _download(archive, path, missing, policy)
                unpack(path, unpacked)
                _count_files(archive, unpacked, f"{path} is another archive")
                (unpacked / archive.folder).rename(folder / archive.folder)
                shutil.rmtree(unpacked)
            if not keep_archives:
                path.unlink(missing_ok=True)
            print(f"{folder / archive.folder} has all its {sum(archive.files.values()):,} files")


def download_weights(
    weights: Sequence[RemoteFile],
    folder: Path,
    policy: RetryPolicy | None = None,
) -> None:
    """Downloads published weights, and compares each file with its checksum or its model.

    Args:
        weights (Sequence[RemoteFile]): ImageNet weights, named after the variants, or detectors.
        folder (Path): where to put them.
        policy (RetryPolicy | None): when to give up. Default: None, a ``RetryPolicy()``.

    Raises:
        DownloadError: a file can't be downloaded.
        CheckpointError: it isn't the variant's weights.
        OutputError: the folder can't be written to.
        UserError: another process downloads to the folder.
    """
    with _incomplete_files(folder) as temporary:
        missing = [file for file in weights if not (folder / file.name).is_file()]
        for file in weights:
            if file in missing:
                path = temporary / file.name
                _download(file, path, missing, policy, partial(_check_weights, file=file))
                path.replace(folder / file.name)
            print(f"{folder / file.name} is complete")


@contextmanager
def _incomplete_files(folder: Path) -> Iterator[Path]:
    """The folder of what is incomplete, locked; it goes once it is empty."""
    temporary = folder / INCOMPLETE
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        with locked(temporary, "dir"):
            try:
                yield temporary
            finally:
                with suppress(OSError):  # not empty
                    (temporary / LOCK).unlink()
                    temporary.rmdir()
    except OSError as error:
        raise OutputError(
            f"{error.filename or folder} can't be written to ({error.strerror or error})",
            where=folder,
            instead=("dir", "another folder"),
        ) from error


def _download(
    file: RemoteFile,
    path: Path,
    missing: Sequence[RemoteFile],
    policy: RetryPolicy | None,
    verify: Callable[[Path], None] | None = None,
) -> None:
    if path.is_file() and file.size in (None, path.stat().st_size):
        return  # by an earlier process
    rest = missing[missing.index(file) + 1 :]
    left = f" ({size(sum(other.size or 0 for other in rest))})" if file.size else ""
    print(f"downloading {file.url}" + (f", then {len(rest)} more{left}" if rest else ""))
    try:
        download(file.url, path, size=file.size, sha1=file.sha1, verify=verify, policy=policy)
    except DownloadError as error:
        error.instead = ("mirror", "URL")
        raise
    verified = "it holds its model's weights"
    if file.sha1 or file.sha256:
        verified = f"its SHA-{1 if file.sha1 else 256} is the published one"
    print(f"{file.name}: {size(path.stat().st_size)}, {verified}")


def _count_files(archive: RemoteFile, folder: Path, hint: str) -> None:
    for name, expected in archive.files.items():
        found = sum(len(files) for _, _, files in os.walk(folder / name))
        if found < expected:
            what = f"{folder / name} holds {found:,} of {expected:,} files"
            raise DatasetError(what, where=folder / name, hint=hint)


def _check_space(
    missing: Sequence[RemoteFile], folder: Path, temporary: Path, keep_archives: bool
) -> None:
    """Room is needed for all that is unpacked, and for the largest archive, or all of them."""
    to_come = []
    for file in missing:
        paths = (temporary / file.name, temporary / f"{file.name}.part")
        to_come.append((file.size or 0) - sum(p.stat().st_size for p in paths if p.exists()))
    needed = sum(to_come) if keep_archives else max(to_come, default=0)
    needed += sum(file.unpacked_size for file in missing)
    free = shutil.disk_usage(folder).free
    if missing and free < needed + RESERVE:
        raise OutputError(
            f"{folder} has {size(free)} free, and {', '.join(file.name for file in missing)} take "
            f"{size(needed)} while they are unpacked",
            where=folder,
            hint="make room",
            instead=("dir", "another folder"),
        )


def _check_weights(path: Path, file: RemoteFile) -> None:
    if file.sha256:
        check_sha256(path, file.sha256, file.url)
        return
    variant = find_variant(Path(file.name).stem)
    kind = PyramidVisionTransformer if variant.version == 1 else PyramidVisionTransformerV2
    with torch.device("meta"):
        target = kind(variant.arch).state_dict()
    weights = convert(unwrap(load_checkpoint(path)), target)
    if problem := describe_incompatible_keys(weights, target):
        raise CheckpointMismatchError(
            f"what {file.url} gives are not {variant.full_name}'s weights: {problem}",
            where=file.url,
        )
