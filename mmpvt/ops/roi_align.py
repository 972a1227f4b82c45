"""RoIAlign (He et al., arXiv 1703.06870, section 3): a map's values in boxes, at a fixed size.

A box is cut into bins, a bin into a grid of samples; a bin's value is the mean, or the maximum, of
the map's bilinear interpolations there. An interpolation's weights are products of one for the row
and one for the column, and so are their sums over a grid. The sums of all bins of a box are
therefore ``rows @ map @ columns.T``: two small matrix products, for any number of samples.

Numbers narrower than float32 are computed with in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmpvt.ops.arithmetic import at_least_float32

_MAX = 0  # pool_mode; 1 is the mean
_PROMPT_DEVICES = {"cpu"}  # where it costs little to start an operation, so small ones do


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Pools the boxes of a map.

    A sample up to a pixel outside the map has the value at the border, others outside it have 0.
    A bin without samples, as of a box without area under ``sampling_ratio`` 0, has mean 0 and
    maximum -10000.

    Means are torchvision's where it is installed and fits this PyTorch, except on the CPU, where
    its kernel is the slower one, and where PyTorch is to be deterministic, as its gradient is not.

    Args:
        input (Tensor): (B, C, H, W); channels-last in memory is quickest.
        rois (Tensor): (R, 5), boxes (index into B, x1, y1, x2, y2).
        output (Tensor): (R, C, aligned_height, aligned_width), set to the values of the bins.
        argmax_y, argmax_x (Tensor): shaped as ``output``, set to row and column of the sample that
            is the maximum, -1 if there is none. Unused for means.
        aligned_height, aligned_width (int): bins from top to bottom, and from left to right.
        spatial_scale (float): pixels of the map to one unit of the boxes.
        sampling_ratio (int): a bin has this number of rows and of columns of samples; 0 for as few
            as are a pixel or less apart.
        pool_mode (int): 0 for maxima, 1 for means.
        aligned (bool): whether the centre of the map's first pixel is at 0.5; if not, it is at 0,
            and a box is at least a pixel wide and high.
    """
    if not output.numel():
        return
    x = at_least_float32(input)
    rois = rois.to(x.dtype)
    bins = (aligned_height, aligned_width)
    axes = _axes(rois, x.shape, bins, spatial_scale, sampling_ratio, aligned)
    if pool_mode == _MAX:
        _maxima(x, rois, axes, output, argmax_y, argmax_x)
    elif kernels := _torchvision_kernels(x.device.type):
        output.copy_(kernels[0](x, rois, spatial_scale, *bins, sampling_ratio, aligned))
    else:
        _means(x, rois, axes, output)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """The gradient of :func:`roi_align_forward` by its map; unlisted arguments are that function's.

    Args:
        grad_output (Tensor): (R, C, aligned_height, aligned_width), the gradient by ``output``.
        grad_input (Tensor): (B, C, H, W), zeros, set to the gradient; may become channels-last.
    """
    if not grad_output.numel():
        return
    grad = at_least_float32(grad_output)
    rois = rois.to(grad.dtype)
    shape = grad_input.shape
    bins = (aligned_height, aligned_width)
    axes = _axes(rois, shape, bins, spatial_scale, sampling_ratio, aligned)
    if pool_mode == _MAX:
        grad_input.copy_(_maxima_backward(grad, rois, argmax_y, argmax_x, shape))
    elif kernels := _torchvision_kernels(grad.device.type):
        options = (spatial_scale, *bins, *shape, sampling_ratio, aligned)
        grad_input.copy_(kernels[1](grad, rois, *options))
    elif grad_input.dtype == grad.dtype and grad_input.is_contiguous():
        # zeros are zeros in any order: to declare them channels-last saves reordering a map
        _, channels, height, width = shape
        strides = (height * width * channels, 1, width * channels, channels)
        _means_backward(grad, rois, axes, grad_input.as_strided_(shape, strides))
    else:
        total = torch.zeros_like(grad_input, dtype=grad.dtype, memory_format=torch.channels_last)
        _means_backward(grad, rois, axes, total)
        grad_input.copy_(total)


class _Axis(NamedTuple):
    """Where the samples of R boxes lie along the rows, or the columns, of a map."""

    start: Tensor  # (R, 1), where a box's first bin begins
    extent: Tensor  # (R, 1), of a bin
    grid: Tensor  # (R, 1) int64, how many samples a bin has
    bins: int
    size: int  # of the map

    def position(self, bin: Tensor, sample: Tensor | int) -> Tensor:
        """Where a bin's sample is; rounded as by the compiled code, operation for operation."""
        return self.start + bin * self.extent + (sample + 0.5) * self.extent / self.grid

    def samples(self, box: int, grid: int) -> Tensor:
        """Where all samples of one box are, (bins, grid)."""
        device = self.start.device
        bin, sample = torch.arange(self.bins, device=device), torch.arange(grid, device=device)
        one = _Axis(self.start[box], self.extent[box], self.grid[box], self.bins, self.size)
        return one.position(bin.unsqueeze(1), sample)


