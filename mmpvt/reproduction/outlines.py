"""Masks as outlines that a page can draw."""

from __future__ import annotations

import cv2
import numpy as np
from pycocotools import mask as coco_mask

TOLERANCE = 1.0  # pixels of the picture that an outline may be off
SMALLEST = 6.0  # square pixels: smaller pieces aren't drawn


def outline(mask: dict | list, size: tuple[int, int], scale: float) -> list[list[int]]:
    """The outlines of a mask's pieces in a picture of an image.

    Args:
        mask (dict | list): run-length encoded or polygons, as COCO stores it.
        size (tuple[int, int]): width and height of the image.
        scale (float): the picture's pixels a pixel of the image.

    Returns:
        list[list[int]]: x and y of each corner in turn, in the picture's pixels, a list a piece.
    """
    width, height = size
    if isinstance(mask, list):
        mask = coco_mask.merge(coco_mask.frPyObjects(mask, height, width))
    elif isinstance(mask["counts"], list):
        mask = coco_mask.frPyObjects(mask, height, width)
    pixels = coco_mask.decode(mask)
    target = (max(1, round(width * scale)), max(1, round(height * scale)))
    pixels = cv2.resize(pixels, target, interpolation=cv2.INTER_AREA if scale < 1 else 0)
    pieces, _ = cv2.findContours(pixels, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    drawn = [cv2.approxPolyDP(p, TOLERANCE, True) for p in pieces if cv2.contourArea(p) >= SMALLEST]
    return [np.asarray(piece).reshape(-1).tolist() for piece in drawn]
