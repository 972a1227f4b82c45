"""Greedy and soft non-maximum suppression: index for index what mmcv's compiled code returns."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mmpvt.ops.arithmetic import at_least_float32

# Boxes that torchvision's kernel gets on the CPU: torchvision 0.29 took 0.1 to 1.7 times our time
# for up to 1,000, 0.9 to 3 times for 5,000, 3.5 times for 20,000
TORCHVISION_ON_CPU = 2000


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy non-maximum suppression: a box goes where a better one that stays overlaps it by
    more than ``iou_threshold``.

    torchvision's kernel does it where torchvision is installed and fits this PyTorch, but for many
    boxes on the CPU, where it is the slower one; otherwise tensor operations do, on any device, in
    memory that grows with N alone. Boxes narrower than float32 are compared in float32.

    Args:
        boxes (Tensor): (N, 4), corners (x1, y1, x2, y2).
        scores (Tensor): (N,). Of two equal ones the first counts as the better.
        iou_threshold (float): largest intersection over union of two boxes that both stay.
        offset (int): a box is ``x2 - x1 + offset`` wide; 1 where corners are pixel indices.

    Returns:
        Tensor: (K,) int64, indices of the boxes that stay, best first.
    """
    boxes = at_least_float32(boxes.detach())
    iou_threshold = float(np.float32(iou_threshold))  # the compiled code compares in float32
    kernel = _torchvision_nms(boxes.device.type)
    if kernel is not None and (boxes.device.type != "cpu" or len(boxes) <= TORCHVISION_ON_CPU):
        dtype = torch.promote_types(boxes.dtype, scores.dtype)  # it takes one of both
        boxes = boxes + boxes.new_tensor([0, 0, offset, offset])
        return kernel(boxes.to(dtype), scores.to(dtype), iou_threshold)
    order = scores.detach().argsort(descending=True, stable=True)
    best_first = _columns(boxes.index_select(0, order), offset)
    return order.index_select(0, _greedy(best_first, iou_threshold, offset))


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft non-maximum suppression (Bodla et al., arXiv 1704.04503): the best box lowers the
    scores of those it overlaps, then the best of the rest does, and so on.

    Args:
        boxes (Tensor): (N, 4), corners (x1, y1, x2, y2), on the CPU.
        scores (Tensor): (N,), on the CPU.
        dets (Tensor): (N, 5), on the CPU; its first K rows are set to (x1, y1, x2, y2, lowered
            score) of the boxes that stay.
        iou_threshold (float): methods 0 and 1 leave overlaps below it alone.
        sigma (float): width of method 2's Gaussian.
        min_score (float): a box whose score falls below it is dropped.
        method (int): what an overlap multiplies a score by: 0, zero; 1, ``1 - overlap``;
            2, ``exp(-overlap ** 2 / sigma)``.
        offset (int): a box is ``x2 - x1 + offset`` wide; 1 where corners are pixel indices.

    Returns:
        Tensor: (K,) int64, indices of the boxes that stay, in the order of ``dets``.
    """
    boxes = at_least_float32(boxes.detach())
    columns = _columns(boxes, offset)
    values = scores.detach().to(boxes.dtype).numpy().copy()
    index = np.arange(len(values), dtype=np.int64)
    # arrays, of the same memory, as they are quicker to index; what they hold of a box moves as one
    arrays = (columns.numpy(), values, index)
    threshold, width, lowest = np.array([iou_threshold, sigma, min_score], values.dtype)
    best, count = 0, len(values)
    while best < count:
        winner = best + values[best:count].argmax()
        for array in arrays:
            array[..., [best, winner]] = array[..., [winner, best]]

        rest = slice(best + 1, count)
        overlap = _iou(columns[:, best : best + 1], columns[:, rest], offset)[0].numpy()
        if method == 2:
            values[rest] *= np.exp(-(overlap * overlap) / width)
        else:
            values[rest] *= np.where(overlap < threshold, 1, 1 - overlap if method == 1 else 0)

        # the compiled code fills each gap with the last box left; among equal scores the first is
        # the next best, so the order that this leaves decides the result
        stays = values[rest] >= lowest
        end = best + 1 + np.count_nonzero(stays)
        gaps = best + 1 + np.flatnonzero(~stays[: end - best - 1])
        fillers = end + np.flatnonzero(stays[end - best - 1 :])[::-1]
        for array in arrays:
            array[..., gaps] = array[..., fillers]
        best, count = best + 1, end
    dets[:count, :4] = columns[:4, :count].t()
    dets[:count, 4] = torch.from_numpy(values[:count])
    return torch.from_numpy(index[:count])


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups boxes by the one that suppresses them.

    Args:
        dets (Tensor): (N, 5), corners (x1, y1, x2, y2) and score, on the CPU.
        iou_threshold (float): a box of this intersection over union with a better one, or more,
            joins that one's group.

    Returns:
        list[list[int]]: indices of each group, the best first; groups in the order of their best.
    """
    order = dets[:, 4].detach().argsort(descending=True, stable=True)
    columns = _columns(at_least_float32(dets[:, :4].detach()).index_select(0, order), 0)
    threshold = float(np.float32(iou_threshold))
    left = torch.arange(len(order))
    groups = []
    while left.numel():
        best, rest = left[:1], left[1:]
        overlap = _iou(columns.index_select(1, best), columns.index_select(1, rest), 0)[0]
        joins = overlap >= threshold
        groups.append(order[torch.cat([best, rest[joins]])].tolist())
        left = rest[~joins]
    return groups