def _axes(
    rois: Tensor,
    shape: tuple[int, ...],
    bins: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Iterator[_Axis]:
    """Of the rows, then of the columns, of a map of this ``shape``."""
    scale = float(np.float32(spatial_scale))  # as the compiled code has it
    for first, count, size in zip((2, 1), bins, shape[2:], strict=True):
        start, end = (rois[:, first::2] * scale - 0.5 * aligned).split(1, dim=1)
        length = end - start if aligned else (end - start).clamp(min=1)
        extent = length / count
        if sampling_ratio > 0:
            grid = torch.full_like(extent, sampling_ratio)
        else:  # none for what is negative, infinite or not a number
            grid = extent.float().ceil().nan_to_num(0, posinf=0).clamp(0, 2**31)
        yield _Axis(start, extent, grid.long(), count, size)


def _neighbours(position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The pixels before and after each position, the weight of the latter, and whether the map
    has a value there at all."""
    inside = (position >= -1) & (position <= size)
    position = torch.where(inside, position, 0).clamp(0, size - 1)
    low = position.long()
    return low, (low + 1).clamp(max=size - 1), position - low, inside


def _means(x: Tensor, rois: Tensor, axes: Iterable[_Axis], output: Tensor) -> None:
    rows, columns = axes
    output.zero_()
    counts = _samples_of_a_bin(rows, columns)
    with torch.autocast(x.device.type, enabled=False):
        for boxes, window, row, column in _windows(x, rois, rows, columns):
            bands = (row @ window.flatten(1)).view(-1, rows.bins, *window.shape[1:])
            means = column @ bands / counts[boxes]
            output[boxes] = means.permute(0, 3, 1, 2).to(output.dtype)


def _means_backward(grad: Tensor, rois: Tensor, axes: Iterable[_Axis], total: Tensor) -> None:
    """Adds the gradient to ``total``, (B, C, H, W), which is channels-last."""
    rows, columns = axes
    counts = _samples_of_a_bin(rows, columns)
    with torch.autocast(grad.device.type, enabled=False):
        for boxes, window, row, column in _windows(total, rois, rows, columns):
            bands = column.mT @ (grad[boxes] / counts[boxes]).permute(0, 2, 3, 1)
            window.view(len(window), -1).addmm_(row.mT, bands.view(len(row), -1))


def _samples_of_a_bin(rows: _Axis, columns: _Axis) -> Tensor:
    """How many they are, at least 1, (R, 1, 1, 1)."""
    return (rows.grid * columns.grid).clamp(min=1)[:, :, None, None]


def _windows(
    x: Tensor, rois: Tensor, rows: _Axis, columns: _Axis
) -> Iterator[tuple[slice | Tensor, Tensor, Tensor, Tensor]]:
    """Groups of n boxes, each with a window of ``x``, (B, C, H, W), that has all of its samples.

    Yields:
        tuple: the boxes' indices; the window, an (h, w, C) view; the weights of its rows,
            (n * bins, h), and of its columns, (n, 1, bins, w), in the sums.
    """
    x = x.permute(0, 2, 3, 1)
    image = rois[:, 0].long()
    row_weights, top, bottom = _sum_weights(rows)
    column_weights, left, right = _sum_weights(columns)
    if x.device.type in _PROMPT_DEVICES:  # a window for each box: the least to compute
        edges = torch.stack([image, top, bottom, left, right], dim=1).tolist()
        groups = [(slice(i, i + 1), *edge) for i, edge in enumerate(edges)]
    else:  # all of the image for as many of its boxes as fit in memory: the fewest launches
        most = max(2**26 // (rows.bins * x[0, 0].numel()), 1)
        by_image = image.argsort().split(image.bincount(minlength=len(x)).tolist())
        groups = [
            (boxes, i, 0, rows.size, 0, columns.size)
            for i, members in enumerate(by_image)
            for boxes in members.split(most)
        ]
    for boxes, i, y1, y2, x1, x2 in groups:
        row, column = row_weights[boxes, :, y1:y2], column_weights[boxes, :, x1:x2]
        if row.numel() and column.numel():
            yield boxes, x[i, y1:y2, x1:x2], row.flatten(0, 1), column.unsqueeze(1)


def _sum_weights(axis: _Axis) -> tuple[Tensor, Tensor, Tensor]:
    """What each pixel counts in the sum of each bin's samples, (R, bins, size); and, (R,) each,
    the first pixel that counts and the one after the last."""
    start, extent, grid, bins, size = axis
    # of a box far larger than the map, only the samples near the map are gone through
    step = extent / grid
    first = torch.where(step > 0, (-1 - start) / step - 2.5, 0)
    last = torch.where(step > 0, (size - start) / step + 2.5, 2**31)
    first, last = (
        torch.minimum(edge.nan_to_num(0).clamp(0, 2**31).long(), bins * grid)
        for edge in (first, last)
    )
    sample = first + torch.arange(max(int((last - first).max()), 1), device=start.device)
    grid = grid.clamp(min=1)
    bin = (sample // grid).clamp(max=bins - 1)

    low, high, fraction, inside = _neighbours(axis.position(bin, sample - bin * grid), size)
    inside &= sample < last
    weights = start.new_zeros(len(start) * bins * size)
    index = (torch.arange(len(start), device=start.device).unsqueeze(1) * bins + bin) * size
    weights.index_add_(0, (index + low).flatten(), (inside * (1 - fraction)).flatten())
    weights.index_add_(0, (index + high).flatten(), (inside * fraction).flatten())
    return (
        weights.view(len(start), bins, size),
        torch.where(inside, low, size).amin(1),
        torch.where(inside, high + 1, 0).amax(1),
    )


def _maxima(
    x: Tensor,
    rois: Tensor,
    axes: Iterable[_Axis],
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
) -> None:
    rows, columns = axes
    results = (output.fill_(-10000), argmax_y.fill_(-1), argmax_x.fill_(-1))
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
    grids = torch.cat([rois[:, :1].long(), rows.grid, columns.grid], dim=1).tolist()
    for box, (image, tall, wide) in enumerate(grids):
        if not tall * wide:
            continue
        y = rows.samples(box, tall)[:, None, :, None]
        x = columns.samples(box, wide)[None, :, None, :]
        corners = list(_corners(y, x, rows.size, columns.size))
        every = corners[0][0].shape  # (bins, bins, tall, wide)
        most = max(2**23 // every.numel(), 1)  # bounds memory
        for some, *parts in zip(
            pixels[image].split(most, dim=1), *(r[box].split(most) for r in results), strict=True
        ):
            values = sum(weight.unsqueeze(4) * some[index] for index, weight in corners)
            best, which = values.flatten(2, 3).max(2)
            at_y, at_x = (at.expand(every).flatten(2).gather(2, which) for at in (y, x))
            for part, result in zip(parts, (best, at_y, at_x), strict=True):
                part.copy_(result.permute(2, 0, 1))


def _maxima_backward(
    grad: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, shape: tuple[int, ...]
) -> Tensor:
    """The gradient, ``shape``, of each maximum by the pixels that it was interpolated from."""
    _, channels, height, width = shape
    total = grad.new_zeros(shape)
    channel = torch.arange(channels, device=grad.device)
    plane = (rois[:, :1].long() * channels + channel)[:, :, None, None] * (height * width)
    grad = grad * (argmax_y != -1)
    y, x = argmax_y.to(grad.dtype), argmax_x.to(grad.dtype)
    for index, weight in _corners(y, x, height, width):
        total.view(-1).index_add_(0, (plane + index).flatten(), (weight * grad).flatten())
    return total


def _corners(y: Tensor, x: Tensor, height: int, width: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The four pixels around each sample: index into a map's rows one after the other, weight."""
    top, bottom, down, inside_y = _neighbours(y, height)
    left, right, across, inside_x = _neighbours(x, width)
    inside = inside_y & inside_x
    for row, row_weight in ((top, 1 - down), (bottom, down)):
        for column, column_weight in ((left, 1 - across), (right, across)):
            yield row * width + column, row_weight * column_weight * inside


def _torchvision_kernels(device_type: str) -> tuple[Callable[..., Tensor], ...] | None:
    """torchvision's forward and backward, or None where others do better or it cannot."""
    if device_type == "cpu" or torch.are_deterministic_algorithms_enabled():
        return None
    return _find_torchvision_kernels(device_type)


@functools.cache
def _find_torchvision_kernels(device_type: str) -> tuple[Callable[..., Tensor], ...] | None:
    """Or None where torchvision is absent or has no kernel for this device."""
    try:
        import torchvision  # noqa: F401, it registers its operators

        forward = torch.ops.torchvision.roi_align
        backward = torch.ops.torchvision._roi_align_backward
        box = torch.zeros(1, 5, device=device_type)
        backward(box.view(1, 5, 1, 1), box, 1.0, 1, 1, 1, 5, 1, 1, 0, True)
    except (ImportError, RuntimeError, AttributeError):  # built for another PyTorch, or no CUDA
        return None
    return forward, backward
