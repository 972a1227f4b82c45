"""Decoding every file of a data set, as training does, in several processes."""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from mmpvt.datasets.loading import LoadImageFromFile, LoadSegAnnotations
from mmpvt.engine.pixel_check import Depth, image_loader, loading_step
from mmpvt.errors import UserError
from mmpvt.utils.files import read_bytes
from mmpvt.utils.progress import progress

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
        channels: of the image as it is loaded, or None.
        depth: what is lost of its bits, or None.
    """

    digest: bytes | None
    shape: tuple[int, int] | None = None
    reason: str | None = None
    pixels: np.ndarray | None = None
    channels: int | None = None
    depth: Depth | None = None


class Loader(NamedTuple):
    """How a data set's files are loaded in training.

    Attributes:
        image: reads ``img_path``.
        labels: reads ``seg_map_path``, or None.
        fields: what the data set tells it, or None.
    """

    image: BaseTransform
    labels: LoadSegAnnotations | None = None
    fields: dict | None = None


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


def image_reader(dataset: dict) -> BaseTransform:
    """What reads a data set's images in training.

    Args:
        dataset (dict): its config.

    Raises:
        UserError: it can't be used.
    """
    pipeline = dataset.get("pipeline") or ()
    place = loading_step(pipeline)
    return LoadImageFromFile() if place is None else image_loader(pipeline[place])


def look(job: Job, loader: Loader) -> Seen:
    """Decodes an image, and its label map if it has one.

    Args:
        job (Job): the file.
        loader (Loader): reads both.

    Returns:
        Seen: what was seen.
    """
    try:
        digest = hashlib.blake2b(read_bytes(job.image), digest_size=16).digest()
    except (OSError, ValueError):
        digest = None
    try:
        image, labels = load(job, loader)
    except UserError as error:
        return Seen(digest, reason=str(error))
    pixels = None if labels is None else np.bincount(labels.ravel(), minlength=256)
    channels = image.shape[2] if image.ndim == 3 else 1
    depth = Depth.of(job.image, image)
    return Seen(digest, image.shape[:2], pixels=pixels, channels=channels, depth=depth)


def load(job: Job, loader: Loader) -> tuple[np.ndarray, np.ndarray | None]:
    """Loads an image, and its label map if it has one, as training does.

    Args:
        job (Job): the file.
        loader (Loader): reads both.

    Returns:
        tuple[np.ndarray, np.ndarray | None]: (height, width, 3), uint8, BGR, or what the config
        makes of it; and the label of each pixel, (height, width), uint8, 255 for none.

    Raises:
        UserError: one of them can't be used.
    """
    results = dict(img_path=job.image, seg_fields=[], **(loader.fields or {}))
    if job.shape:
        results.update(height=job.shape[0], width=job.shape[1])
    results = loader.image(results)
    if job.label_map is None:
        return results["img"], None
    results["seg_map_path"] = job.label_map
    return results["img"], loader.labels(results)["gt_seg_map"]
