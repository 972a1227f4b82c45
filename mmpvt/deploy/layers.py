"""Layers that PyTorch's exporter can't take, in operators that it can.

:func:`plain_layers` puts them in a model's layers' places for a while.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from mmcv import ops
from mmcv.ops.merge_cells import BaseMergeCell
from mmdet.models.dense_heads import TOODHead
from mmdet.models.detectors import DeformableDETR
from mmdet.models.layers import DeformableDetrTransformerEncoder, MSDeformAttnPixelDecoder
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@contextmanager
def plain_layers(model: nn.Module) -> Iterator[None]:
    """Has layers of ``mmcv.ops`` and pooling to a fixed grid work in plain operators of PyTorch, in
    which sizes are dynamic; restored when the context ends.
    """
    replaced = []
    for part in model.modules():
        for name, kinds in FORMS.items():
            form = next((kinds[kind] for kind in type(part).__mro__ if kind in kinds), None)
            if form is not None:
                setattr(part, name, functools.partial(form, part))
                replaced.append((part, name))
    try:
        with _DynamicPooling():
            yield
    finally:
        for part, name in replaced:
            delattr(part, name)


class _DynamicPooling(TorchFunctionMode):
    """Adaptive pooling of maps of dynamic size, which ONNX has no operator for."""

    def __torch_function__(
        self, func: Callable, types: Sequence, args: Sequence = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.adaptive_avg_pool2d:
            return adaptive_mean(*args, **kwargs)
        return func(*args, **kwargs)


def adaptive_mean(x: Tensor, output_size: int | Sequence[int | None]) -> Tensor:
    """``adaptive_avg_pool2d``: the mean of each cell is a product on either side."""
    if isinstance(output_size, int):
        output_size = (output_size, output_size)
    rows, columns = (
        length if cells is None else cells
        for cells, length in zip(output_size, x.shape[-2:], strict=True)
    )
    if rows == columns == 1:
        return x.mean((-2, -1), keepdim=True)
    return _cell_means(rows, x.shape[-2]) @ x @ _cell_means(columns, x.shape[-1]).mT


def _cell_means(cells: int, length: int) -> Tensor:
    """(cells, length): what each position counts in each cell's mean."""
    cell = torch.arange(cells)[:, None]
    place = torch.arange(length)
    start, end = cell * length // cells, ((cell + 1) * length + cells - 1) // cells
    inside = ((place >= start) & (place < end)).float()
    return inside / (end - start)


