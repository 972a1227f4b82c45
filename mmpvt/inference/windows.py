"""Images read window by window, so that one of any size takes the memory of a window."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import ExifTags, Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, EXTRASAMPLES, PHOTOMETRIC_INTERPRETATION

from mmpvt.datasets.loading import FileProblem, LoadImageFromFile, has_pages, tiff_tags
from mmpvt.engine.pipeline import TestPipeline
from mmpvt.engine.tiles import Box
from mmpvt.errors import BadFileError, SetupError
from mmpvt.utils.files import MAX_BYTES, check_regular

WINDOWED = 50_000_000  # pixels from which on a file is read window by window
LONGEST_OVERVIEW = 2048  # pixels: of a larger image's longer side, where it is seen as one
DRIVERS = {  # GDAL's, by how files begin: others of its drivers open further files
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",  # of more than 4 GB
    b"MM\0+": "GTiff",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff\xe0": "JPEG",
    b"\xff\xd8\xff\xe1": "JPEG",
    b"\xff\xd8\xff\xdb": "JPEG",
    b"\xff\xd8\xff\xee": "JPEG",
    b"\0\0\0\x0c": "JP2OpenJPEG",
}
LARGEST = 2**31  # pixels of an image that is read so; COCO's RLE counts to twice as many
STRAIGHT = (2,)  # TIFF's ExtraSamples: an alpha that the colours aren't multiplied by
WHITE_IS_0, BLACK_IS_0, RGB, PALETTE, YCBCR = 0, 1, 2, 3, 6  # TIFF's PhotometricInterpretation
MAX_FILE = 16 * MAX_BYTES
GDAL = dict(  # neither files beside the image nor more memory for blocks than a row of tiles takes
    GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR", GDAL_PAM_ENABLED="NO", GDAL_CACHEMAX=2**28
)


class Windows(Protocol):
    """An image of which parts are read."""

    shape: tuple[int, int]  # height and width

    def read(self, box: Box) -> np.ndarray:
        """A part of it, as a loader gives images."""
        ...

    def overview(self) -> np.ndarray:
        """All of it, made smaller where its longer side has more than 2,048 pixels."""
        ...


class ArrayWindows:
    """Windows of an image in memory.

    Args:
        image (np.ndarray): (height, width, channels) or (height, width).
    """

    def __init__(self, image: np.ndarray) -> None:
        self.image = image
        self.shape = (image.shape[0], image.shape[1])

    def read(self, box: Box) -> np.ndarray:
        """A part of it."""
        return np.ascontiguousarray(self.image[box.top : box.bottom, box.left : box.right])

    def overview(self) -> np.ndarray:
        """All of it."""
        return self.image


class FileWindows:
    """Windows of an image file, through rasterio.

    Args:
        file (Any): rasterio's data set.
        path (Path): for messages.
        reader (LoadImageFromFile): that the windows are to be as if loaded by.
    """

    def __init__(self, file: Any, path: Path, reader: LoadImageFromFile) -> None:
        self.file, self.path = file, path
        self.max_value, self.unchanged = reader.max_value, _loads_all(reader)
        self.shape = (file.height, file.width)
        kinds = set(file.dtypes)
        if not self.unchanged and not kinds <= {"uint8", "uint16"}:
            raise BadFileError(
                f"{path} holds {', '.join(sorted(kinds))} values, and images of uint8 or uint16 "
                "are read window by window",
                where=path,
            )
        if self.max_value is not None and "uint8" in kinds:
            raise FileProblem.EIGHT_BITS.of(str(path), value=self.max_value)
        with path.open("rb") as opened:
            if not _by_tifffile(reader) and has_pages(opened):
                raise FileProblem.PAGES.of(str(path))
        names = [colour.name for colour in file.colorinterp]
        bits = int(file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8))
        tags = _tags(path)
        photometric = tags.get(PHOTOMETRIC_INTERPRETATION)
        # of a PNG file of 1, 2 or 4 bits GDAL gives the numbers stored, OpenCV shades of grey
        self._white = 2**bits - 1 if bits < 8 and names == ["gray"] else None
        # likewise where 0 is white; OpenCV gives 16 bits as they are stored, unless it makes 8
        as_stored = _by_tifffile(reader) or (self._takes_16_bits and kinds != {"uint8"})
        self._inverted = photometric == WHITE_IS_0 and names != ["palette"] and not as_stored
        self._bands = list(range(1, file.count + 1))
        colours = ("blue", "green", "red")
        coloured = all(name in names for name in colours)
        coloured = coloured and photometric not in (WHITE_IS_0, BLACK_IS_0)  # GDAL's own word
        bgr = [names.index(name) + 1 for name in colours] if coloured else [1]
        if self.unchanged and coloured and not _by_tifffile(reader):
            self._bands[:3] = bgr
        if not self.unchanged:  # without colours the first band is grey, as to OpenCV; no alpha
            self._bands = bgr
            if not coloured and file.count > 2:
                raise BadFileError(
                    f"{path} holds {file.count} bands without a colour, which are loaded with "
                    "color_type='unchanged' (docs/data.md) alone",
                    where=path,
                )
            is_straight = tags.get(EXTRASAMPLES, ())[:1] == STRAIGHT
            if coloured and file.count > 3 and self.max_value is None and is_straight:
                self._bands.append(4)  # which libtiff multiplies by, and so OpenCV
        self._table = None
        if names == ["palette"] and not self.unchanged:
            self._table = np.zeros((256, 3), np.uint8)
            for index, colour in file.colormap(1).items():
                self._table[index] = colour[:3]

    @property
    def _takes_16_bits(self) -> bool:
        return self.unchanged or self.max_value is not None

    def read(self, box: Box) -> np.ndarray:
        """A part of it."""
        window = ((box.top, box.bottom), (box.left, box.right))
        return self._read(window=window)

    def overview(self) -> np.ndarray:
        """All of it, made smaller; from the file's own overviews where it has some."""
        scale = min(1.0, LONGEST_OVERVIEW / max(self.shape))
        height, width = (max(1, round(side * scale)) for side in self.shape)
        return self._read(out_shape=(height, width))

    def _read(self, out_shape: tuple[int, int] | None = None, **options: Any) -> np.ndarray:
        if out_shape is not None:
            from rasterio.enums import Resampling

            options.update(
                out_shape=(len(self._bands), *out_shape),
                resampling=Resampling.nearest if self._table is not None else Resampling.average,
            )
        try:
            stored = self.file.read(self._bands, **options)
        except Exception as error:  # rasterio's, which come from GDAL's
            raise BadFileError(
                f"{self.path} can't be read as an image: the file is truncated or damaged",
                where=self.path,
            ) from error
        image = np.ascontiguousarray(stored.transpose(1, 2, 0))
        if self._white:
            image = image * np.uint8(255 // self._white)
        if self._inverted:
            image = ~image
        if self._table is not None:
            return np.ascontiguousarray(self._table[image[..., 0]][..., ::-1])
        if self.unchanged:
            return image if len(self._bands) > 1 else image[..., 0]
        if self.max_value is not None:
            image = (image.astype(np.float32) * (255 / self.max_value)).clip(0, 255)
        elif image.dtype == np.uint16:
            image = np.rint(image * np.float32(1 / 257)).astype(np.uint8)
        if len(self._bands) == 4:
            colours, alpha = image[..., :3].astype(np.uint16), image[..., 3:]
            image = ((colours * alpha + 127) // 255).astype(np.uint8)
        return image if image.shape[2] == 3 else np.repeat(image, 3, axis=2)


@contextmanager
def open_windows(path: str | os.PathLike, pipeline: TestPipeline) -> Iterator[Windows]:
    """Opens an image file to be read in parts.

    One of more than 50 million pixels is read window by window, through rasterio, where that is
    installed and the pipeline's loading can be done so. Others are decoded as a whole.

    Args:
        path (str | PathLike): the file.
        pipeline (TestPipeline): says how images are loaded.

    Yields:
        Windows: the image.

    Raises:
        UserError: it can't be read, or is so large that it takes rasterio, which isn't installed.
    """
    path = Path(path)
    reader = pipeline.reader
    driver = None
    if isinstance(reader, LoadImageFromFile) and (
        _by_tifffile(reader)
        or (reader.imdecode_backend == "cv2" and reader.color_type in ("color", "unchanged"))
    ):
        driver = _driver(path)
    has_rasterio = importlib.util.find_spec("rasterio") is not None
    pixels = _pixels(path) if driver else 0
    if pixels is not None and (pixels <= WINDOWED or not has_rasterio):
        if pixels > pipeline.max_pixels:
            raise SetupError(
                f"{path} has more than {pipeline.max_pixels // 10**6} million pixels, and the "
                "package rasterio, which reads it window by window, isn't installed",
                where=path,
                hint="pip install 'mmpvt[tiles]'",
            )
        yield ArrayWindows(pipeline.load(path))
        return
    with ExitStack() as closing:
        file = _open(path, driver, closing) if has_rasterio else None
        if (
            file is None
            or file.width * file.height <= WINDOWED
            or not _as_loaded(file, path, reader)
        ):
            yield ArrayWindows(pipeline.load(path))
            return
        if file.width * file.height > LARGEST:
            raise BadFileError(
                f"{path} is too large an image: {file.width}x{file.height} pixels, and "
                f"{LARGEST // 10**6} million are the limit",
                where=path,
            )
        yield FileWindows(file, path, reader)


def _open(path: Path, driver: str | None, closing: ExitStack) -> Any:
    """Rasterio's data set of a file; None where it can't be opened, or isn't to be."""
    check_regular(path, MAX_FILE)
    rasterio: Any = importlib.import_module("rasterio")
    closing.enter_context(rasterio.Env(**GDAL))
    closing.enter_context(warnings.catch_warnings())
    warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
    try:
        return closing.enter_context(rasterio.open(path, driver=driver))
    except rasterio.errors.RasterioError:
        return None


def _tags(path: Path) -> Mapping[int, Any]:
    with path.open("rb") as file:
        return tiff_tags(file)


def _by_tifffile(reader: LoadImageFromFile) -> bool:
    return bool(reader.imdecode_backend == "tifffile")


def _loads_all(reader: LoadImageFromFile) -> bool:
    """Whether all bands and bits are taken, in place of BGR of 8 bits."""
    return _by_tifffile(reader) or bool(reader.color_type == "unchanged")


def _as_loaded(file: Any, path: Path, reader: LoadImageFromFile) -> bool:
    """Whether windows are what the reader makes of the file; else it is decoded as a whole."""
    tags = _tags(path)
    bits = set(tags.get(BITSPERSAMPLE, (1 if tags else 8,)))
    if file.driver == "JP2OpenJPEG":
        bits = {int(file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8))}
    if max(bits) > 8 and any(one % 16 for one in bits):
        return False  # OpenCV makes 16 of 12 bits, GDAL doesn't
    if not _loads_all(reader):
        return True
    photometric = tags.get(PHOTOMETRIC_INTERPRETATION)  # of PNG and others, None
    if min(bits) < 8:
        return False
    if _by_tifffile(reader):
        return photometric in (WHITE_IS_0, BLACK_IS_0, RGB, PALETTE)
    if file.count == 1:
        return photometric in (WHITE_IS_0, BLACK_IS_0)
    is_multiplied = max(bits) == 8 and tags.get(EXTRASAMPLES, ())[:1] == STRAIGHT
    return photometric in (RGB, YCBCR) and file.count in (3, 4) and not is_multiplied


def _driver(path: Path) -> str | None:
    try:
        check_regular(path, MAX_FILE)
        with path.open("rb") as file:
            return DRIVERS.get(file.read(4))
    except (OSError, ValueError):  # which whoever loads it says
        return None


def _pixels(path: Path) -> float | None:
    """How many pixels an image file's header tells, 0 where the image is to be turned, which GDAL
    doesn't do; None where Pillow doesn't know the kind of pixels."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
                return 0 if turned else image.width * image.height
    except Image.DecompressionBombError:
        return float("inf")
    except Exception:
        return None
