"""Merging the predictions on an image's tiles into one.

Sahi's greedy merging compares boxes by intersection over the smaller one, which also takes an
object that lies in front of another of its class for a part of it; MMDetection's NMS compares by
IoU, which keeps the half of an object that a tile's border has cut beside the object. Here two
boxes are one object where they agree in the area that both tiles see. docs/predict.md compares.
"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from pycocotools import mask as coco_mask
from torch import Tensor

from mmpvt.engine.tiles.tiling import Box, Tiling
from mmpvt.errors import OutputError

SAME = 0.5  # IoU from which on two tiles' boxes of one class are one object
STRONG = 0.5  # of a score: what is found with less doesn't shape the object that it is part of
CUT = 2.0  # pixels: a box that ends so close to a tile's border is taken to go on behind it
ON_DISK = 2**28  # bytes: from here on, sums of logits that wait for the next tiles are a file


def merge_tiles(
    tiling: Tiling,
    shape: tuple[int, int],
    tiles: Iterable[tuple[Box, BaseDataElement]],
    whole: BaseDataElement | None = None,
    threshold: float = 0.5,
) -> dict[str, Any]:
    """One prediction from those on tiles.

    Args:
        tiling (Tiling): gave the tiles.
        shape (tuple[int, int]): height and width of the image.
        tiles (Iterable[tuple[Box, BaseDataElement]]): each with its prediction, on the CPU, in the
            order of :meth:`Tiling.boxes`. They are taken one after the other, and not kept.
        whole (BaseDataElement | None): the prediction on the whole image, perhaps made smaller.
            Default: none.
        threshold (float): of a segmenter of one class. Default: 0.5.

    Returns:
        dict[str, Any]: ``pred_instances`` in the image's pixels, highest score first, where masks
        are a list of RLE dicts; or ``pred_sem_seg``, whose data is uint8, or int32 where there are
        more than 256 classes.

    Raises:
        OutputError: there is no room for the temporary file.
    """
    iterator = iter(tiles)
    first = next(iterator)
    rest = _chained(first, iterator)
    if "pred_sem_seg" in first[1]:
        labels = _average_logits(tiling, shape, rest, whole, threshold)
        return dict(pred_sem_seg=PixelData(data=labels[None]))
    found = [(box, sample.pred_instances) for box, sample in rest]
    if whole is not None:
        found.append((Box(0, 0, shape[1], shape[0]), _enlarged(whole, shape)))
    return dict(pred_instances=merge_instances(found, shape))


def _chained(first: Any, rest: Iterator) -> Iterator:
    yield first
    del first  # of a large image, its logits
    yield from rest


def _enlarged(whole: BaseDataElement, shape: tuple[int, int]) -> InstanceData:
    """Instances of a smaller image in the pixels of the image itself, masks as they are."""
    instances = whole.pred_instances
    scale = [new / old for new, old in zip(shape[::-1], whole.ori_shape[1::-1], strict=True)] * 2
    return InstanceData(
        **{key: value for key, value in instances.items() if key != "bboxes"},
        bboxes=_tensor(instances) * torch.tensor(scale),
    )


def _tensor(instances: InstanceData) -> Tensor:
    return getattr(instances.bboxes, "tensor", instances.bboxes)


def merge_instances(
    found: Sequence[tuple[Box, InstanceData]], shape: tuple[int, int]
) -> InstanceData:
    """The instances of an image from those of its tiles.

    Two boxes of one class in different tiles are one object if their parts in the area that both
    tiles see have an IoU of at least 0.5; where no border cuts either, the boxes themselves. Of an
    object's boxes the one that no border cuts is taken, else all that are found with at least half
    of the highest score are joined. The score is the highest.

    Args:
        found (Sequence[tuple[Box, InstanceData]]): a tile, and its ``bboxes`` (n, 4) in its own
            pixels, ``scores``, ``labels`` and perhaps ``masks`` (n, h, w), of any size.
        shape (tuple[int, int]): height and width of the image.

    Returns:
        InstanceData: highest score first; masks are a list of RLE dicts.
    """
    tiles = torch.tensor([box for box, _ in found], dtype=torch.float32)
    owner = torch.cat([torch.full((len(one),), i) for i, (_, one) in enumerate(found)])
    boxes = torch.cat([_tensor(one).float() for _, one in found]) + tiles[owner][:, [0, 1, 0, 1]]
    scores = torch.cat([one.scores for _, one in found])
    labels = torch.cat([one.labels for _, one in found])
    edge = torch.tensor([0.0, 0.0, shape[1], shape[0]])
    inner = tiles[owner] != edge  # sides of tiles that aren't the image's own
    cut = (((boxes - tiles[owner]).abs() <= CUT) & inner).any(1).tolist()
    partners = _same_objects(tiles, owner, boxes, labels, torch.tensor(cut))
    with_masks = all("masks" in one for _, one in found)
    places = [(tile, n) for tile, (_, one) in enumerate(found) for n in range(len(one))]

    kept, kept_boxes, masks = [], [], []
    for best, parts in _objects(scores, partners, cut):
        its = boxes[parts]
        kept.append(best)
        kept_boxes.append(torch.cat([its[:, :2].amin(0), its[:, 2:].amax(0)]))
        if with_masks:
            of_tiles = [(found[tile], n) for tile, n in (places[part] for part in parts)]
            masks.append(_joined_mask([(box, one.masks[n]) for (box, one), n in of_tiles], shape))
    index = torch.tensor(kept, dtype=torch.long)
    merged = InstanceData(
        bboxes=torch.stack(kept_boxes) if kept else boxes[:0],
        scores=scores[index],
        labels=labels[index],
    )
    if with_masks:
        merged.masks = masks
    return merged


def _objects(
    scores: Tensor, partners: dict[int, list[int]], cut: list[bool]
) -> Iterator[tuple[int, list[int]]]:
    """Each object's box of the highest score, and the boxes that make up its own."""
    order = scores.argsort(descending=True, stable=True).tolist()
    rank = {box: place for place, box in enumerate(order)}
    score = scores.tolist()
    taken = set()
    for best in order:
        if best in taken:
            continue
        taken.add(best)
        intact = None if cut[best] else best
        parts, waiting = [best], [best]
        while waiting:
            for other in sorted(partners.get(waiting.pop(), ()), key=rank.__getitem__):
                if other in taken:
                    continue
                taken.add(other)
                if score[other] < STRONG * score[best] or intact is not None:
                    continue
                if cut[other]:
                    parts.append(other)
                else:
                    intact = other
                waiting.append(other)
        yield best, parts if intact is None else [intact]


