"""Heat maps drawn over an image."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mmpvt.visualization.drawing import FONT

COLUMN = 420  # pixels: width of a heat map in a row of them
MAX_HEIGHT = 640  # pixels, of a heat map
GAP = 10  # pixels between them
CAPTION = 58  # pixels of the caption above
ALPHA, DIM = 0.75, 0.55  # of the colour of vmax over the image; brightness of the image
RADIUS = 7  # pixels, of the ring around a position


def draw_heat(
    image: np.ndarray,
    heat: np.ndarray,
    vmax: float,
    position: Sequence[int],
    caption: tuple[str, str],
) -> np.ndarray:
    """A heat map over an image, with a position marked, under a caption.

    Args:
        image (np.ndarray): RGB, (height, width, 3), uint8.
        heat (np.ndarray): (height, width), not negative.
        vmax (float): of the heat; the end of the colour scale.
        position (Sequence[int]): y and x, in the image's pixels.
        caption (tuple[str, str]): its two lines.

    Returns:
        np.ndarray: RGB, (any, 420, 3), uint8.
    """
    scale = min(COLUMN / image.shape[1], MAX_HEIGHT / image.shape[0])
    width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
    canvas = np.full((CAPTION + height, COLUMN, 3), 255, np.uint8)
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    share = np.clip(cv2.resize(heat, (width, height)) / vmax, 0, 1).astype(np.float32)
    colours = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    weight = ALPHA * share[..., None]
    canvas[CAPTION:, :width] = (1 - weight) * DIM * resized + weight * colours
    centre = tuple(int((value + 0.5) * scale) for value in position[::-1])
    for colour, thickness in (((0, 0, 0), 4), ((0, 255, 255), 2)):  # seen on any background
        cv2.circle(canvas[CAPTION:, :width], centre, RADIUS, colour, thickness, cv2.LINE_AA)
    cv2.putText(canvas, caption[0], (0, 22), FONT, 0.7, (20, 20, 20), 2, cv2.LINE_AA)
    cv2.putText(canvas, caption[1], (0, 46), FONT, 0.5, (90, 90, 90), 1, cv2.LINE_AA)
    return canvas


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one height in a row, RGB, uint8."""
    gap = np.full((len(pictures[0]), GAP, 3), 255, np.uint8)
    row = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(row[:-1], axis=1)
