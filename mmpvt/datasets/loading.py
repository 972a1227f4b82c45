"""Loading images and label maps from files that may be broken."""

from __future__ import annotations

import enum
import importlib.util
import io
import os
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    IMAGELENGTH,
    IMAGEWIDTH,
    PLANAR_CONFIGURATION,
    SAMPLESPERPIXEL,
    ImageFileDirectory_v2,
)

from mmpvt.datasets.listed_files import TRUSTED
from mmpvt.errors import BadFileError, ConfigError, UserError
from mmpvt.registry import TRANSFORMS
from mmpvt.utils.constants import IGNORE_LABEL
from mmpvt.utils.files import read_bytes

BYTES = ("1", "L", "P")  # Pillow's names for images of a byte or less a pixel
UNREADABLE = (  # what Pillow, OpenCV and mmcv raise on files that they can't decode
    *(OSError, ValueError, AttributeError, SyntaxError, struct.error, zlib.error),
    *(cv2.error, Image.DecompressionBombError),
)
EIGHT_BITS = (b"\xff\xd8", b"BM", b"GIF8", b"RIFF")  # begin JPEG, BMP, GIF and WebP files
COLOUR_CODE = np.array([1 << 16, 1 << 8, 1])  # makes a number of red, green and blue
BIG_TIFF = (b"II+\0", b"MM\0+")  # begin TIFF files of more than 4 GB
BAND_AFTER_BAND = 2  # TIFF's PlanarConfiguration
NEW_SUBFILE_TYPE, PART = 254, 1 | 4  # TIFF's, of an overview (1) or a mask (4)
SIDES = (IMAGEWIDTH, IMAGELENGTH)
MOST_BANDS = 32  # of an image that a TIFF file holds band after band
OF_DATASETS = ("sample_idx", "video_id", "instances")  # what a data set's images or frames have
PLACEHOLDER_SIZE = (64, 64)  # height and width

_placeholders = False


class FileProblem(enum.Enum):
    """What is wrong with an image or label map: its kind in reports, a sentence, what to do."""

    MISSING_IMAGE = "images that are missing", "the image {path} is missing"
    UNREADABLE_IMAGE = (
        "images that can't be read",
        "{path} can't be read as an image: the file is empty, truncated or of another kind",
        "replace it, or take it out of the annotations",
    )
    IMAGE_SIZE = (
        "images of another size than annotated",
        "the image {path} is of another size than its annotations say: {found}, not {told} "
        "(height x width)",
    )
    BAND_AFTER_BAND = (
        "images of more than 8 bits that are stored band after band",
        "{path} is stored band after band, which OpenCV decodes wrongly of more than 8 bits",
        "take imdecode_backend='tifffile' (docs/data.md), or store it pixel by pixel "
        "(gdal_translate -co INTERLEAVE=PIXEL)",
    )
    PAGES = (
        "files of several images",
        "{path} holds several images of one size (pages), of which the first alone would be loaded",
        "store each in a file of its own; channels that are pages take imdecode_backend='tifffile' "
        "and color_type='unchanged' (docs/data.md)",
    )
    EIGHT_BITS = (
        "images of 8 bits among others",
        "{path} is an image of 8 bits, and LoadImageFromFile's max_value={value} is for files of "
        "more",
    )
    CHANNELS = (
        "images of channels that the model doesn't take",
        "the number of channels of {path} is {found}, and the model takes {taken}",
        "store it as the others are, or load all alike with color_type='color' or 'grayscale'",
    )
    OUTSIDE = (
        "files outside of the data's folder",
        "{path} lies outside of the data's folder",
        TRUSTED,
    )
    COLOURS = (
        "label maps of colours",
        "the label map {path} holds colours ({found}), where a label map holds one number a pixel, "
        "its class",
        "list them in the order of the classes, dict(type='mmpvt.LoadSegAnnotations', values="
        "{values}) for LoadAnnotations in each pipeline, or convert the files (docs/data.md)",
    )
    UNLISTED_VALUE = (
        "label maps with values that aren't listed",
        "the label map {path} holds the {value}, which is not among LoadSegAnnotations' values",
    )
    UNREADABLE_MAP = (
        "label maps that are missing or can't be read",
        "{path} can't be read as a label map: the file is missing, empty, truncated or of another "
        "kind",
    )
    MAP_SIZE = (
        "label maps of another size than their images",
        "the label map {path} is of another size than its image {image}: {found}, not {told} "
        "(height x width)",
    )
    NOT_LABELS = (
        "label maps with values that are no labels",
        "the label map {path} holds values that are no labels: numbers from 0 to 255",
    )
    NO_CLASS = (
        "label maps with labels beyond the classes",
        "the label map {path} holds the value {value}, and the model's {classes} classes end at "
        "{last}; files whose labels don't count from {first} take mmpvt.LoadSegAnnotations with "
        "values=[…] (docs/data.md)",
    )

    def __init__(self, kind: str, sentence: str, hint: str | None = None) -> None:
        self.kind, self.sentence, self.hint = kind, sentence, hint

    def of(self, path: str, **values: object) -> BadFileError:
        """The error that a file has this problem, with the values that its sentence names."""
        advice = self.hint and self.hint.format(**values)
        what = self.sentence.format(path=path, **values)
        return BadFileError(what, problem=self, hint=advice, where=path)


