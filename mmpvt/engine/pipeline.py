"""What predicting, exporting and the page share: the trained model and its test pipeline."""

from __future__ import annotations

import copy
import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from mmcv.transforms import BaseTransform, Compose
from mmengine.config import Config, ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from PIL import Image, UnidentifiedImageError
from torch import nn

from mmpvt.checkpoint import fit_to_model, load_checkpoint
from mmpvt.datasets.loading import LoadImageFromFile
from mmpvt.datasets.pipelines import (
    build_image_loader,
    check_keeps_places,
    loading_step,
    transform_name,
)
from mmpvt.engine.checks.channels import channel_mismatch
from mmpvt.engine.class_names import model_meta
from mmpvt.engine.config_parts import split_datasets
from mmpvt.errors import BadFileError, ConfigError, DownloadError, UserError
from mmpvt.utils.constants import MAX_PIXELS
from mmpvt.utils.files import MAX_BYTES, check_regular

_NORMALISED = 8  # standard deviations from the mean, which no pixel is above
_DTYPES = ("uint8", "uint16", "int16", "float32", "float64")  # that cv2.resize takes


def load_model(config: Config, checkpoint: str | os.PathLike) -> nn.Module:
    """The config's model with a checkpoint's weights, on the CPU, in evaluation mode.

    Args:
        config (Config): of an experiment.
        checkpoint (str | PathLike): file or URL, of any known layout.

    Returns:
        nn.Module: with ``cfg`` and ``dataset_meta``, where the ecosystem looks for them.

    Raises:
        UserError: the checkpoint can't be read or is another model's.
    """
    init_default_scope(config.get("default_scope") or "mmdet")
    settings = copy.deepcopy(config.model)
    if config.get("data_preprocessor"):
        settings.setdefault("data_preprocessor", config.data_preprocessor)
    model = revert_sync_batchnorm(MODELS.build(settings))
    try:
        content = load_checkpoint(checkpoint)
    except DownloadError as error:
        error.instead = None  # training has one
        raise
    model.load_state_dict(fit_to_model(content, model), strict=False)  # that one is strict
    model.cfg, model.dataset_meta = config, model_meta(config, content)
    return model.eval()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards each module has the mode that it had."""
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def read_test_pipeline(config: Config) -> list[dict]:
    """The transforms of the (first) data set that a test is of; else of validation's.

    Raises:
        ConfigError: the config has neither.
    """
    for _, dataset in split_datasets(config, ("test", "val")):
        return dataset.get("pipeline", [])
    raise ConfigError("the config has no test_dataloader, which says how images are prepared")


class TestPipeline:
    """The test data set's transforms, but for those that read annotations.

    mmdet's and mmseg's own inference functions build theirs at every call, decode truncated files
    as far as they go, and mmseg's reads ``test_pipeline`` where ``tools/test.py`` takes
    ``test_dataloader``'s, which need not be the same.

    Args:
        config (Config): of an experiment.
        max_pixels (int): an image of more is refused before it is decoded. Default: 179 million,
            as Pillow does.

    Attributes:
        reader (BaseTransform): decodes image files.

    Raises:
        ConfigError: the config has no test data set, or that doesn't read images from files, or
            moves what is in them.
    """

    __test__ = False  # to pytest

    def __init__(self, config: Config, max_pixels: int = MAX_PIXELS) -> None:
        self.max_pixels = max_pixels
        steps = [
            ConfigDict(step)
            for step in read_test_pipeline(config)
            if not transform_name(step).endswith("Annotations")
        ]
        place = loading_step(steps)
        if place is None:
            names = ", ".join(map(transform_name, steps))
            raise ConfigError(
                f"the config's test pipeline has no LoadImageFromFile, but {names or 'nothing'}: "
                "only models that read single images from files can predict"
            )
        detects = config.get("default_scope", "mmdet") == "mmdet"
        check_keeps_places(steps, "the config's test pipeline", detects)
        self._config = config
        self._refusals: dict[int, str | None] = {}  # by number of channels
        with DefaultScope.overwrite_default_scope(config.get("default_scope", "mmdet")):
            self.reader = build_image_loader(steps[place])
            self._transform = Compose(steps[:place] + steps[place + 1 :])

    def load(self, path: str | os.PathLike) -> np.ndarray:
        """Decodes an image file as the config has its images loaded: :func:`read_image`."""
        return read_image(path, self.reader, self.max_pixels)

    def decode(self, content: bytes, name: str) -> np.ndarray:
        """Decodes an image file's content as :meth:`load` does a file.

        Args:
            content (bytes): of the file.
            name (str): of the image, for messages.

        Raises:
            BadFileError: it is empty, truncated, of another kind or too large.
            ConfigError: the config's loader reads files alone.
        """
        if not isinstance(self.reader, LoadImageFromFile):
            raise ConfigError(
                f"the config's {type(self.reader).__name__} reads image files alone, and the image "
                "is in memory"
            )
        if len(content) > MAX_BYTES:
            raise BadFileError(f"{name} is too large: {len(content) / 2**30:.1f} GiB", where=name)
        _check_size(io.BytesIO(content), name, self.max_pixels)
        return _read(name, self.reader, dict(img_path=name, img_bytes=content))

    def check_given(self, image: np.ndarray | Image.Image) -> np.ndarray:
        """The array itself, if :meth:`load` could have given it, in the machine's byte order.

        Args:
            image (np.ndarray | PIL.Image.Image): of a caller: (height, width, channels) or (height,
                width); or Pillow's, which is loaded as its pixels in a file would be, not turned by
                EXIF.

        Raises:
            UserError: it is no image, has values of another type, NaN or infinite ones, or its
                channels first; or values from 0 to 1, normalised ones or those of more than 8 bits
                where files are loaded from 0 to 255; or Pillow can't decode it or write it as PNG.
        """
        if isinstance(image, Image.Image):
            stream = io.BytesIO()
            try:
                image.save(stream, "png", compress_level=0, exif=b"")
            except (OSError, SyntaxError, ValueError) as error:
                raise UserError(f"the Pillow image can't be used: {error}") from error
            return self.decode(stream.getvalue(), "the Pillow image")
        check_array(image)
        if image.dtype.name not in _DTYPES:
            raise UserError(f"an image's values are uint8 or float32, say, not {image.dtype}")
        if image.ndim == 3 and len(image) <= 4 < image.shape[2]:
            raise UserError(
                f"the image's shape, {image.shape}, is (channels, height, width): give (height, "
                "width, channels), BGR"
            )
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise UserError("the image has NaN or infinite values")
        if image.dtype != np.uint8 and self._loads_bytes:
            low, high = image.min(), image.max()
            is_small = high <= (1 if low >= 0 else _NORMALISED) and bool((image % 1).any())
            if is_small or high > 2 * 255:  # interpolation may exceed 255
                found = " to ".join(f"{round(float(value), 2):g}" for value in (low, high))
                raise UserError(
                    f"the image's values are from {found}, and the model takes them from 0 to 255",
                    hint="give them as a file of 8 bits has them",
                )
        if not image.dtype.isnative:  # as of FITS files, which OpenCV takes for the other
            image = image.astype(image.dtype.newbyteorder("="))
        return image

    @property
    def _loads_bytes(self) -> bool:
        """Whether the loader gives values from 0 to 255 of every file."""
        return (
            isinstance(self.reader, LoadImageFromFile)
            and self.reader.max_value is None
            and self.reader.color_type != "unchanged"
            and self.reader.imdecode_backend != "tifffile"  # whatever the color_type
        )

    def prepare(self, image: np.ndarray, path: str = "") -> dict:
        """The input of the model's data preprocessor.

        Args:
            image (np.ndarray): as :meth:`load` gives it.
            path (str): its file, for the data sample and for messages. Default: none.

        Returns:
            dict: ``inputs``, a (channels, height, width) tensor, and ``data_samples``, one of
            MMDetection or MMSegmentation.

        Raises:
            UserError: the array is no such image, can't be resized as the config says, or has other
                channels than the model takes.
        """
        check_array(image)
        results = dict(img=image, img_path=str(path), img_id=0, scale_factor=(1.0, 1.0))
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        try:
            data = self._transform(results)
        except (cv2.error, ZeroDivisionError, MemoryError) as error:
            size = "x".join(map(str, image.shape[:2]))
            raise BadFileError(
                f"{path or 'the image'}, {size} pixels, can't be resized as the config says"
            ) from error
        channels = len(data["inputs"])
        if channels not in self._refusals:
            self._refusals[channels] = channel_mismatch(channels, self._config, trained=True)
        if reason := self._refusals[channels]:
            raise BadFileError(f"{path or 'the image'} is an image of {reason}")
        return data


def read_image(
    path: str | os.PathLike,
    reader: BaseTransform | None = None,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decodes an image file, rotated as its EXIF tag says.

    Args:
        path (str | PathLike): the file, of any format that OpenCV reads.
        reader (BaseTransform | None): decodes it. Default: one without options.
        max_pixels (int): an image of more is refused before it is decoded. Default: 179 million.

    Returns:
        np.ndarray: (height, width, channels) or, of one channel, (height, width); BGR and uint8
            unless the reader says otherwise.

    Raises:
        BadFileError: it is missing, no regular file, empty, truncated, of another kind or too
            large.
    """
    path = Path(path)
    if path.is_dir():
        raise BadFileError(f"{path} is a folder, and an image is asked for", where=path)
    try:
        check_regular(path)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        reason = "there is no such file"
        if isinstance(error, OSError) and error.errno != errno.ENOENT:
            reason = error.strerror or str(error)  # a link to itself, say
        raise BadFileError(f"no image at {path}: {reason}", where=path) from error
    _check_size(path, path, max_pixels)
    return _read(path, reader or LoadImageFromFile(), dict(img_path=str(path)))


