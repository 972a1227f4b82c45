"""Loading images and label maps from files that may be broken."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import cv2
import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from mmpvt.errors import UserError
from mmpvt.files import read_bytes
from mmpvt.registry import TRANSFORMS

IGNORED = 255  # label of pixels that count for no class
BYTES = ("1", "L", "P")  # Pillow's names for images of a byte or less a pixel
BLANK = (64, 64)  # height and width of what stands in for an image that can't be used

_standing_in = False


@contextmanager
def stand_in() -> Iterator[None]:
    """Has the transforms below give a blank image without objects, in place of a file's."""
    global _standing_in
    _standing_in = True
    try:
        yield
    finally:
        _standing_in = False


@TRANSFORMS.register_module()
class LoadImageFromFile(MMCVLoadImageFromFile):
    """MMCV's transform, which takes what is left of a truncated file for the image.

    An image turned by its EXIF tag is taken as its annotations take it: turned, or as it is
    stored where only that has the size they say.

    Args:
        folders (Sequence[str] | None): files elsewhere are refused. Default: None, anywhere.
        **kwargs: of MMCV's transform.
    """

    def __init__(self, folders: Sequence[str] | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.folders = folders

    def transform(self, results: dict) -> dict | None:
        """Reads ``results['img_path']``.

        Raises:
            UserError: the file is missing, no regular file, too large, no readable image, or of
                another size than its annotations say; or it lies elsewhere.
        """
        if _standing_in:
            results["instances"] = []
            return self._fill(results, np.zeros((*BLANK, 3), np.uint8))
        path = results["img_path"]
        try:
            content = _read(path, self.backend_args, self.folders)
            image = mmcv.imfrombytes(content, flag=self.color_type, backend=self.imdecode_backend)
            told = (results.get("height"), results.get("width"))
            if None not in told and image.shape[:2] != told and image.shape[1::-1] == told:
                image = self._as_stored(content)
        except FileNotFoundError as error:
            raise UserError(f"the image {path} is missing") from error
        except UserError:
            raise
        except (OSError, ValueError, AssertionError, AttributeError, cv2.error) as error:
            raise UserError(_unreadable(path)) from error
        if image is None or not is_complete(content):
            raise UserError(_unreadable(path))
        if None not in told and image.shape[:2] != told:
            raise UserError(
                f"the image {path} is of another size than its annotations say: "
                f"{_size(image.shape[:2])}, not {_size(told)} (height x width)"
            )
        return self._fill(results, image)

    def _as_stored(self, content: bytes) -> np.ndarray:
        flag = f"{self.color_type}_ignore_orientation"
        return mmcv.imfrombytes(content, flag=flag, backend=self.imdecode_backend)

    def _fill(self, results: dict, image: np.ndarray) -> dict:
        results["img"] = image.astype(np.float32) if self.to_float32 else image
        results["img_shape"] = results["ori_shape"] = image.shape[:2]
        return results


def is_complete(content: bytes) -> bool:
    """Whether a JPEG or PNG file has its end, which decoders fill up with grey where it hasn't.

    Args:
        content (bytes): the file's. Of other kinds it is taken to be complete.
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
        **kwargs: of MMSegmentation's ``LoadAnnotations``.
    """

    def __init__(
        self, num_classes: int | None = None, folders: Sequence[str] | None = None, **kwargs
    ) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.folders = folders

    def _load_seg_map(self, results: dict) -> None:
        """Reads ``results['seg_map_path']``.

        Raises:
            UserError: the file is missing, no regular file, too large or no label map, of another
                size than its image, or holds labels that the model has no class for; or it lies
                elsewhere.
        """
        if _standing_in:
            results["gt_seg_map"] = np.full(results["ori_shape"], IGNORED, np.uint8)
            results["seg_fields"].append("gt_seg_map")
            return
        path = results["seg_map_path"]
        try:
            content = _read(path, self.backend_args, self.folders)
            whole = Image.open(io.BytesIO(content)).mode in BYTES or _holds_labels(content)
            super()._load_seg_map(results)
        except UserError:
            raise
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(
                f"{path} can't be read as a label map: the file is missing, empty, truncated or "
                "of another kind"
            ) from error
        labels = results["gt_seg_map"]
        if labels.shape != tuple(results["ori_shape"]):
            raise UserError(
                f"the label map {path} is of another size than its image {results['img_path']}: "
                f"{_size(labels.shape)}, not {_size(results['ori_shape'])} (height x width)"
            )
        if not whole:
            raise UserError(
                f"the label map {path} holds values that are no labels: numbers from 0 to 255"
            )
        if self.num_classes is not None:
            outside = labels[(labels >= self.num_classes) & (labels != IGNORED)]
            if outside.size:
                shift = 1 if self.reduce_zero_label else 0
                raise UserError(
                    f"the label map {path} holds the value {int(np.max(outside)) + shift}, and "
                    f"the model's {self.num_classes} classes end at "
                    f"{self.num_classes - 1 + shift}"
                )


def _read(path: str, backend_args: dict | None, folders: Sequence[str] | None) -> bytes:
    if backend_args is not None:
        return fileio.get(path, backend_args=backend_args)
    if folders is not None:
        place = os.path.abspath(path)  # noqa: PTH100  of the name, without following links
        if not any(_is_within(place, folder) for folder in folders):
            raise UserError(
                f"{path} lies outside of the data's folder: if you trust the annotations, pass "
                "--cfg-options allow_outside_files=True"
            )
    return read_bytes(path)


def _is_within(place: str, folder: str) -> bool:
    folder = os.path.join(os.path.abspath(folder), "")  # noqa: PTH100, PTH118
    return place.startswith(folder)


def _unreadable(path: str) -> str:
    return (
        f"{path} can't be read as an image: the file is empty, truncated or of another kind; "
        "replace it, or take it out of the annotations"
    )


def _holds_labels(content: bytes) -> bool:
    """Whether an image's values stay what they are as bytes, which MMSegmentation takes them as."""
    stored = np.asarray(Image.open(io.BytesIO(content)))
    return np.array_equal(stored, stored.astype(np.uint8))


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
