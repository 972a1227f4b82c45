"""Deformable convolution (Dai et al., arXiv 1703.06211), and modulated (Zhu et al., 1811.11168).

Each tap of the kernel reads the map at its own place plus a learned offset, interpolated; the
modulated kind weights what it reads, too. So the taps of all positions are sampled into columns,
and the convolution is a matrix product. An image at a time, as columns are kernel-size times the
map. Numbers narrower than float32 are computed with in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmpvt.ops.arithmetic import at_least_float32, differentiate


class _Geometry(NamedTuple):
    """Each pair is (vertical, horizontal)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    deform_groups: int


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, *_buffers: Tensor, **options: int
) -> None:
    """Deformable convolution, without bias.

    Args:
        input (Tensor): (B, C, H, W).
        weight (Tensor): (O, C / group, kH, kW).
        offset (Tensor): (B, deformable_group * 2 * kH * kW, h, w), pixels that each tap of each
            output position is moved by: for each group and tap, down, then right.
        output (Tensor): (B, O, h, w), set to the result.
        *_buffers (Tensor): unused.
        **options (int): ``kH, kW, dH, dW, padH, padW, dilationH, dilationW, group,
            deformable_group``: kernel, stride, padding, dilation and groups; ``im2col_step`` is
            unused.
    """
    _forward(input, weight, offset, None, output, _geometry(options))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    *_buffers: Tensor,
    **options: int,
) -> None:
    """The gradients of :func:`deform_conv_forward` by its map and its offsets; unlisted arguments
    are that function's.

    Args:
        grad_output (Tensor): (B, O, h, w), the gradient by ``output``.
        grad_input, grad_offset (Tensor): as ``input`` and ``offset``, set to their gradients.
    """
    geometry = _geometry(options)
    for i, grad in enumerate(grad_output):
        grads = (grad_input[i], grad_offset[i])
        _backward_columns((input[i], offset[i]), weight, grad, geometry, grads)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    *_buffers: Tensor,
    scale: float = 1,
    **options: int,
) -> None:
    """Adds the gradient of :func:`deform_conv_forward` by its weight; unlisted arguments are that
    function's.

    Args:
        grad_output (Tensor): (B, O, h, w), the gradient by ``output``.
        grad_weight (Tensor): as ``weight``, added to.
        scale (float): factor of what is added.
    """
    geometry = _geometry(options)
    for i, grad in enumerate(grad_output):
        columns = _columns(input[i], offset[i], None, grad.shape[1:], geometry)
        grad_weight.add_(_weight_gradient(columns, grad, geometry).view_as(grad_weight) * scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    _ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    _columns_buffer: Tensor,
    with_bias: bool = False,
    **options: int,
) -> None:
    """Modulated deformable convolution.

    Args:
        input (Tensor): (B, C, H, W).
        weight (Tensor): (O, C / group, kernel_h, kernel_w).
        bias (Tensor): (O,), or anything without ``with_bias``.
        offset (Tensor): (B, deformable_group * 2 * kernel_h * kernel_w, h, w), as in
            :func:`deform_conv_forward`.
        mask (Tensor): (B, deformable_group * kernel_h * kernel_w, h, w), what each tap counts.
        output (Tensor): (B, O, h, w), set to the result.
        with_bias (bool): whether ``bias`` is added.
        **options (int): ``kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h,
            dilation_w, group, deformable_group``.
    """
    _forward(input, weight, offset, mask, output, _geometry(options))
    if with_bias:
        output.add_(bias.view(1, -1, 1, 1))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    _ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    _columns_buffer: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    with_bias: bool = False,
    **options: int,
) -> None:
    """The gradients of :func:`modulated_deform_conv_forward`; unlisted arguments are that
    function's.

    Args:
        grad_input, grad_weight, grad_bias, grad_offset, grad_mask (Tensor): as the arguments of
            these names, set to their gradients; ``grad_bias`` if there is a bias.
        grad_output (Tensor): (B, O, h, w), the gradient by ``output``.
    """
    geometry = _geometry(options)
    total = torch.zeros_like(at_least_float32(grad_weight))
    for i, grad in enumerate(grad_output):
        inputs = (input[i], offset[i], mask[i])
        grads = (grad_input[i], grad_offset[i], grad_mask[i])
        columns = _backward_columns(inputs, weight, grad, geometry, grads)
        total.add_(_weight_gradient(columns, grad, geometry).view_as(total))
    grad_weight.copy_(total)
    if with_bias:
        grad_bias.copy_(at_least_float32(grad_output).sum((0, 2, 3)))


