"""Images in tiles: how they are cut, predicted on, and merged into one prediction."""

from mmpvt.engine.tiles.merging import merge_instances, merge_tiles
from mmpvt.engine.tiles.model import CutIntoTiles, TiledModel, predict_tiles, threshold_of
from mmpvt.engine.tiles.tiling import Box, Tiling, check_tiled, tiling_of

__all__ = [
    "Box",
    "CutIntoTiles",
    "TiledModel",
    "Tiling",
    "check_tiled",
    "merge_instances",
    "merge_tiles",
    "predict_tiles",
    "threshold_of",
    "tiling_of",
]
