"""From an image to what a model reads, by the steps of its config's test data set."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from mmcv.transforms import BaseTransform, Compose
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from PIL import Image, UnidentifiedImageError

from mmpvt.datasets.loading import LoadImageFromFile
from mmpvt.datasets.pipelines import build_image_loader, loading_step, transform_name
from mmpvt.engine.checks.channels import channel_mismatch
from mmpvt.engine.config_parts import iter_datasets
from mmpvt.errors import BadFileError, UserError
from mmpvt.utils.files import check_regular

MAX_PIXELS = 2 * Image.MAX_IMAGE_PIXELS  # 179 million: from there on Pillow, too, sees an attack


class TestPipeline:
    """The test data set's transforms, but for those that read annotations.

    mmdet's and mmseg's own inference functions build theirs at every call, take what is left of a
    truncated file for the image, and mmseg's reads ``test_pipeline`` where ``tools/test.py`` takes
    ``test_dataloader``'s, which need not be the same.

    Args:
        config (Config): of an experiment.
        max_pixels (int): an image of more is refused before it is decoded. Default: 179 million,
            as Pillow does.

    Attributes:
        reader (BaseTransform): what decodes image files.

    Raises:
        UserError: the config has no test data set, or that doesn't read images from files.
    """

    __test__ = False  # to pytest

    def __init__(self, config: Config, max_pixels: int = MAX_PIXELS) -> None:
        self.max_pixels = max_pixels
        steps = [
            ConfigDict(step)
            for step in _dataset(config).get("pipeline", ())
            if not transform_name(step).endswith("Annotations")
        ]
        place = loading_step(steps)
        if place is None:
            names = ", ".join(map(transform_name, steps))
            raise UserError(
                f"the config's test pipeline has no LoadImageFromFile, but {names or 'nothing'}: "
                "only models that read single images from files can predict"
            )
        self._config = config
        self._misfits: dict[int, str | None] = {}
        with DefaultScope.overwrite_default_scope(config.get("default_scope", "mmdet")):
            self.reader = build_image_loader(steps[place])
            self._transform = Compose(steps[:place] + steps[place + 1 :])

    def load(self, path: str | os.PathLike) -> np.ndarray:
        """Decodes an image file as the config has its images loaded; see :func:`read_image`."""
        return read_image(path, self.reader, self.max_pixels)

    def prepare(self, image: np.ndarray, path: str = "") -> dict:
        """What the model's data preprocessor takes for an image.

        Args:
            image (np.ndarray): as :meth:`load` gives it.
            path (str): its file, kept beside it. Default: none.

        Returns:
            dict: ``inputs``, a (channels, height, width) tensor, and ``data_samples``, one of
            MMDetection or MMSegmentation.

        Raises:
            UserError: the array is no such image, can't be resized as the config says, or has other
                channels than the model takes.
        """
        check_array(image)
        results = dict(img=image, img_path=str(path), img_id=0)
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        try:
            data = self._transform(results)
        except (cv2.error, ZeroDivisionError, MemoryError) as error:
            size = "x".join(map(str, image.shape[:2]))
            raise UserError(
                f"{path or 'the image'}, {size} pixels, can't be resized as the config says"
            ) from error
        channels = len(data["inputs"])
        if channels not in self._misfits:
            self._misfits[channels] = channel_mismatch(channels, self._config, trained=True)
        if reason := self._misfits[channels]:
            raise UserError(f"{path or 'the image'} is an image of {reason}")
        return data


def read_image(
    path: str | os.PathLike,
    reader: BaseTransform | None = None,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decodes an image file, turned as its EXIF tag says.

    Args:
        path (str | PathLike): the file, of any format that OpenCV reads.
        reader (BaseTransform | None): what decodes it. Default: one without options.
        max_pixels (int): an image of more is refused before it is decoded. Default: 179 million.

    Returns:
        np.ndarray: (height, width, channels) or, of one channel, (height, width); BGR and uint8
            unless the reader says otherwise.

    Raises:
        UserError: it is missing, no regular file, empty, truncated, of another kind or too large.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder, and an image is asked for")
    try:
        check_regular(path)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        reason = "there is no such file"
        if isinstance(error, OSError) and error.errno != errno.ENOENT:
            reason = error.strerror  # a link to itself, say
        raise UserError(f"no image at {path}: {reason}") from error
    check_size(path, max_pixels)
    try:
        return (reader or LoadImageFromFile())(dict(img_path=str(path)))["img"]
    except BadFileError as error:  # its hint speaks of annotations
        raise BadFileError(error.what, problem=error.problem, where=path) from error
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{path} takes more memory than there is") from error
    except Exception as error:
        if isinstance(reader, LoadImageFromFile):
            raise
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise UserError(f"{path} can't be read as an image: {reason}") from error


def check_array(image: np.ndarray) -> np.ndarray:
    """The array itself.

    Raises:
        UserError: it is no (height, width, channels) or (height, width) image.
    """
    if not isinstance(image, np.ndarray) or image.ndim not in (2, 3):
        found = getattr(image, "shape", type(image).__name__)
        raise UserError(
            "an image is an array of (height, width, channels), BGR where they are three, not "
            f"{found}"
        )
    if not image.size:
        raise UserError("the image has no pixels")
    return image


def check_size(path: Path, max_pixels: int) -> None:
    """Looks at an image's size without decoding it.

    Raises:
        UserError: it has more pixels than ``max_pixels``.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        raise UserError(f"{path} is refused as an image: {str(error).split(',')[0]}") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return  # OpenCV may know the format; if it doesn't, it says so
    if width * height > max_pixels:
        raise UserError(
            f"{path} is too large an image: {width}x{height} pixels, and {max_pixels // 10**6} "
            "million are the limit"
        )


def _dataset(config: Config) -> ConfigDict:
    loader = config.get("test_dataloader") or config.get("val_dataloader") or {}
    dataset: Iterator[ConfigDict] = iter_datasets(loader.get("dataset"))
    first = next(dataset, None)
    if first is None:
        raise UserError("the config has no test_dataloader, which says how images are prepared")
    return first
