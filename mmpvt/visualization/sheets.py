"""Many pictures on one sheet."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mmpvt.utils.text import printable

CELL = (420, 1120)  # pixels: height and width of a pair of pictures on a sheet
COLUMNS = 2
GAP = 12  # pixels between the pairs
TITLE = 40  # pixels of a sheet's headline, and of a name under a picture
GRID_CELL = (300, 400)  # pixels: height and width of a single picture in a grid
GRID_COLUMNS = 4
NAME_LENGTH = 44  # characters that fit under it


def contact_sheet(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures in cells of one size, two a row, under a headline.

    Args:
        pictures (Sequence[np.ndarray]): RGB, truth left and prediction right.

    Returns:
        np.ndarray: RGB, uint8.
    """
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    height, width = CELL
    size = (TITLE + rows * (height + GAP), columns * (width + GAP) + GAP, 3)
    sheet = np.full(size, 255, dtype=np.uint8)
    for i, picture in enumerate(pictures):
        left = GAP + i % columns * (width + GAP)
        top = TITLE + i // columns * (height + GAP)
        cell = sheet[top : top + height, left : left + width]
        cell[:] = 235
        for half, x in zip(np.array_split(picture, 2, axis=1), (0, width // 2), strict=True):
            _paste(cell[:, x : x + width // 2 - 2], half)
        if i < columns:
            for title, x in (("truth", left), ("prediction", left + width // 2)):
                place = (x, TITLE - 12)
                cv2.putText(sheet, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.8, (40, 40, 40), 2, 16)
    return sheet


def grid(pictures: Sequence[np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Pictures in cells of one size, four a row, each above its name.

    Args:
        pictures (Sequence[np.ndarray]): RGB, uint8.
        names (Sequence[str]): of each; the end of a long one is shown.

    Returns:
        np.ndarray: RGB, uint8.
    """
    columns = min(GRID_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    height, width = GRID_CELL
    size = (rows * (height + TITLE) + GAP, columns * (width + GAP) + GAP, 3)
    sheet = np.full(size, 255, dtype=np.uint8)
    for i, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        left, top = GAP + i % columns * (width + GAP), GAP + i // columns * (height + TITLE)
        cell = sheet[top : top + height, left : left + width]
        cell[:] = 235
        _paste(cell, picture)
        name = printable(name)  # OpenCV crashes on a lone surrogate
        shown = name if len(name) <= NAME_LENGTH else "..." + name[-NAME_LENGTH:]
        place = (left, top + height + TITLE // 2)
        cv2.putText(sheet, shown, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (60, 60, 60), 1, 16)
    return sheet


def _paste(cell: np.ndarray, picture: np.ndarray) -> None:
    """As large as it fits, in the middle."""
    scale = min(cell.shape[0] / picture.shape[0], cell.shape[1] / picture.shape[1])
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    top, left = (cell.shape[0] - height) // 2, (cell.shape[1] - width) // 2
    fitted = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    cell[top : top + height, left : left + width] = fitted
