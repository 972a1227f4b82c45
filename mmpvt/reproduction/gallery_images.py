"""Images, label maps and masks in the small formats that the report's page embeds."""

from __future__ import annotations

import base64
import io

import cv2
import mmcv
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from mmpvt.utils.constants import IGNORE_LABEL

MAX_SIDE = 480  # pixels
JPEG_QUALITY = 72
TOLERANCE = 1.0  # pixels that a polygon may deviate from its mask
MIN_AREA = 6.0  # square pixels: smaller polygons aren't drawn


def thumbnail(path: str) -> tuple[str, float]:
    """An image file as a small JPEG file in base64, and its pixels a pixel of the image."""
    image = mmcv.imread(path)
    scale = _scale(image)
    small = _resize(image, scale, cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return base64.b64encode(data.tobytes()).decode(), scale


def encode_label_map(labels: np.ndarray, palette: np.ndarray) -> bytes:
    """A label map (height, width) as a small PNG file in a palette (256, 3); 255 is transparent."""
    small = Image.fromarray(_resize(labels, _scale(labels), cv2.INTER_NEAREST), "P")
    small.putpalette(palette.tobytes())
    file = io.BytesIO()
    small.save(file, "PNG", transparency=IGNORE_LABEL, optimize=True)
    return file.getvalue()


def mask_polygons(mask: dict | list, size: tuple[int, int], scale: float) -> list[list[int]]:
    """A mask as the polygons around it in a thumbnail.

    Args:
        mask (dict | list): run-length encoded or polygons, as COCO stores it.
        size (tuple[int, int]): width and height of the image, in pixels.
        scale (float): of the thumbnail.

    Returns:
        list[list[int]]: x and y of each corner in turn, in the thumbnail's pixels.
    """
    width, height = size
    if isinstance(mask, list):
        mask = coco_mask.merge(coco_mask.frPyObjects(mask, height, width))
    elif isinstance(mask["counts"], list):
        mask = coco_mask.frPyObjects(mask, height, width)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    pixels = _resize(coco_mask.decode(mask), scale, interpolation)
    contours, _ = cv2.findContours(pixels, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    contours = [contour for contour in contours if cv2.contourArea(contour) >= MIN_AREA]
    return [cv2.approxPolyDP(c, TOLERANCE, True).reshape(-1).tolist() for c in contours]


def _scale(image: np.ndarray) -> float:
    return min(1.0, MAX_SIDE / max(image.shape[:2]))


def _resize(image: np.ndarray, scale: float, interpolation: int) -> np.ndarray:
    width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
    return cv2.resize(image, (width, height), interpolation=interpolation)