def _greedy(boxes: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """:func:`_columns` of N boxes, best first, to the ascending int64 indices of those that stay.

    The best boxes left, a block of them, are settled among themselves; those of them that stay
    then sweep all worse ones. So no box is compared with more than its block and what stays.
    """
    # On a CPU a table of pairs stays in one core's cache, and below the size that PyTorch spreads
    # over threads: they would wait for each other for longer than they work. index_select and
    # masked_select keep to one thread, too, where [] does not. Elsewhere launches are what costs.
    block, pairs = (128, 2**15 - 1) if boxes.device.type == "cpu" else (1024, 2**23)
    left = torch.arange(boxes.size(1), device=boxes.device)
    kept = [left[:0]]
    while left.numel():
        head, left = left[:block], left[block:]
        among = boxes.index_select(1, head)
        head = head.masked_select(_settle(_iou(among, among, offset) > iou_threshold))
        kept.append(head)
        staying = boxes.index_select(1, head)
        worst = [
            _iou(staying, boxes.index_select(1, part), offset).amax(0)
            for part in left.split(pairs // head.numel())
        ]
        left = left.masked_select(torch.cat(worst) <= iou_threshold)
    return torch.cat(kept)


def _settle(overlaps: Tensor) -> Tensor:
    """Which boxes of a block stay, (B,) bool, from ``overlaps``, (B, B) bool, of any two.

    "What no staying box rules out stays", repeated until nothing changes: the first k boxes are
    right after k rounds, and few rounds are needed as chains of overlap are short.
    """
    rank = torch.arange(len(overlaps), device=overlaps.device)
    # bytes, whose amax() is far quicker than any() of booleans
    rules_out = (overlaps & (rank[:, None] < rank)).view(torch.uint8)
    stays = torch.ones_like(overlaps[0])
    while True:
        before, stays = stays, (rules_out & stays[:, None]).amax(0) == 0
        if torch.equal(before, stays):
            return stays


def _columns(boxes: Tensor, offset: int) -> Tensor:
    """(N, 4) corners to (5, N): x1, y1, x2, y2 and area, each contiguous."""
    x1, y1, x2, y2 = boxes.t()
    return torch.stack([x1, y1, x2, y2, (x2 - x1 + offset) * (y2 - y1 + offset)])


def _iou(a: Tensor, b: Tensor, offset: int) -> Tensor:
    """Intersection over union, (M, N), of :func:`_columns` of M and of N boxes; 0 where that is
    not a number.

    Rounds as the compiled code does, operation for operation; in place, as memory is the cost.
    """
    ax1, ay1, ax2, ay2, area_a = a.unsqueeze(2)
    bx1, by1, bx2, by2, area_b = b
    width = torch.minimum(ax2, bx2).sub_(torch.maximum(ax1, bx1)).add_(offset).clamp_(min=0)
    height = torch.minimum(ay2, by2).sub_(torch.maximum(ay1, by1)).add_(offset).clamp_(min=0)
    intersection = width.mul_(height)
    union = torch.add(area_a, area_b, out=height).sub_(intersection)
    return intersection.div_(union).nan_to_num_(0)


@functools.cache
def _torchvision_nms(device_type: str) -> Callable[[Tensor, Tensor, float], Tensor] | None:
    """torchvision's ``nms``, or None where it is absent or has no kernel for this device."""
    try:
        from torchvision.ops import nms as kernel

        one_box = torch.zeros(1, 4, device=device_type)
        kernel(one_box, one_box[:, 0], 0.5)
    except (ImportError, RuntimeError, AttributeError):  # built for another PyTorch, or no CUDA
        return None
    return kernel
