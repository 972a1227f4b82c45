"""Contact sheets hold every picture."""

from __future__ import annotations

import numpy as np
import pytest

from mmpvt.engine.hooks.pictures import contact_sheet, grid


@pytest.mark.parametrize("count", [1, 2, 5])
def test_contact_sheet_holds_every_picture(count: int):
    pictures = [np.full((40 + 10 * i, 160, 3), 10 * i, dtype=np.uint8) for i in range(count)]
    sheet = contact_sheet(pictures)
    for i in range(count):
        assert (sheet == 10 * i).all(axis=2).sum() > 10_000


@pytest.mark.parametrize("count", [1, 4, 9])
def test_grid_holds_every_picture(count: int):
    pictures = [np.full((40 + i, 60, 3), 20 * i, dtype=np.uint8) for i in range(count)]
    sheet = grid(pictures, ["a rather long name, longer than a cell is wide.jpg"] * count)
    for i in range(count):
        assert (sheet == 20 * i).all(axis=2).sum() > 10_000