def _same_objects(
    tiles: Tensor, owner: Tensor, boxes: Tensor, labels: Tensor, cut: Tensor
) -> dict[int, list[int]]:
    """For each box those of other tiles that are the same object."""
    partners: dict[int, list[int]] = {}
    members = [(owner == i).nonzero()[:, 0] for i in range(len(tiles))]
    low = torch.maximum(tiles[:, None, :2], tiles[None, :, :2])
    high = torch.minimum(tiles[:, None, 2:], tiles[None, :, 2:])
    for one, other in (low < high).all(-1).triu(1).nonzero().tolist():
        a, b = members[one], members[other]
        if not len(a) or not len(b):
            continue
        shared = torch.cat([low[one, other], high[one, other]])
        limits = shared[[0, 1, 0, 1]], shared[[2, 3, 2, 3]]
        seen = bbox_overlaps(boxes[a].clamp(*limits), boxes[b].clamp(*limits))
        both = ~cut[a][:, None] & ~cut[b][None]
        iou = torch.where(both, bbox_overlaps(boxes[a], boxes[b]), seen)
        same = (iou >= SAME) & (labels[a][:, None] == labels[b][None])
        for row, column in same.nonzero().tolist():
            i, j = int(a[row]), int(b[column])
            partners.setdefault(i, []).append(j)
            partners.setdefault(j, []).append(i)
    return partners


def _joined_mask(parts: Sequence[tuple[Box, Any]], shape: tuple[int, int]) -> dict:
    """The union of masks of tiles, as RLE of the whole image.

    Only the columns that it covers are made: a mask of 20,000x20,000 pixels takes 400 MB.
    """
    left, right = min(box.left for box, _ in parts), max(box.right for box, _ in parts)
    columns = np.zeros((shape[0], right - left), np.uint8, order="F")
    for box, mask in parts:
        size = (box.bottom - box.top, box.right - box.left)
        mask = torch.as_tensor(np.asarray(mask)).float()[None, None]
        if mask.shape[2:] != size:  # of the whole image, made smaller
            mask = torch.nn.functional.interpolate(mask, size, mode="bilinear")
        place = (slice(box.top, box.bottom), slice(box.left - left, box.right - left))
        columns[place] |= (mask[0, 0] >= 0.5).numpy()
    changes = np.flatnonzero(np.diff(columns.reshape(-1, order="F"), prepend=0))
    starts = np.concatenate([[0], changes + left * shape[0], [shape[0] * shape[1]]])
    if columns[-1, -1]:  # the run of the last column ends with it
        starts = np.insert(starts, -1, right * shape[0])
    counts = np.diff(starts).tolist()
    if not counts[-1]:  # the image's last pixel is of the mask
        counts.pop()
    return dict(coco_mask.frPyObjects(dict(size=list(shape), counts=counts), *shape))


