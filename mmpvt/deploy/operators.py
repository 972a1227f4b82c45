"""Operators that ONNX has and PyTorch's exporter doesn't know, for use in recorded modules.

Each is a PyTorch operator of the namespace ``mmpvt_deploy`` that runs as it is, and a function
that writes it as ONNX: :data:`TRANSLATIONS`.
"""

from __future__ import annotations

import torch
from mmcv import ops
from onnxscript import opset21 as op
from torch import Tensor
from torch.library import custom_op, get_ctx

OPSET = 21  # onnxruntime 1.32 has no RoiAlign of 22


@custom_op("mmpvt_deploy::best", mutates_args=())
def best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` highest of (N,) scores, or all N, and their indices, highest first."""
    values, index = scores.topk(min(count, len(scores)))
    return values, index


@best.register_fake
def _(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    kept = get_ctx().new_dynamic_size(max=count)
    return scores.new_empty(kept), scores.new_empty(kept, dtype=torch.int64)


def _onnx_best(scores, count: int):
    wanted = op.Min(op.Constant(value_ints=[count]), op.Shape(scores))
    return op.TopK(scores, wanted)


@custom_op("mmpvt_deploy::nms", mutates_args=())
def nms(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, count: int
) -> Tensor:
    """Greedy non-maximum suppression.

    Args:
        boxes (Tensor): (N, 4), corners.
        scores (Tensor): (N,).
        iou_threshold (float): largest intersection over union of two boxes that both stay.
        score_threshold (float): boxes of a score no higher don't count.
        count (int): at most so many stay.

    Returns:
        Tensor: (K,) int64, indices of the boxes that stay, best first.
    """
    (valid,) = torch.where(scores > score_threshold)
    _, kept = ops.nms(boxes[valid], scores[valid], iou_threshold)
    return valid[kept][:count]


@nms.register_fake
def _(
    boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float, count: int
) -> Tensor:
    kept = get_ctx().new_dynamic_size(max=count)
    return scores.new_empty(kept, dtype=torch.int64)


def _onnx_nms(boxes, scores, iou_threshold: float, score_threshold: float, count: int):
    chosen = op.NonMaxSuppression(
        op.Unsqueeze(boxes, op.Constant(value_ints=[0])),
        op.Unsqueeze(scores, op.Constant(value_ints=[0, 1])),
        op.Constant(value_ints=[count]),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[score_threshold]),
    )
    return op.Gather(chosen, op.Constant(value_int=2), axis=1)


@custom_op("mmpvt_deploy::roi_align", mutates_args=())
def roi_align(
    feature_map: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """The mean within each cell of boxes, as :class:`mmcv.ops.RoIAlign` makes it.

    Args:
        feature_map (Tensor): (1, channels, height, width).
        boxes (Tensor): (N, 4), corners, in the image's pixels.
        height, width (int): cells of a box.
        spatial_scale (float): from the image's pixels to the map's.
        sampling_ratio (int): samples a cell and side; 0 for as many as it has pixels.
        aligned (bool): pixels' centres lie at halves.

    Returns:
        Tensor: (N, channels, height, width).
    """
    rois = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], dim=1)
    size = (height, width)
    return ops.roi_align(feature_map, rois, size, spatial_scale, sampling_ratio, "avg", aligned)


@roi_align.register_fake
def _(
    feature_map: Tensor,
    boxes: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    return feature_map.new_empty(boxes.shape[0], feature_map.shape[1], height, width)


def _onnx_roi_align(
    feature_map,
    boxes,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
):
    count = op.Shape(boxes, start=0, end=1)
    return op.RoiAlign(
        feature_map,
        boxes,
        op.Expand(op.Constant(value_ints=[0]), count),  # which image of the batch
        coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
        output_height=height,
        output_width=width,
        sampling_ratio=sampling_ratio,
        spatial_scale=spatial_scale,
    )


@custom_op("mmpvt_deploy::crop", mutates_args=())
def crop(x: Tensor, size: Tensor) -> Tensor:
    """(..., height, width) without what lies beyond ``size``, (2,), height and width."""
    height, width = size.long().tolist()
    return x[..., :height, :width].clone()


@crop.register_fake
def _(x: Tensor, size: Tensor) -> Tensor:
    height, width = (get_ctx().new_dynamic_size() for _ in range(2))
    return x.new_empty(*x.shape[:-2], height, width)


def _onnx_crop(x, size):
    starts = op.Constant(value_ints=[0, 0])
    return op.Slice(x, starts, op.Cast(size, to=7), op.Constant(value_ints=[-2, -1]))


def _onnx_attention(
    query, key, value, mask=None, dropout: float = 0.0, causal: bool = False, scale=None, gqa=False
):
    """Two products and a softmax: on a CPU onnxruntime takes a quarter less time for them than for
    its attention operators (docs/deploy.md)."""
    if scale is None:
        scale = query.shape[-1] ** -0.5
    scaled = op.Mul(key, op.Constant(value_float=scale))
    scores = op.MatMul(query, op.Transpose(scaled, perm=[0, 1, 3, 2]))
    if mask is not None:
        scores = op.Add(scores, mask)
    return op.MatMul(op.Softmax(scores, axis=-1), value)


TRANSLATIONS = {
    torch.ops.mmpvt_deploy.best.default: _onnx_best,
    torch.ops.mmpvt_deploy.nms.default: _onnx_nms,
    torch.ops.mmpvt_deploy.roi_align.default: _onnx_roi_align,
    torch.ops.mmpvt_deploy.crop.default: _onnx_crop,
    torch.ops.aten.scaled_dot_product_attention.default: _onnx_attention,
}