@contextmanager
def placeholder_images() -> Iterator[None]:
    """Has the transforms below give a blank image without objects, in place of a file's."""
    global _placeholders
    _placeholders = True
    try:
        yield
    finally:
        _placeholders = False


@TRANSFORMS.register_module()
class LoadImageFromFile(MMCVLoadImageFromFile):
    """MMCV's transform, which takes what is left of a truncated file for the image.

    An image turned by its EXIF tag is taken as its annotations take it: turned, or as it is
    stored where only that has the size they say.

    Args:
        folders (Sequence[str] | None): files of a data set that lie elsewhere are refused; not
            those of other callers, such as MMDetection's ``inference_detector`` with the config
            that a run has written. Default: None, anywhere.
        max_value (float | None): for files of more than 8 bits a channel, which are cut to the
            upper 8 otherwise, unless ``color_type`` is ``'unchanged'``: the value that becomes
            255, 4095 for 12-bit data. The image is float32 from 0 to 255 then. Default: None.
        channels (int | None): of the placeholder for an image that can't be used. Default: those
            of the last image, or what ``color_type`` says.
        accepted (Sequence[int] | None): numbers of channels; an image of another is refused.
            Default: None, any.
        **kwargs: of MMCV's ``LoadImageFromFile``.

    Raises:
        ConfigError: the decoding backend isn't installed, or doesn't keep 16 bits (``max_value``).
    """

    def __init__(
        self,
        folders: Sequence[str] | None = None,
        max_value: float | None = None,
        channels: int | None = None,
        accepted: Sequence[int] | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.folders = folders
        self.max_value = max_value
        self.accepted = accepted
        backend = self.imdecode_backend
        package = dict(tifffile="tifffile", turbojpeg="PyTurboJPEG").get(backend)
        if package and importlib.util.find_spec(backend) is None:
            raise ConfigError(
                f"LoadImageFromFile with imdecode_backend='{backend}' needs the package {package}",
                hint=f"pip install {package}",
            )
        if max_value is not None and (max_value <= 0 or backend not in ("cv2", "tifffile")):
            raise ConfigError(
                f"LoadImageFromFile with max_value={max_value} and imdecode_backend='{backend}': "
                "max_value is greater than 0 and takes the backend cv2 or tifffile"
            )
        self._trailing: tuple[int, ...] = (channels or 3,)
        if self.color_type.startswith("grayscale"):
            self._trailing = ()

    def transform(self, results: dict) -> dict | None:
        """Reads ``results['img_path']``, or takes ``results['img_bytes']`` for what it holds.

        Raises:
            BadFileError: the file is missing, no readable image, of another size than its
                annotations say, of several pages, of channels that aren't accepted, or of 8 bits
                where ``max_value`` is given; or it lies elsewhere.
            ConfigError: it holds values that ``color_type`` doesn't load.
            UserError: it is no regular file, or too large.
        """
        if _placeholders:
            results["instances"] = []
            return self._fill(results, np.zeros((*PLACEHOLDER_SIZE, *self._trailing), np.uint8))
        path = results["img_path"]
        told = (results.get("height"), results.get("width"))
        content, image = self._load(results, told)
        if self.imdecode_backend != "tifffile" and has_pages(io.BytesIO(content)):
            raise FileProblem.PAGES.of(path)
        image = self._scale(image, content, path)
        if None not in told and image.shape[:2] != told:
            found = _size(image.shape[:2])
            raise FileProblem.IMAGE_SIZE.of(path, found=found, told=_size(told))
        channels = image.shape[2] if image.ndim == 3 else 1
        if self.accepted and channels not in self.accepted:
            taken = " or ".join(map(str, self.accepted))
            raise FileProblem.CHANNELS.of(path, found=channels, taken=taken)
        self._trailing = image.shape[2:]
        return self._fill(results, image)

    def _load(self, results: dict, told: tuple) -> tuple[bytes, np.ndarray]:
        """A file's content and the image in it, turned as its annotations take it."""
        path = results["img_path"]
        try:
            content = results.get("img_bytes")
            if content is None:
                folders = None if results.keys().isdisjoint(OF_DATASETS) else self.folders
                content = _read(path, self.backend_args, folders)
            image = self._decode(content, self.color_type)
            shape = () if image is None else image.shape[:2]
            if None not in told and shape != told and shape[::-1] == told:
                image = self._decode(content, f"{self.color_type}_ignore_orientation")
        except FileNotFoundError as error:
            raise FileProblem.MISSING_IMAGE.of(path) from error
        except UserError:
            raise
        except (*UNREADABLE, AssertionError) as error:
            raise FileProblem.UNREADABLE_IMAGE.of(path) from error
        if image is None and (stored := read_high_bit_depth(content)) is not None:
            raise ConfigError(
                f"{path} holds {stored.dtype} values, which can't be loaded with color_type="
                f"'{self.color_type}'",
                hint="take color_type='unchanged' or max_value (docs/data.md)",
                where=path,
            )
        if image is None or not is_intact(content):
            raise FileProblem.UNREADABLE_IMAGE.of(path)
        return content, image

    def _scale(self, image: np.ndarray, content: bytes, path: str) -> np.ndarray:
        """An image whose ``max_value`` has become 255, if there is one."""
        if image.dtype != np.uint8 and self.imdecode_backend == "cv2":
            tags = tiff_tags(io.BytesIO(content))
            if tags.get(PLANAR_CONFIGURATION) == BAND_AFTER_BAND and tags[SAMPLESPERPIXEL] > 1:
                raise FileProblem.BAND_AFTER_BAND.of(path)
            bits = max(tags.get(BITSPERSAMPLE, (16,)))
            if self.max_value is not None and 8 < bits < 16:  # of which OpenCV makes 16
                image = image >> (16 - bits)
        if self.max_value is None:
            return image
        if image.dtype == np.uint8:
            raise FileProblem.EIGHT_BITS.of(path, value=self.max_value)
        return (image.astype(np.float32) * (255 / self.max_value)).clip(0, 255)

    def depth(self, image: np.ndarray) -> str | None:
        """The type of a loaded image's values, ``'uint16'``, where they are as the file has them;
        None where they are made values from 0 to 255."""
        is_raw = self.color_type.startswith("unchanged") and self.max_value is None
        return str(image.dtype) if is_raw and not self.to_float32 else None

    def _decode(self, content: bytes, flag: str) -> np.ndarray | None:
        backend = self.imdecode_backend
        if backend == "tifffile":
            try:
                image = mmcv.imfrombytes(content, backend=backend)
            except Exception as error:  # tifffile's own and those of its decoders, of many kinds
                raise ValueError(str(error)) from error
            bands, height, width = image.shape if image.ndim == 3 else (image.ndim, 0, 0)
            if bands < min(height, width) and width > MOST_BANDS:  # stored band after band
                image = image.transpose(1, 2, 0)
            return np.ascontiguousarray(image)
        if self.max_value is None or flag.startswith("unchanged"):
            # OpenCV knows no "unchanged" that heeds or ignores the orientation
            flag = "unchanged" if flag.startswith("unchanged") else flag
            return mmcv.imfrombytes(content, flag=flag, backend=backend)
        image = mmcv.imfrombytes(content, flag="unchanged", backend=backend)
        if image is None:
            return None
        if self.color_type.startswith("grayscale"):
            codes = {3: cv2.COLOR_BGR2GRAY, 4: cv2.COLOR_BGRA2GRAY}
            return cv2.cvtColor(image, codes[image.shape[2]]) if image.ndim == 3 else image
        return image[..., :3] if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)

    def _fill(self, results: dict, image: np.ndarray) -> dict:
        is_float = self.to_float32 or self.max_value is not None
        results["img"] = image.astype(np.float32) if is_float else image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        results["scale_factor"] = (1.0, 1.0)  # detectors ask for it where nothing resizes, too
        return results


