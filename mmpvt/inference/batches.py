"""Images on their way through a model: prepared, together by size, and what is said of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mmengine.structures import BaseDataElement

from mmpvt.errors import UserError
from mmpvt.evaluation.coco_results import to_coco
from mmpvt.inference.predictor import Predictor
from mmpvt.utils.text import class_name, encodable

TOP = 5  # classes whose scores a classifier's predictions hold
MAX_PENDING = 4  # batches' worth of images that may wait for others of their size


@dataclass
class Item:
    """An image, decoded and prepared, or the reason why it is skipped."""

    index: int  # among all images
    name: str  # for messages
    path: Path | None = None  # a file that is read tile by tile
    image: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 3), np.uint8))
    data: dict = field(default_factory=dict)
    reason: str = ""


def classification(sample: BaseDataElement, classes: Sequence[str]) -> dict:
    """A classifier's prediction: ``class``, its ``score``, and the five highest ``scores``, of
    classes that share a name (ImageNet's cranes) the higher one."""
    scores, labels = sample.pred_score.topk(min(TOP, len(sample.pred_score)))
    names = [encodable(class_name(classes, label)) for label in labels.tolist()]
    ranked: dict[str, float] = {}
    for name, score in zip(names, scores.tolist(), strict=True):
        ranked.setdefault(name, score)
    return {"class": names[0], "score": scores[0].item(), "scores": ranked}


def instance_lines(sample: BaseDataElement, category_ids: Sequence[int]) -> list[dict]:
    """A detector's instances in COCO's results format, but for what names their image."""
    return [
        {key: one[key] for key in one if key not in ("image_id", "file_name")}
        for one in to_coco(sample, 0, "", category_ids)
    ]


def in_threads(
    prepare: Callable[[int], Item], count: int, ahead: int, threads: int = 1
) -> Iterator[Item]:
    """Images in order, prepared by threads that are some images ahead."""
    with ThreadPoolExecutor(threads) as pool:
        futures: deque[Future] = deque()
        try:
            for i in range(count):
                futures.append(pool.submit(prepare, i))
                if len(futures) > ahead:
                    yield futures.popleft().result()
            while futures:
                yield futures.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def batches(predictor: Predictor, items: Iterable[Item], batch_size: int) -> Iterator[list[Item]]:
    """Images of one prepared size, together; one that is skipped, by itself."""
    pending: dict[tuple[int, ...], list[Item]] = {}  # the first has waited for longest
    for item in items:
        if item.reason or predictor.tiling:
            yield [item]
            continue
        shape = tuple(item.data["inputs"].shape)
        pending.setdefault(shape, []).append(item)
        if len(pending[shape]) == batch_size:
            yield pending.pop(shape)
        elif sum(map(len, pending.values())) >= MAX_PENDING * batch_size:
            yield pending.pop(next(iter(pending)))
    yield from pending.values()


def predict_batch(
    predictor: Predictor, batch: list[Item]
) -> Iterator[tuple[Item, BaseDataElement | None]]:
    """Each image of a batch with its prediction, or with None and a reason."""
    if not batch[0].reason:
        try:
            if predictor.tiling:
                (item,) = batch
                item.image, sample = predictor.predict_in_tiles(item.path or item.image)
                yield item, sample
                return
            yield from zip(batch, predictor.predict([item.data for item in batch]), strict=True)
            return
        except UserError as error:
            if len(batch) > 1:  # they may be too many for the memory
                for item in batch:
                    yield from predict_batch(predictor, [item])
                return
            batch[0].reason = f"{batch[0].name}: {error}"
    yield batch[0], None
