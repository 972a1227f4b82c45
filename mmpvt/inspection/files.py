"""Decoding every file of a data set, as training does, in several processes."""

from __future__ import annotations

import functools
import hashlib
import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from mmpvt.datasets.loading import FileProblem, LoadImageFromFile, LoadSegAnnotations
from mmpvt.datasets.pipelines import build_image_loader, loading_step
from mmpvt.engine.checks.channels import LostBits
from mmpvt.engine.checks.label_maps import label_map_fields, label_map_loader
from mmpvt.engine.dataset_config import DatasetConfig
from mmpvt.errors import UserError
from mmpvt.utils.files import read_bytes
from mmpvt.utils.progress import progress

CHUNK = 8  # files that a process takes at a time


class SampleFiles(NamedTuple):
    """The files of a sample."""

    image: str  # its path
    shape: tuple[int, int] | None = None  # height and width that its annotations give
    label_map: str | None = None  # its path


class FileInfo(NamedTuple):
    """What is known of a sample's files once they are decoded."""

    digest: bytes | None  # of the image file's bytes; None where it is missing
    shape: tuple[int, int] | None = None  # height and width in pixels; None where it can't be used
    reason: str | None = None  # what is wrong with it, a sentence
    problem: FileProblem | None = None  # the kind of problem that it is
    pixels: np.ndarray | None = None  # how many of each label, (256,), int64
    channels: int | None = None  # of the image as it is loaded
    lost_bits: LostBits | None = None
    depth: str | None = None  # the type of its values, where they are loaded as they are


class SampleLoader:
    """Loads a data set's images and label maps as training does.

    Args:
        dataset (DatasetConfig): of the data set.

    Raises:
        ConfigError: the transform that reads its images can't be used.
    """

    def __init__(self, dataset: DatasetConfig) -> None:
        place = loading_step(dataset.pipeline)
        self._image: BaseTransform = (
            LoadImageFromFile() if place is None else build_image_loader(dataset.pipeline[place])
        )
        self._labels: LoadSegAnnotations | None = None
        self._fields: dict = {}
        if dataset.is_segmentation:
            self._labels = label_map_loader(dataset, num_classes=len(dataset.classes) or None)
            self._fields = label_map_fields(dataset)

    def depth(self, image: np.ndarray) -> str | None:
        """The type of a loaded image's values; None where they are made values from 0 to 255."""
        return self._image.depth(image) if isinstance(self._image, LoadImageFromFile) else None

    def load(self, files: SampleFiles) -> tuple[np.ndarray, np.ndarray | None]:
        """Loads an image, and its label map if it has one.

        Returns:
            tuple[np.ndarray, np.ndarray | None]: (height, width, 3), uint8, BGR, or what the config
            makes of it; and the label of each pixel, (height, width), uint8, 255 for none.

        Raises:
            UserError: one of them can't be used.
        """
        results = dict(img_path=files.image, seg_fields=[], **self._fields)
        if files.shape:
            results.update(height=files.shape[0], width=files.shape[1])
        results = self._image(results)
        if files.label_map is None or self._labels is None:
            return results["img"], None
        results["seg_map_path"] = files.label_map
        return results["img"], self._labels(results)["gt_seg_map"]


def inspect_files(
    what: str, samples: Sequence[SampleFiles], loader: SampleLoader, workers: int
) -> list[FileInfo]:
    """Decodes samples' files in several processes, and shows the progress.

    Args:
        what (str): the progress bar's title.
        samples (Sequence[SampleFiles]): to decode.
        loader (SampleLoader): decodes them as training does.
        workers (int): processes; of 0 and 1, this one.

    Returns:
        list[FileInfo]: by sample. A file that can't be used has a ``reason``.
    """
    infos = []
    with progress(what, len(samples)) as advance, ExitStack() as stack:
        inspected: Iterator[FileInfo] = (_inspect(files, loader) for files in samples)
        if workers > 1:
            methods = multiprocessing.get_all_start_methods()
            context = multiprocessing.get_context("fork" if "fork" in methods else None)
            pool = context.Pool(workers, initializer=cv2.setNumThreads, initargs=(0,))
            one = functools.partial(_inspect, loader=loader)
            inspected = stack.enter_context(pool).imap(one, samples, chunksize=CHUNK)
        for info in inspected:
            infos.append(info)
            advance(len(infos))
    return infos


def _inspect(files: SampleFiles, loader: SampleLoader) -> FileInfo:
    try:
        digest = hashlib.blake2b(read_bytes(files.image), digest_size=16).digest()
    except (OSError, ValueError):
        digest = None
    try:
        image, labels = loader.load(files)
    except UserError as error:
        return FileInfo(digest, reason=str(error), problem=getattr(error, "problem", None))
    return FileInfo(
        digest,
        image.shape[:2],
        pixels=None if labels is None else np.bincount(labels.ravel(), minlength=256),
        channels=image.shape[2] if image.ndim == 3 else 1,
        lost_bits=LostBits.of(files.image, image),
        depth=loader.depth(image),
    )