def read_high_bit_depth(content: bytes) -> np.ndarray | None:
    """A file's values if they have more than 8 bits; None of others and of what is no image."""
    is_png = content.startswith(b"\x89PNG")
    if content.startswith(EIGHT_BITS) or (is_png and content[24:25] <= b"\x08"):
        return None
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    return None if image is None or image.dtype == np.uint8 else image


def tiff_tags(file: IO[bytes]) -> Mapping[int, Any]:
    """The tags of a TIFF file's first image; none of a file of another kind, or a damaged one.

    Pillow opens no image of kinds that it can't decode.
    """
    return next(_iter_tags(file), {})


def has_pages(file: IO[bytes]) -> bool:
    """Whether a TIFF file's second image is one of its own: of the first's size, as a thumbnail
    isn't, and neither an overview nor a mask of it."""
    tags = _iter_tags(file)
    first, second = next(tags, {}), next(tags, {})
    is_part = second.get(NEW_SUBFILE_TYPE, 0) & PART
    return bool(second) and not is_part and all(first.get(t) == second.get(t) for t in SIDES)


def _iter_tags(file: IO[bytes]) -> Iterator[Mapping[int, Any]]:
    try:
        header = file.read(8)
        if header[:4] in BIG_TIFF:
            header += file.read(8)
        tags = ImageFileDirectory_v2(header)
        while place := tags.next:
            file.seek(place)
            tags = ImageFileDirectory_v2(header)
            tags.load(file)
            yield dict(tags)
    except Exception:  # Pillow's, of any kind
        return


