"""Heat maps drawn over an image."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mmpvt.visualization.drawing import FONT

COLUMN = 420  # pixels: width of a heat map in a row of them
TALLEST = 640  # pixels: its height, at most
GAP = 10  # pixels between them
HEAD = 58  # pixels of the headline above
HEAT, DIM = 0.75, 0.55  # weight of the hottest colour over the image; brightness of the image
RING = 7  # pixels: radius of the mark around a position


def draw_heat(
    image: np.ndarray,
    heat: np.ndarray,
    brightest: float,
    position: Sequence[int],
    head: tuple[str, str],
) -> np.ndarray:
    """A heat map over an image, with a position marked, under a headline.

    Args:
        image (np.ndarray): RGB, (height, width, 3), uint8.
        heat (np.ndarray): (height, width), not negative.
        brightest (float): of the heat; what has the brightest colour.
        position (Sequence[int]): y and x, in the image's pixels.
        head (tuple[str, str]): the headline's two lines.

    Returns:
        np.ndarray: RGB, (any, 420, 3), uint8.
    """
    scale = min(COLUMN / image.shape[1], TALLEST / image.shape[0])
    width, height = (max(1, round(side * scale)) for side in image.shape[1::-1])
    canvas = np.full((HEAD + height, COLUMN, 3), 255, np.uint8)
    shown = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    canvas[HEAD:, :width] = overlay(shown, cv2.resize(heat, (width, height)), brightest)
    place = tuple(int((value + 0.5) * scale) for value in position[::-1])
    for colour, thickness in (((0, 0, 0), 4), ((0, 255, 255), 2)):  # seen on any ground
        cv2.circle(canvas[HEAD:, :width], place, RING, colour, thickness, cv2.LINE_AA)
    cv2.putText(canvas, head[0], (0, 22), FONT, 0.7, (20, 20, 20), 2, cv2.LINE_AA)
    cv2.putText(canvas, head[1], (0, 46), FONT, 0.5, (90, 90, 90), 1, cv2.LINE_AA)
    return canvas


def overlay(image: np.ndarray, heat: np.ndarray, brightest: float) -> np.ndarray:
    """A heat map over an image.

    Args:
        image (np.ndarray): RGB, (height, width, 3), uint8.
        heat (np.ndarray): (height, width), not negative.
        brightest (float): of the heat; what has the brightest colour.

    Returns:
        np.ndarray: RGB, uint8.
    """
    share = np.clip(heat / brightest, 0, 1).astype(np.float32)
    colours = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    weight = HEAT * share[..., None]
    return ((1 - weight) * DIM * image + weight * colours).astype(np.uint8)


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures of one height in a row, RGB, uint8."""
    gap = np.full((len(pictures[0]), GAP, 3), 255, np.uint8)
    row = [part for picture in pictures for part in (picture, gap)]
    return np.concatenate(row[:-1], axis=1)
