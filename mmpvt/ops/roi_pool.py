"""RoIPool (Girshick, arXiv 1504.08083, section 2.1), and deformable RoI pooling (1703.06211)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mmpvt.ops.arithmetic import at_least_float32, differentiate


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """The maxima of a map over the bins of boxes.

    Args:
        input (Tensor): (B, C, H, W).
        rois (Tensor): (R, 5), boxes (index into B, x1, y1, x2, y2), the last pixel within.
        output (Tensor): (R, C, pooled_height, pooled_width), set to the maxima; 0 of an empty bin.
        argmax (Tensor): likewise, int32, set to where in the map they are, row by row; -1 of an
            empty bin.
        pooled_height, pooled_width (int): bins from top to bottom, and from left to right.
        spatial_scale (float): pixels of the map to one unit of the boxes.
    """
    width = input.size(3)
    output.zero_()
    argmax.fill_(-1)
    for roi, image, i, j, rows, columns in _bins(
        rois, input.shape, pooled_height, pooled_width, spatial_scale
    ):
        window = input[image, :, rows, columns]
        best, where = window.flatten(1).max(1)
        wide = window.size(2)
        output[roi, :, i, j] = best
        argmax[roi, :, i, j] = (
            (where // wide + rows.start) * width + where % wide + columns.start
        ).int()


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    **_options: Any,
) -> None:
    """The gradient of :func:`roi_pool_forward` by its map; unlisted arguments are that function's.

    Args:
        grad_output (Tensor): (R, C, pooled_height, pooled_width), the gradient by ``output``.
        grad_input (Tensor): (B, C, H, W), zeros, set to the gradient.
    """
    _, channels, height, width = grad_input.shape
    channel = torch.arange(channels, device=rois.device)
    plane = (rois[:, :1].long() * channels + channel)[:, :, None, None] * (height * width)
    found = argmax >= 0
    index = (plane + argmax.long().clamp(min=0)).flatten()
    total = torch.zeros_like(grad_input, memory_format=torch.contiguous_format)
    total.view(-1).index_add_(0, index, (grad_output * found).flatten())
    grad_input.copy_(total)


def deform_roi_pool_forward(
    input: Tensor, rois: Tensor, offset: Tensor, output: Tensor, **options: Any
) -> None:
    """The means of a map over bins of boxes, each bin moved by an offset.

    Args:
        input (Tensor): (B, C, H, W).
        rois (Tensor): (R, 5), boxes (index into B, x1, y1, x2, y2).
        offset (Tensor): (R, 2, pooled_height, pooled_width), how far right, then down, a bin is
            moved, in units of ``gamma`` times the box's size; or empty.
        output (Tensor): (R, C, pooled_height, pooled_width), set to the means.
        **options: ``pooled_height, pooled_width, spatial_scale``, as of
            :func:`roi_pool_forward`; ``sampling_ratio``, rows and columns of samples in a bin, 0
            for as few as are a pixel or less apart; ``gamma``, the scale of the offsets.
    """
    for i, out in enumerate(output):
        out.copy_(_deformed(input, rois[i], offset[i] if offset.numel() else None, **options))


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    **options: Any,
) -> None:
    """The gradients of :func:`deform_roi_pool_forward` by its map and its offsets; unlisted
    arguments are that function's.

    Args:
        grad_output (Tensor): (R, C, pooled_height, pooled_width), the gradient by ``output``.
        grad_input, grad_offset (Tensor): as ``input`` and ``offset``, set to their gradients.
    """
    if not len(rois):
        return

    def pool(x: Tensor, offset: Tensor | None = None) -> Tensor:
        offsets = [None] * len(rois) if offset is None else offset
        pairs = zip(rois, offsets, strict=True)
        return torch.stack([_deformed(x, roi, moved, **options) for roi, moved in pairs])

    inputs, grads = [input], [grad_input]
    if offset.numel():
        inputs, grads = [input, offset], [grad_input, grad_offset]
    differentiate(pool, map(at_least_float32, inputs), at_least_float32(grad_output), grads)


def _bins(
    rois: Tensor, shape: tuple[int, ...], tall: int, wide: int, scale: float
) -> Iterator[tuple[int, int, int, int, slice, slice]]:
    """Of each bin that has a pixel: box, image, row and column of the bin, rows and columns."""
    _, _, height, width = shape
    for roi, (image, *box) in enumerate(rois.tolist()):
        x1, y1 = box[0] * scale, box[1] * scale
        size = ((box[3] + 1) * scale - y1, (box[2] + 1) * scale - x1)
        if min(size) <= 0:
            continue
        rows = [_span(y1, size[0] / tall, i, height) for i in range(tall)]
        columns = [_span(x1, size[1] / wide, j, width) for j in range(wide)]
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                if row.start < row.stop and column.start < column.stop:
                    yield roi, int(image), i, j, row, column


def _span(start: float, extent: float, index: int, size: int) -> slice:
    first = math.floor(index * extent + start)
    last = math.ceil((index + 1) * extent + start)
    return slice(min(max(first, 0), size), min(max(last, 0), size))


def _deformed(
    input: Tensor,
    roi: Tensor,
    offset: Tensor | None,
    *,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> Tensor:
    """(C, bins) of one box; differentiable by ``input`` and ``offset``."""
    image = at_least_float32(input[int(roi[0])])
    x1, y1, x2, y2 = at_least_float32(roi[1:]) * spatial_scale - 0.5
    bins = (pooled_height, pooled_width)
    positions = []
    for axis, (start, end) in enumerate(((y1, y2), (x1, x2))):
        extent = (end - start) / bins[axis]
        grid = sampling_ratio if sampling_ratio > 0 else max(math.ceil(float(extent)), 1)
        index = torch.arange(bins[axis], device=image.device)
        sample = (torch.arange(grid, device=image.device) + 0.5) * extent / grid
        at = start + index.unsqueeze(1) * extent + sample
        shape = [bins[0], 1, 1, 1] if axis == 0 else [1, bins[1], 1, 1]
        shape[2 + axis] = grid
        at = at.view(shape)
        if offset is not None:  # right comes before down
            at = at + (gamma * (end - start) * offset[1 - axis])[:, :, None, None]
        positions.append(at)
    y, x = torch.broadcast_tensors(*positions)
    return _interpolate(image, y, x).flatten(3).mean(3)


def _interpolate(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """(C, H, W) at positions: up to a pixel outside as at the border, 0 beyond."""
    height, width = image.shape[1:]
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.detach().floor().long(), x.detach().floor().long()
    bottom, right = (top + 1).clamp(max=height - 1), (left + 1).clamp(max=width - 1)
    down, across = y - top, x - left
    upper = image[:, top, left] * (1 - across) + image[:, top, right] * across
    lower = image[:, bottom, left] * (1 - across) + image[:, bottom, right] * across
    return (upper * (1 - down) + lower * down) * inside
