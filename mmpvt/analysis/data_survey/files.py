"""Decoding every file of a data set, as training does, in several processes."""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from mmpvt.datasets.loading import LoadImageFromFile, LoadSegAnnotations
from mmpvt.errors import UserError
from mmpvt.files import read_bytes
from mmpvt.progress import progress

CHUNK = 8  # files that a process takes at a time


class Job(NamedTuple):
    """A file to look at.

    Attributes:
        image: its path.
        shape: height and width that its annotations give, or None.
        label_map: the path of its label map, or None.
    """

    image: str
    shape: tuple[int, int] | None = None
    label_map: str | None = None


class Seen(NamedTuple):
    """What was seen of a file.

    Attributes:
        digest: of the image file's bytes, or None where it is missing.
        shape: height and width in pixels, or None where it can't be used.
        reason: what is wrong with it, or None.
        pixels: how many of each label, (256,), int64, or None.
    """

    digest: bytes | None
    shape: tuple[int, int] | None = None
    reason: str | None = None
    pixels: np.ndarray | None = None


def look_at_all(
    what: str, jobs: Sequence[Job], look: Callable[[Job], Seen], workers: int
) -> list[Seen]:
    """Looks at files, showing how far it has come.

    Args:
        what (str): said beside the progress.
        jobs (Sequence[Job]): the files.
        look (Callable): :func:`look`, with its options.
        workers (int): processes.

    Returns:
        list[Seen]: one a file, in the same order.
    """
    seen = []
    with progress(what, len(jobs)) as advance:
        if workers == 1:
            for job in jobs:
                seen.append(look(job))
                advance(len(seen))
            return seen
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("fork" if "fork" in methods else None)
        with context.Pool(workers, initializer=cv2.setNumThreads, initargs=(0,)) as pool:
            for one in pool.imap(look, jobs, chunksize=CHUNK):
                seen.append(one)
                advance(len(seen))
    return seen


def look(job: Job, num_classes: int | None = None, reduce_zero_label: bool = False) -> Seen:
    """Decodes an image, and its label map if it has one.

    Args:
        job (Job): the file.
        num_classes (int | None): labels from there on are none. Default: None.
        reduce_zero_label (bool): whether 0 stands for no class, and 1 for the first.

    Returns:
        Seen: what was seen.
    """
    try:
        digest = hashlib.blake2b(read_bytes(job.image), digest_size=16).digest()
    except (OSError, ValueError):
        digest = None
    try:
        image, labels = load(job, num_classes, reduce_zero_label)
    except UserError as error:
        return Seen(digest, reason=error.sentence)
    pixels = None if labels is None else np.bincount(labels.ravel(), minlength=256)
    return Seen(digest, image.shape[:2], pixels=pixels)


def load(
    job: Job, num_classes: int | None = None, reduce_zero_label: bool = False
) -> tuple[np.ndarray, np.ndarray | None]:
    """Loads an image, and its label map if it has one, as training does.

    Args:
        job (Job): the file.
        num_classes (int | None): labels from there on are none. Default: None.
        reduce_zero_label (bool): whether 0 stands for no class, and 1 for the first.

    Returns:
        tuple[np.ndarray, np.ndarray | None]: (height, width, 3), uint8, BGR; and the label of
        each pixel, (height, width), uint8, 255 for none.

    Raises:
        UserError: one of them can't be used.
    """
    results = dict(img_path=job.image, seg_fields=[], reduce_zero_label=reduce_zero_label)
    if job.shape:
        results.update(height=job.shape[0], width=job.shape[1])
    results = _image_loader().transform(results)
    if job.label_map is None:
        return results["img"], None
    results["seg_map_path"] = job.label_map
    return results["img"], _map_loader(num_classes).transform(results)["gt_seg_map"]


@functools.cache
def _image_loader() -> LoadImageFromFile:
    return LoadImageFromFile()


@functools.cache
def _map_loader(num_classes: int | None) -> LoadSegAnnotations:
    return LoadSegAnnotations(num_classes=num_classes)