def _geometry(options: dict[str, int]) -> _Geometry:
    """Of either function's options."""
    names, axes = ("kernel_", "stride_", "pad_", "dilation_"), "hw"
    if "kH" in options:
        names, axes = ("k", "d", "pad", "dilation"), "HW"
    pairs = [(options[name + axes[0]], options[name + axes[1]]) for name in names]
    kernel, stride, padding, dilation = pairs
    groups = options["group"], options["deformable_group"]
    return _Geometry(kernel, stride, padding, dilation, *groups)


def _forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    output: Tensor,
    geometry: _Geometry,
) -> None:
    kernel = at_least_float32(weight).view(geometry.groups, -1, weight[0].numel())
    for i, out in enumerate(output):
        counts = None if mask is None else mask[i]
        columns = _columns(input[i], offset[i], counts, out.shape[1:], geometry)
        out.copy_((kernel @ columns.view(geometry.groups, -1, columns.size(-1))).view_as(out))


def _columns(
    image: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    size: Sequence[int],
    geometry: _Geometry,
) -> Tensor:
    """What each tap reads, (C * kernel taps, h * w), of one image, (C, H, W), for an output of
    this size, (h, w)."""
    image = at_least_float32(image)
    groups, taps = geometry.deform_groups, geometry.kernel[0] * geometry.kernel[1]
    channels, height, width = image.shape
    offset = _first(offset, (groups, taps, 2, *size))
    y, x = (offset[:, :, axis] + _places(axis, size[axis], offset, geometry) for axis in (0, 1))
    maps = image.view(groups, channels // groups, height, width)
    sampled = torch.stack([_sample(*each) for each in zip(maps, y, x, strict=True)])
    if mask is not None:
        sampled = sampled * _first(mask, (groups, 1, taps, size[0] * size[1]))
    return sampled.view(channels * taps, -1)


def _sample(image: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """(C, H, W) at positions (taps, h, w), interpolated, 0 outside, to (C, taps, h * w)."""
    channels, height, width = image.shape
    # from a pixel outside on nothing is read, nor does the offset matter
    inside = (y > -1) & (x > -1) & (y < height) & (x < width)
    top, left = y.detach().floor(), x.detach().floor()
    indices, weights = [], []
    for row, by_row in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, by_column in ((left, 1 - (x - left)), (left + 1, x - left)):
            exists = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
            indices.append(torch.where(exists, row * width + column, 0).long())
            weights.append(by_row * by_column * exists)
    # a weighted sum of four rows of the table of pixels, for each position
    table = image.flatten(1).t().contiguous()
    index, weight = (torch.stack(four, dim=-1).view(-1, 4) for four in (indices, weights))
    sampled = F.embedding_bag(index, table, per_sample_weights=weight, mode="sum")
    return sampled.t().reshape(channels, y.size(0), -1)


def _first(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """As many values as ``shape`` takes, in the order that they lie in memory.

    The compiled code reads no others, and does not ask for the shape: DyHead (MMDetection) gives
    the offsets of a larger map.
    """
    return at_least_float32(values).flatten()[: math.prod(shape)].view(shape)


def _places(axis: int, size: int, like: Tensor, geometry: _Geometry) -> Tensor:
    """Where each tap reads along an axis, without offset; broadcasts over (groups, taps, h, w)."""
    steps = torch.arange(size, dtype=like.dtype, device=like.device) * geometry.stride[axis]
    taps = torch.arange(geometry.kernel[axis], dtype=like.dtype, device=like.device)
    taps = taps * geometry.dilation[axis] - geometry.padding[axis]
    if axis == 0:
        return taps.repeat_interleave(geometry.kernel[1]).view(1, -1, 1, 1) + steps.view(-1, 1)
    return taps.repeat(geometry.kernel[0]).view(1, -1, 1, 1) + steps


def _backward_columns(
    inputs: Sequence[Tensor],
    weight: Tensor,
    grad_output: Tensor,
    geometry: _Geometry,
    grads: Sequence[Tensor],
) -> Tensor:
    """The columns of image, offset and perhaps mask; sets ``grads`` to the gradients by these."""

    def columns(image: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        return _columns(image, offset, mask, grad_output.shape[1:], geometry)

    kernel = at_least_float32(weight).view(geometry.groups, -1, weight[0].numel())
    grad = at_least_float32(grad_output).view(geometry.groups, kernel.size(1), -1)
    return differentiate(columns, map(at_least_float32, inputs), kernel.mT @ grad, grads)


def _weight_gradient(columns: Tensor, grad_output: Tensor, geometry: _Geometry) -> Tensor:
    grad = at_least_float32(grad_output).reshape(geometry.groups, -1, columns.size(-1))
    return grad @ columns.view(geometry.groups, -1, columns.size(-1)).mT