def _average_logits(
    tiling: Tiling,
    shape: tuple[int, int],
    tiles: Iterable[tuple[Box, BaseDataElement]],
    whole: BaseDataElement | None,
    threshold: float,
) -> Tensor:
    """A label map, (height, width), of the logits' averages where tiles overlap.

    Of the logits, a tile's are in memory, and those that the next row of tiles overlaps; the latter
    in a file where they are large.
    """
    height, width = shape
    tops = sorted({box.top for box in tiling.boxes(height, 1)})
    lefts = sorted({box.left for box in tiling.boxes(1, width)})
    counts = [np.zeros(length, np.float32) for length in shape]
    for count, starts in zip(counts, (tops, lefts), strict=True):
        for start in starts:
            count[start : start + tiling.size] += 1
    labels: Tensor | None = None
    carried: np.ndarray | None = None  # of the tile to the left, from where this one begins
    with tempfile.TemporaryFile(prefix="mmpvt-") as file:
        for box, sample in tiles:
            logits = sample.seg_logits.data.float().numpy().copy()
            if labels is None:
                classes = len(logits)
                dtype = torch.uint8 if classes <= 256 else torch.int32
                labels = torch.zeros(shape, dtype=dtype)
                reach = [a + tiling.size - b for a, b in itertools.pairwise(tops)]
                waiting = _array(file, (classes, max(0, *reach, 0), width))
            row, column = tops.index(box.top), lefts.index(box.left)
            if carried is not None and column:
                logits[:, :, : carried.shape[2]] += carried
            above = max(0, tops[row - 1] + tiling.size - box.top) if row else 0
            right = lefts[column + 1] if column + 1 < len(lefts) else box.right
            bottom = tops[row + 1] if row + 1 < len(tops) else box.bottom
            carried = logits[:, :, right - box.left :].copy()
            final = logits[:, :, : right - box.left]
            here = slice(box.left, right)
            final[:, :above] += waiting[:, :above, here]
            below = final[:, bottom - box.top :]
            if row + 1 < len(tops):
                waiting[:, : below.shape[1], here] = below
            final = final[:, : bottom - box.top]
            area = Box(box.left, box.top, right, bottom)
            number = counts[0][box.top : bottom, None] * counts[1][here]
            if whole is not None:
                final = final + _sampled(whole, area, shape)
                number = number + 1
            best = final.argmax(0) if classes > 1 else final[0] / number > threshold
            labels[box.top : bottom, here] = torch.from_numpy(best).to(labels.dtype)
    assert labels is not None
    return labels


def _array(file: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Zeros, in memory or, where they are many, in a file."""
    size = math.prod(shape) * 4
    if size <= ON_DISK:
        return np.zeros(shape, np.float32)
    try:
        if hasattr(os, "posix_fallocate"):  # a disk that is full later would end the process
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.truncate(size)
    except OSError as error:
        raise OutputError(
            f"logits of overlapping tiles take {size / 1e9:.1f} GB of temporary files, which "
            f"{tempfile.gettempdir()} has no room for ({error.strerror})",
            hint="set TMPDIR to a folder with more room",
        ) from error
    return np.memmap(file, np.float32, "r+", shape=shape)


def _sampled(whole: BaseDataElement, area: Box, shape: tuple[int, int]) -> np.ndarray:
    """The whole image's logits in a part of it, (classes, height, width), bilinear."""
    y, x = (
        (torch.arange(start, stop) + 0.5) / length * 2 - 1
        for start, stop, length in (
            (area.top, area.bottom, shape[0]),
            (area.left, area.right, shape[1]),
        )
    )
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)[None]
    logits = whole.seg_logits.data.float()[None]
    sampled = torch.nn.functional.grid_sample(
        logits, grid, padding_mode="border", align_corners=False
    )
    return sampled[0].numpy()