def _sample(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(B, C, H, W) at (B, h, w) positions in pixels, interpolated, zero outside."""
    height, width = x.shape[2:]
    grid = torch.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], dim=-1)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def deform_conv(
    x: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
    deform_groups: int,
) -> Tensor:
    """Deformable convolution, as ``mmcv.ops`` and :mod:`mmpvt.ops.deform_conv` compute it.

    Args:
        x (Tensor): (B, C, H, W).
        offset (Tensor): (B, deform_groups * taps * 2, h, w); of a larger map only as many are read,
            in the order of memory, as the output takes.
        mask (Tensor | None): (B, deform_groups * taps, h, w).
        weight (Tensor): (O, C / groups, rows, columns).
        bias, stride, padding, dilation, groups, deform_groups: as a convolution's.
    """
    batch, channels, *sides = x.shape
    kernel = weight.shape[2:]
    taps = kernel[0] * kernel[1]
    height, width = (
        (sides[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    )
    count = deform_groups * taps * height * width
    if offset.shape[2:] != (height, width):
        offset = offset.flatten(1)[:, : 2 * count]
        mask = None if mask is None else mask.flatten(1)[:, :count]
    offset = offset.reshape(batch * deform_groups, taps, 2, height, width)
    row = torch.arange(kernel[0]) * dilation[0] - padding[0]
    column = torch.arange(kernel[1]) * dilation[1] - padding[1]
    rows = row.repeat_interleave(kernel[1])[:, None] + torch.arange(height) * stride[0]
    columns = column.repeat(kernel[0])[:, None] + torch.arange(width) * stride[1]
    rows = (offset[:, :, 0] + rows[:, :, None]).flatten(1, 2)
    columns = (offset[:, :, 1] + columns[:, None]).flatten(1, 2)
    maps = x.reshape(batch * deform_groups, channels // deform_groups, *sides)
    sampled = _sample(maps, rows, columns)
    if mask is not None:
        sampled = sampled * mask.reshape(batch * deform_groups, 1, taps * height, width)
    sampled = sampled.reshape(batch, channels * taps, height, width)
    return F.conv2d(sampled, weight.reshape(len(weight), -1, 1, 1), bias, groups=groups)


def _deform(part: ops.DeformConv2d, x: Tensor, offset: Tensor) -> Tensor:
    options = (part.stride, part.padding, part.dilation, part.groups, part.deform_groups)
    return deform_conv(x, offset, None, part.weight, None, *options)


def _deform_pack(part: ops.DeformConv2dPack, x: Tensor) -> Tensor:
    return _deform(part, x, part.conv_offset(x))


def _modulated(part: ops.ModulatedDeformConv2d, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
    options = (part.stride, part.padding, part.dilation, part.groups, part.deform_groups)
    return deform_conv(x, offset, mask, part.weight, part.bias, *options)


def _modulated_pack(part: ops.ModulatedDeformConv2dPack, x: Tensor) -> Tensor:
    down, right, mask = part.conv_offset(x).chunk(3, dim=1)
    return _modulated(part, x, torch.cat([down, right], dim=1), mask.sigmoid())


def _deform_sampling(part: TOODHead, feat: Tensor, offset: Tensor) -> Tensor:
    """TOOD's sampling of each channel at its own place."""
    batch, channels, height, width = feat.shape
    offset = offset.reshape(batch * channels, 2, height, width)
    rows = offset[:, 0] + torch.arange(height)[:, None]
    columns = offset[:, 1] + torch.arange(width)
    maps = feat.reshape(batch * channels, 1, height, width)
    return _sample(maps, rows, columns).reshape(feat.shape)


def _deformable_attention(
    part: ops.MultiScaleDeformableAttention,
    query: Tensor,
    key: Tensor | None = None,
    value: Tensor | None = None,
    identity: Tensor | None = None,
    query_pos: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    *,
    reference_points: Tensor,
    spatial_shapes: Sequence[Sequence[int]],
    **kwargs: Any,
) -> Tensor:
    """As the layer's own; ``spatial_shapes`` are ints."""
    value = query if value is None else value
    identity = query if identity is None else identity
    if query_pos is not None:
        query = query + query_pos
    if not part.batch_first:
        query, value = query.transpose(0, 1), value.transpose(0, 1)
    batch, queries = query.shape[:2]
    heads, levels, points = part.num_heads, part.num_levels, part.num_points
    value = part.value_proj(value)
    if key_padding_mask is not None:
        value = value.masked_fill(key_padding_mask[..., None], 0.0)
    value = value.reshape(batch, value.shape[1], heads, -1)
    offsets = part.sampling_offsets(query).reshape(batch, queries, heads, levels, points, 2)
    weights = part.attention_weights(query).reshape(batch, queries, heads, levels * points)
    weights = weights.softmax(-1).transpose(1, 2).flatten(0, 1)[:, None]
    places = reference_points[:, :, None, :, None]
    sampled, start = [], 0
    for level, (height, width) in enumerate(spatial_shapes):
        maps = value[:, start : start + height * width].permute(0, 2, 3, 1)
        maps = maps.reshape(batch * heads, -1, height, width)
        start += height * width
        place, offset = places[:, :, :, level], offsets[:, :, :, level]
        if place.shape[-1] == 4:
            offset = offset * place[..., 2:] * (0.5 / points)
        else:
            offset = torch.stack([offset[..., 0] / width, offset[..., 1] / height], dim=-1)
        grid = 2 * (place[..., :2] + offset) - 1
        grid = grid.transpose(1, 2).flatten(0, 1)
        sampled.append(F.grid_sample(maps, grid, align_corners=False))
    out = (torch.cat(sampled, dim=-1) * weights).sum(-1)  # (batch * heads, channels, queries)
    out = out.reshape(batch, -1, queries).transpose(1, 2)
    out = part.output_proj(out)
    if not part.batch_first:
        out = out.transpose(0, 1)
    return part.dropout(out) + identity


def _centres(height: int, width: int) -> Tensor:
    """(height * width, 2): across and down, in cells."""
    down, across = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    grid = [across.expand(height, -1), down[:, None].expand(-1, width)]
    return torch.stack(grid, dim=-1).flatten(0, 1)


def _reference_points(
    part: DeformableDetrTransformerEncoder,
    spatial_shapes: Sequence[Sequence[int]],
    valid_ratios: Tensor,
    device: torch.device,
) -> Tensor:
    """(batch, tokens, levels, 2), as the layer's own, which counts by ``linspace``."""
    points = []
    for level, (height, width) in enumerate(spatial_shapes):
        centres, ratios = _centres(height, width), valid_ratios[:, level, None]
        across = centres[:, 0] / (ratios[..., 0] * width)
        down = centres[:, 1] / (ratios[..., 1] * height)
        points.append(torch.stack([across, down], dim=-1))
    return torch.cat(points, dim=1)[:, :, None] * valid_ratios[:, None]


def _output_proposals(
    part: DeformableDETR,
    memory: Tensor,
    memory_mask: Tensor,
    spatial_shapes: Sequence[Sequence[int]],
) -> tuple[Tensor, Tensor]:
    """As the detector's own, which counts by ``linspace``."""
    batch, proposals, start = memory.shape[0], [], 0
    for level, (height, width) in enumerate(spatial_shapes):
        mask = ~memory_mask[:, start : start + height * width].reshape(batch, height, width)
        valid = torch.stack([mask[:, 0].sum(1), mask[:, :, 0].sum(1)], dim=1)
        places = _centres(height, width) / valid[:, None]
        proposals.append(torch.cat([places, torch.full_like(places, 0.05 * 2.0**level)], dim=-1))
        start += height * width
    found = torch.cat(proposals, dim=1)
    outside = memory_mask[..., None] | ~((found > 0.01) & (found < 0.99)).all(-1, keepdim=True)
    logits = torch.log(found / (1 - found)).masked_fill(outside, float("inf"))
    memory = part.memory_trans_fc(memory.masked_fill(outside, 0.0))
    return part.memory_trans_norm(memory), logits


def _pixel_decoder(
    part: MSDeformAttnPixelDecoder, feats: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """As the layer's own; sizes of levels are ints."""
    batch, count = feats[0].shape[0], part.num_encoder_levels
    coarse = [(part.num_input_levels - 1 - i, feats[-1 - i]) for i in range(count)]
    tokens, positions, points, shapes = [], [], [], []
    for i, (level, feat) in enumerate(coarse):
        height, width = feat.shape[2:]
        mask = feat.new_zeros((batch, height, width), dtype=torch.bool)
        place = part.postional_encoding(mask) + part.level_encoding.weight[i][:, None, None]
        point = part.point_generator.single_level_grid_priors((height, width), level, device="cpu")
        stride = part.strides[level]
        point = torch.stack([point[:, 0] / (width * stride), point[:, 1] / (height * stride)], -1)
        tokens.append(part.input_convs[i](feat).flatten(2).mT)
        positions.append(place.flatten(2).mT)
        points.append(point)
        shapes.append((height, width))
    reference = torch.cat(points)[None, :, None].expand(batch, -1, count, -1)
    memory = part.encoder(
        query=torch.cat(tokens, dim=1),
        query_pos=torch.cat(positions, dim=1),
        key_padding_mask=None,
        spatial_shapes=shapes,
        reference_points=reference,
        level_start_index=None,
        valid_ratios=None,
    ).mT
    outs, start = [], 0
    for height, width in shapes:
        level_memory = memory[..., start : start + height * width]
        outs.append(level_memory.reshape(batch, -1, height, width))
        start += height * width
    for i in range(part.num_input_levels - count - 1, -1, -1):
        lateral = part.lateral_convs[i](feats[i])
        sides = lateral.shape[2:]
        above = F.interpolate(outs[-1], sides, mode="bilinear", align_corners=False)
        outs.append(part.output_convs[i](lateral + above))
    return part.mask_feature(outs[-1]), outs[: part.num_outs]


def _reassemble(part: ops.CARAFEPack, x: Tensor, mask: Tensor) -> Tensor:
    """CARAFE: a weighted sum of the window around each position's source."""
    batch, channels, height, width = x.shape
    side, groups, scale = part.up_kernel, part.up_group, part.scale_factor
    padded = F.pad(x, [side // 2] * 4)
    windows = torch.stack(
        [padded[:, :, i : i + height, j : j + width] for i in range(side) for j in range(side)],
        dim=2,
    )
    windows = windows.reshape(batch, groups, channels // groups, side**2, height, 1, width, 1)
    kernels = mask.reshape(batch, groups, 1, side**2, height, scale, width, scale)
    out = (windows * kernels).sum(3)
    return out.reshape(batch, channels, height * scale, width * scale)


FORMS: dict[str, dict[type, Callable]] = {
    "forward": {
        ops.DeformConv2d: _deform,
        ops.DeformConv2dPack: _deform_pack,
        ops.ModulatedDeformConv2d: _modulated,
        ops.ModulatedDeformConv2dPack: _modulated_pack,
        ops.MultiScaleDeformableAttention: _deformable_attention,
        MSDeformAttnPixelDecoder: _pixel_decoder,
    },
    "feature_reassemble": {ops.CARAFEPack: _reassemble},
    "get_encoder_reference_points": {DeformableDetrTransformerEncoder: _reference_points},
    "gen_encoder_output_proposals": {DeformableDETR: _output_proposals},
    "deform_sampling": {TOODHead: _deform_sampling},
}
PLAIN = (  # modules of mmcv.ops that can be exported
    *(*FORMS["forward"], ops.CARAFEPack),
    *(ops.RoIAlign, ops.SimpleRoIAlign, ops.CrissCrossAttention, BaseMergeCell),
)
