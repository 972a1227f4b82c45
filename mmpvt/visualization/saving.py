"""Pictures and label maps as files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from mmengine.structures import BaseDataElement

from mmpvt.utils.outputs import CannotWriteError, Outputs
from mmpvt.visualization.drawing import colours

JPEG_LONGEST = 65_500  # pixels a side, libjpeg's limit


def label_map(sample: BaseDataElement) -> np.ndarray:
    """A segmenter's prediction: (height, width), the label of each pixel, uint8 or uint16."""
    labels = sample.pred_sem_seg.data.squeeze(0).numpy()
    return labels.astype(np.uint8 if labels.max() < 256 else np.uint16, copy=False)


def colour_map(labels: np.ndarray, meta: dict) -> np.ndarray:
    """A label map, (height, width), in its classes' colours: RGB, uint8."""
    count = max(len(meta.get("classes") or ()), int(labels.max()) + 1)
    table = np.asarray(colours(meta.get("palette"), count), dtype=np.uint8)
    return table[labels % len(table)]


def write_picture(
    out: Outputs, name: str, picture: np.ndarray, suffixes: Sequence[str] = (".jpg", ".png")
) -> Path:
    """Writes an RGB, uint8 picture, or a label map as it is.

    Args:
        out (Outputs): the folder.
        name (str): the file's in it, without a suffix.
        picture (np.ndarray): (height, width, 3) or (height, width).
        suffixes (Sequence[str]): of the formats to take, the first that can hold it: JPEG can't
            hold more than 65,500 pixels a side. Default: JPEG, then PNG.

    Returns:
        Path: the file.

    Raises:
        UserError: it can't be written; a ``CannotWriteError`` where that is this picture's fault.
    """
    encoded = encode_picture(picture, suffixes)
    if encoded is None:
        height, width = picture.shape[:2]
        raise CannotWriteError(
            f"{out.folder / name} can't be written: a picture of {width}x{height} pixels is too "
            f"large for {suffixes[-1]}"
        )
    content, suffix = encoded
    return out.write(f"{name}{suffix}", content)


def encode_picture(
    picture: np.ndarray, suffixes: Sequence[str] = (".jpg", ".png")
) -> tuple[memoryview, str] | None:
    """A picture's file, as :func:`write_picture` writes it, and its suffix; None where the picture
    is too large for all of the formats."""
    pixels = picture[..., ::-1] if picture.ndim == 3 else picture
    for suffix in suffixes:
        if suffix == ".jpg" and max(picture.shape[:2]) > JPEG_LONGEST:
            continue  # OpenCV would find out by itself, but print about it
        with suppress(cv2.error):
            done, content = cv2.imencode(suffix, pixels)
            if done:
                return content.data, suffix
    return None
