"""Images as small files within a page."""

from __future__ import annotations

import base64
import io

import cv2
import mmcv
import numpy as np
from PIL import Image

from mmpvt.utils.constants import IGNORE_LABEL

LONG_SIDE = 480  # pixels at most
JPEG_QUALITY = 72


def picture(path: str) -> tuple[str, float]:
    """An image, small enough for a page.

    Args:
        path (str): of the file.

    Returns:
        tuple[str, float]: a JPEG file in base64, and its pixels a pixel of the image.
    """
    image = mmcv.imread(path)
    scale = min(1.0, LONG_SIDE / max(image.shape[:2]))
    size = _scaled(image, scale)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return base64.b64encode(data).decode(), scale


def label_picture(labels: np.ndarray, palette: np.ndarray) -> bytes:
    """A label map as a picture of its classes' colours, small enough for a page.

    Args:
        labels (np.ndarray): (height, width), uint8; 255 is see-through.
        palette (np.ndarray): (256, 3), RGB, uint8, by label.

    Returns:
        bytes: a PNG file.
    """
    scale = min(1.0, LONG_SIDE / max(labels.shape))
    size = _scaled(labels, scale)
    small = Image.fromarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), "P")
    small.putpalette(palette.tobytes())
    file = io.BytesIO()
    small.save(file, "PNG", transparency=IGNORE_LABEL, optimize=True)
    return file.getvalue()


def _scaled(image: np.ndarray, scale: float) -> tuple[int, int]:
    """Width and height, of a line of pixels, too."""
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return width, height