def is_intact(content: bytes) -> bool:
    """Whether a JPEG or PNG file has its end, which decoders fill up with grey where it hasn't.

    Files of other kinds are taken to be intact.
    """
    if content.startswith(b"\xff\xd8"):
        return content.rfind(b"\xff\xd9") > content.rfind(b"\xff\xda")  # end; start of a scan
    if content.startswith(b"\x89PNG"):
        return b"IEND" in content[-1024:]
    return True


@TRANSFORMS.register_module()
class LoadSegAnnotations(LoadAnnotations):
    """MMSegmentation's transform, saying which label map it is that can't be used.

    Args:
        num_classes (int | None): of the model; labels from there on are refused. Default: None.
        folders (Sequence[str] | None): files elsewhere are refused. Default: None, anywhere.
        values (Sequence[int] | Sequence[Sequence[int]] | None): what the files hold for each class,
            in the order of the config's classes: numbers (``[0, 255]``) or RGB colours
            (``[[0, 0, 0], [255, 0, 0]]``). The number 255 is ignored unless it is listed; what else
            isn't listed is refused. The data set's ``reduce_zero_label`` and its choice of classes
            don't apply then. Default: None, the files hold labels.
        **kwargs: of MMSegmentation's ``LoadAnnotations``.

    Raises:
        ConfigError: ``values`` are neither numbers nor colours, repeat one, or are more than the
            model's classes.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        folders: Sequence[str] | None = None,
        values: Sequence | None = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.folders = folders
        self.values = None if values is None else _codes(values)
        if self.values is not None and num_classes and len(self.values) > num_classes:
            raise ConfigError(
                f"LoadSegAnnotations' values are {len(self.values)}, and the model has "
                f"{num_classes} classes"
            )

    def _load_seg_map(self, results: dict) -> None:
        """Reads ``results['seg_map_path']``.

        Raises:
            BadFileError: the file is missing, no label map, of another size than its image, or
                holds colours or labels that the model has no class for; or it lies elsewhere.
            UserError: it is no regular file, or too large.
        """
        if _placeholders:
            results["gt_seg_map"] = np.full(results["ori_shape"], IGNORE_LABEL, np.uint8)
            results["seg_fields"].append("gt_seg_map")
            return
        path = results["seg_map_path"]
        try:
            content = _read(path, self.backend_args, self.folders)
            image = Image.open(io.BytesIO(content))
            if self.values is not None:
                labels, are_labels = _by_value(path, image, self.values), True
                results["gt_seg_map"] = labels
                results["seg_fields"].append("gt_seg_map")
            else:
                are_labels = image.mode in BYTES or _holds_labels(image)
                super()._load_seg_map(results)
                labels = results["gt_seg_map"]
        except UserError:
            raise
        except UNREADABLE as error:
            raise FileProblem.UNREADABLE_MAP.of(path) from error
        if labels.ndim == 3:
            raise _holds_colours(path, image)
        if labels.shape != tuple(results["ori_shape"]):
            sizes = dict(found=_size(labels.shape), told=_size(results["ori_shape"]))
            raise FileProblem.MAP_SIZE.of(path, image=results["img_path"], **sizes)
        if not are_labels:
            raise FileProblem.NOT_LABELS.of(path)
        if self.num_classes is not None:
            outside = labels[(labels >= self.num_classes) & (labels != IGNORE_LABEL)]
            if outside.size:
                shift = 1 if self.reduce_zero_label else 0
                value, last = int(np.max(outside)) + shift, self.num_classes - 1 + shift
                raise FileProblem.NO_CLASS.of(
                    path, value=value, classes=self.num_classes, first=shift, last=last
                )


def _by_value(path: str, image: Image.Image, values: list) -> np.ndarray:
    """The label of each pixel, (height, width), uint8."""
    are_colours = isinstance(values[0], tuple)
    stored = np.asarray(image.convert("RGB") if are_colours else image)
    if stored.ndim == 3 and not are_colours:
        if (stored[..., :3] != stored[..., :1]).any():
            raise _holds_colours(path, image)
        stored = stored[..., 0]  # grey, three times over
    if are_colours:
        stored = stored.astype(np.int64) @ COLOUR_CODE
        values = [int(np.dot(value, COLOUR_CODE)) for value in values]
    labels = np.full(stored.shape, IGNORE_LABEL, np.uint8)
    known = np.zeros(stored.shape, bool) if are_colours else stored == IGNORE_LABEL
    for label, value in enumerate(values):
        here = stored == value
        labels[here] = label
        known |= here
    if not known.all():
        found = int(stored[~known][0])
        colour = found >> 16, found >> 8 & 255, found & 255
        said = f"colour {colour}" if are_colours else f"value {found}"
        raise FileProblem.UNLISTED_VALUE.of(path, value=said)
    return labels


def _codes(values: Sequence) -> list:
    """Numbers, or colours as tuples; a ConfigError where they are neither, or one is repeated."""
    made = [value if isinstance(value, int) else tuple(value) for value in values]
    kinds = {None if isinstance(value, int) else len(value) for value in made}
    if kinds not in ({None}, {3}) or len(set(made)) < len(made):
        raise ConfigError(
            f"LoadSegAnnotations' values are numbers or RGB colours, each once, not {values}"
        )
    return made


def _holds_colours(path: str, image: Image.Image) -> BadFileError:
    found: Any = image.convert("RGB").getcolors(maxcolors=2**24)  # RGB has no more
    named = ", ".join(str(colour) for _, colour in sorted(found, reverse=True)[:3])
    values = "[[R, G, B], …]"
    if all(red == green == blue for _, (red, green, blue) in found):
        values = str(sorted(colour[0] for _, colour in found)[:8])
    named = f"{image.mode}: {named}{' …' * (len(found) > 3)}"
    return FileProblem.COLOURS.of(path, found=named, values=values)


def _read(path: str, backend_args: dict | None, folders: Sequence[str] | None) -> bytes:
    if backend_args is not None:
        return fileio.get(path, backend_args=backend_args)
    if folders is not None:
        # by name, without following links
        place, *within = (os.path.abspath(name) for name in (path, *folders))  # noqa: PTH100
        if not any(place.startswith(os.path.join(folder, "")) for folder in within):  # noqa: PTH118
            raise FileProblem.OUTSIDE.of(path)
    return read_bytes(path)


def _holds_labels(image: Image.Image) -> bool:
    """Whether an image's values stay what they are as bytes, which MMSegmentation takes them as."""
    stored = np.asarray(image)
    return np.array_equal(stored, stored.astype(np.uint8))


def _size(shape: Sequence[object]) -> str:
    return "x".join(map(str, shape))
