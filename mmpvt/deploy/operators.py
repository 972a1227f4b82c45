"""Operators that ONNX has and PyTorch's exporter doesn't know, for use in exportable modules.

Each is a custom operator of the namespace ``mmpvt_deploy`` that runs in PyTorch, and a function
that translates it to ONNX: :data:`TRANSLATIONS`.
"""

# without `from __future__ import annotations`: custom_op of PyTorch 2.4 can't read the strings
from collections.abc import Callable
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from mmcv import ops
from onnxscript import opset21 as op
from onnxscript.values import Op, Opset
from torch import Tensor
from torch.library import custom_op, get_ctx

OPSET = 21  # onnxruntime 1.32 has no RoiAlign of 22


@custom_op("mmpvt_deploy::topk", mutates_args=())
def topk(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` highest of (N,) scores, or all N, and their indices, sorted."""
    values, index = scores.topk(min(count, len(scores)))
    return values, index


@topk.register_fake
def _(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    kept = get_ctx().new_dynamic_size(max=count)
    return scores.new_empty(kept), scores.new_empty(kept, dtype=torch.int64)


def _onnx_topk(scores, count: int):
    return op.TopK(scores, op.Min(op.Constant(value_ints=[count]), op.Shape(scores)))


@custom_op("mmpvt_deploy::nms", mutates_args=())
def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, count: int) -> Tensor:
    """Greedy NMS of (N, 4) boxes and (N,) scores: (K,) int64, kept indices by falling score.

    Boxes of a score no higher than 0 are dropped; at most ``count`` are kept.
    """
    (valid,) = torch.where(scores > 0)
    _, kept = ops.nms(boxes[valid], scores[valid], iou_threshold)
    return valid[kept][:count]


@nms.register_fake
def _(boxes: Tensor, scores: Tensor, iou_threshold: float, count: int) -> Tensor:
    kept = get_ctx().new_dynamic_size(max=count)
    return scores.new_empty(kept, dtype=torch.int64)


def _onnx_nms(boxes, scores, iou_threshold: float, count: int):
    chosen = op.NonMaxSuppression(
        op.Unsqueeze(boxes, op.Constant(value_ints=[0])),
        op.Unsqueeze(scores, op.Constant(value_ints=[0, 1])),
        op.Constant(value_ints=[count]),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[0.0]),  # of scores
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
    """(N, channels, height, width) of (N, 4) boxes: :class:`mmcv.ops.RoIAlign`, ``avg`` mode."""
    rois = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], dim=1)
    size = (height, width)
    return ops.roi_align(feature_map, rois, size, spatial_scale, sampling_ratio, "avg", aligned)


@roi_align.register_fake
def _(feature_map: Tensor, boxes: Tensor, height: int, width: int, *options) -> Tensor:
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
def crop(feature_map: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """The upper left corner of a (1, channels, rows, columns) map; its sides are (1,) int64."""
    return feature_map[:, :, : height.item(), : width.item()].clone()


@crop.register_fake
def _(feature_map: Tensor, height: Tensor, width: Tensor) -> Tensor:
    rows, columns = (get_ctx().new_dynamic_size(min=1) for _ in (height, width))
    return feature_map.new_empty(1, feature_map.shape[1], rows, columns)


def _onnx_crop(feature_map, height, width):
    ends = op.Concat(height, width, axis=0)
    return op.Slice(
        feature_map, op.Constant(value_ints=[0, 0]), ends, op.Constant(value_ints=[2, 3])
    )


@custom_op("mmpvt_deploy::resize_argmax", mutates_args=())
def resize_argmax(
    logits: Tensor,
    x: Tensor,
    size: Tensor,
    rows: Tensor,
    columns: Tensor,
    align_corners: bool,
    threshold: float,
) -> Tensor:
    """(image height, image width), int64: labels of logits, as MMSegmentation decodes them.

    (1, classes, h, w) logits are resized to ``x``, cropped to ``size``, its sides without padding,
    and resized to the image, whose sides are those of ``rows`` and ``columns``. ``threshold`` is
    the probability above which the label is 1, of a single channel; negative for one a class.
    """
    options: dict[str, Any] = dict(mode="bilinear", align_corners=align_corners)
    height, width = size.long().tolist()
    logits = F.interpolate(logits, x.shape[2:], **options)[..., :height, :width]
    logits = F.interpolate(logits, (len(rows), len(columns)), **options)[0]
    return logits.argmax(0) if threshold < 0 else (logits[0].sigmoid() > threshold).long()


@resize_argmax.register_fake
def _(logits: Tensor, x, size, rows: Tensor, columns: Tensor, *options) -> Tensor:
    return logits.new_empty(rows.shape[0], columns.shape[0], dtype=torch.int64)


def _onnx_resize_argmax(logits, x, size, rows, columns, align_corners: bool, threshold: float):
    """Channels last: there onnxruntime resizes and compares six times as fast."""
    mode = "align_corners" if align_corners else "pytorch_half_pixel"
    logits = op.Transpose(logits, perm=[0, 2, 3, 1])
    padded = (op.Shape(x, start=2, end=3), op.Shape(x, start=3, end=4))
    logits = _onnx_resize(logits, *padded, mode)
    starts, axes = op.Constant(value_ints=[0, 0]), op.Constant(value_ints=[1, 2])
    logits = op.Slice(logits, starts, op.Cast(size, to=7), axes)
    logits = _onnx_resize(logits, op.Shape(rows), op.Shape(columns), mode)
    if threshold >= 0:
        logits = op.Squeeze(logits, op.Constant(value_ints=[0, 3]))
        return op.Cast(op.Greater(op.Sigmoid(logits), op.Constant(value_float=threshold)), to=7)
    return op.ArgMax(op.Squeeze(logits, op.Constant(value_ints=[0])), axis=2, keepdims=0)


def _onnx_resize(x, height, width, mode: str):
    """(1, height, width, channels) to another height and width, bilinearly."""
    one, channels = op.Constant(value_ints=[1]), op.Shape(x, start=3)
    shape = op.Concat(one, height, width, channels, axis=0)
    return op.Resize(x, None, None, shape, mode="linear", coordinate_transformation_mode=mode)


_OpSchema, _Parameter = onnx.defs.OpSchema, onnx.defs.OpSchema.FormalParameter
_NAME, _DOMAIN, _VERSION = "MultiHeadAttention", "com.microsoft", 1
# onnxruntime's operator, which the onnx package has no schema of
multi_head_attention = Op(
    Opset(_DOMAIN, _VERSION),
    _NAME,
    _OpSchema(
        _NAME,
        _DOMAIN,
        _VERSION,
        inputs=[_Parameter(kind, "T") for kind in ("query", "key", "value")],
        outputs=[_Parameter("output", "T")],
        type_constraints=[("T", ["tensor(float)"], "")],
        attributes=[
            _OpSchema.Attribute("num_heads", _OpSchema.AttrType.INT),
            _OpSchema.Attribute("scale", _OpSchema.AttrType.FLOAT),
        ],
    ),
)


def _onnx_attention(
    query,
    key,
    value,
    attn_mask=None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
):
    """One operator that never holds the whole score matrix; it takes heads side by side.

    Before PyTorch 2.9, other names than those of ATen's schema would have PyTorch's own taken.
    """
    if attn_mask is not None or is_causal or enable_gqa:
        raise ValueError("attention with a mask can't be exported")
    heads, channels = query.shape[1], value.shape[3]
    if scale is None:
        scale = query.shape[3] ** -0.5
    joined = []
    for x in (query, key, value):  # (batch, heads, tokens, channels)
        shape = op.Constant(value_ints=[0, 0, heads * x.shape[3]])
        joined.append(op.Reshape(op.Transpose(x, perm=[0, 2, 1, 3]), shape))
    out = multi_head_attention(*joined, num_heads=heads, scale=float(scale))
    out = op.Reshape(out, op.Constant(value_ints=[0, 0, heads, channels]))
    return op.Transpose(out, perm=[0, 2, 1, 3])


TRANSLATIONS: dict[Callable, Callable] = {
    torch.ops.mmpvt_deploy.topk.default: _onnx_topk,
    torch.ops.mmpvt_deploy.nms.default: _onnx_nms,
    torch.ops.mmpvt_deploy.roi_align.default: _onnx_roi_align,
    torch.ops.mmpvt_deploy.crop.default: _onnx_crop,
    torch.ops.mmpvt_deploy.resize_argmax.default: _onnx_resize_argmax,
    torch.ops.aten.scaled_dot_product_attention.default: _onnx_attention,
}
