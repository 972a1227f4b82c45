"""The transform that cuts images into tiles, and the model that predicts on them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from mmcv.transforms import BaseTransform, Compose
from mmengine.model import BaseTTAModel
from mmengine.structures import BaseDataElement
from torch import nn

from mmpvt.engine.tiles.merging import merge_tiles
from mmpvt.engine.tiles.tiling import OVERLAP, Box, Tiling
from mmpvt.registry import MODELS, TRANSFORMS


@dataclass
class Prepared:
    """Tiles and what they were prepared to; collating leaves it as it is, as it is no sequence."""

    tiles: list[tuple[Box, dict]]


@TRANSFORMS.register_module()
class CutIntoTiles(BaseTransform):
    """Prepares the tiles of an image, beside the image itself.

    An image that is no larger than a tile is prepared as without this.

    Args:
        tiles (int): of a tile's sides, in pixels.
        overlap (float): share of its side that a tile has in common with the next. Default: 0.2.
        transforms (Sequence[dict]): what follows the loading, to the packing.
    """

    def __init__(self, transforms: Sequence[dict], tiles: int, overlap: float = OVERLAP) -> None:
        self.tiling = Tiling(tiles, overlap)
        self.whole = Compose(transforms)
        self.tile = Compose([step for step in transforms if not _reads_annotations(step)])

    def transform(self, results: dict) -> dict:
        """The image itself packed, with ``tiles``."""
        image = results["img"]
        tiles = []
        if self.tiling.cuts(*image.shape[:2]):
            for box in self.tiling.boxes(*image.shape[:2]):
                part = np.ascontiguousarray(image[box.top : box.bottom, box.left : box.right])
                tile = dict(img=part, img_path=results.get("img_path", ""), img_id=0)
                tile["img_shape"] = tile["ori_shape"] = part.shape[:2]
                tiles.append((box, self.tile(tile)))
        return dict(self.whole(results), tiles=Prepared(tiles))


def _reads_annotations(step: dict) -> bool:
    return str(step["type"]).endswith("Annotations")


@MODELS.register_module()
class TiledModel(BaseTTAModel):
    """Predicts on the tiles of images, and gives one prediction an image.

    Args:
        module (dict | nn.Module): a detector or semantic segmenter.
        tiles, overlap, also_whole: of :class:`Tiling`.
        batch_size (int): tiles at a time. Default: 1.
        data_preprocessor (dict | None): of the module, where it has none. Default: None.
    """

    def __init__(
        self,
        module: dict | nn.Module,
        tiles: int,
        overlap: float = OVERLAP,
        also_whole: bool = False,
        batch_size: int = 1,
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(module, data_preprocessor)
        self.tiling = Tiling(tiles, overlap, also_whole)
        self.batch_size = batch_size

    def test_step(self, data: dict) -> list[BaseDataElement]:
        """Predicts on a batch of :class:`CutIntoTiles`; on images without tiles as one batch."""
        cut = [bool(prepared.tiles) for prepared in data["tiles"]]
        as_they_are = [i for i, is_cut in enumerate(cut) if not is_cut or self.tiling.also_whole]
        found = {}
        if as_they_are:
            batch = {k: [data[k][i] for i in as_they_are] for k in ("inputs", "data_samples")}
            found = dict(zip(as_they_are, self.module.test_step(batch), strict=True))
        samples = [found.get(i, sample) for i, sample in enumerate(data["data_samples"])]
        for i, prepared in enumerate(data["tiles"]):
            if cut[i]:
                tiles = predict_tiles(prepared.tiles, self._predict, self.batch_size)
                whole = samples[i].cpu() if self.tiling.also_whole else None
                shape = samples[i].ori_shape[:2]
                merged = merge_tiles(self.tiling, shape, tiles, whole, threshold_of(self.module))
                samples[i].pop("seg_logits", None)
                samples[i].set_data(merged)
        return samples

    def _predict(self, tiles: Sequence[dict]) -> list[BaseDataElement]:
        return self.module.test_step({key: [tile[key] for tile in tiles] for key in tiles[0]})

    def merge_preds(self, data_samples_list: list) -> list:
        """Isn't used: images have different numbers of tiles."""
        raise NotImplementedError


def predict_tiles(
    tiles: Iterable[tuple[Box, dict]],
    predict: Callable[[Sequence[dict]], list[BaseDataElement]],
    batch_size: int,
) -> Iterator[tuple[Box, BaseDataElement]]:
    """Each tile with its prediction, on the CPU.

    Args:
        tiles (Iterable[tuple[Box, dict]]): prepared, in order; taken as they are needed.
        predict (Callable): on prepared images of one size.
        batch_size (int): tiles at a time.
    """
    iterator = iter(tiles)
    while batch := list(itertools.islice(iterator, batch_size)):
        samples = predict([prepared for _, prepared in batch])
        for (box, _), sample in zip(batch, samples, strict=True):
            yield box, sample.cpu()


def threshold_of(model: nn.Module) -> float:
    """From which probability on a segmenter of one class sees it."""
    head = getattr(model, "decode_head", None)
    head = head[-1] if isinstance(head, nn.ModuleList) else head
    return getattr(head, "threshold", None) or 0.5