def _read(path: str | Path, reader: BaseTransform, results: dict) -> np.ndarray:
    try:
        return reader(results)["img"]
    except BadFileError as error:  # its hint speaks of annotations
        raise BadFileError(error.what, problem=error.problem, where=path) from error
    except UserError:
        raise
    except MemoryError as error:
        raise BadFileError(f"{path} takes more memory than there is", where=path) from error
    except Exception as error:
        if isinstance(reader, LoadImageFromFile):
            raise
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise BadFileError(f"{path} can't be read as an image: {reason}", where=path) from error


def check_array(image: np.ndarray) -> np.ndarray:
    """The array itself, if it is a (height, width, channels) or (height, width) image.

    Raises:
        UserError: it is none, or has no pixels.
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


def _check_size(file: Path | io.BytesIO, path: str | Path, max_pixels: int) -> None:
    """Refuses an image of too many pixels without decoding it."""
    try:
        with Image.open(file) as image:
            width, height = image.size
    except Image.DecompressionBombError as error:
        reason = str(error).split(",")[0]  # Pillow's
        raise BadFileError(f"{path} is refused as an image: {reason}", where=path) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError):
        return  # OpenCV may know the format; if it doesn't, it says so
    if width * height > max_pixels:
        raise BadFileError(
            f"{path} is too large an image: {width}x{height} pixels, and {max_pixels // 10**6} "
            "million are the limit",
            where=path,
        )
