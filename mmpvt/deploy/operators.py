"""Operators that ONNX has and PyTorch's exporter doesn't know, for use in exportable modules.

Each is a custom operator of the namespace ``mmpvt_deploy`` that runs in PyTorch, and a function
that translates it to ONNX: :func:`translations`.
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
FLOAT, INT64 = 1, 7  # ONNX's numbers of data types
EFFICIENT_NMS = ("TRT", "EfficientNMS_TRT")  # domain and name of TensorRT's plugin


@custom_op("mmpvt_deploy::topk", mutates_args=())
def topk(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` highest of (batch, N) scores, or all N, and their indices, sorted."""
    values, index = scores.topk(min(count, scores.shape[1]))
    return values, index


@topk.register_fake
def _(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    shape = scores.shape[0], _kept(count, scores.shape[1])
    return scores.new_empty(shape), scores.new_empty(shape, dtype=torch.int64)


def _kept(count: int, length: int | torch.SymInt) -> int | torch.SymInt:
    """The smaller of both, as a side of an empty tensor."""
    return min(count, length) if isinstance(length, int) else get_ctx().new_dynamic_size(max=count)


def _onnx_topk(scores, count: int):
    return op.TopK(scores, _onnx_kept(count, scores))


def _onnx_kept(count: int, scores):
    if isinstance(length := scores.shape[1], int):
        return op.Constant(value_ints=[min(count, length)])
    return op.Min(op.Constant(value_ints=[count]), op.Shape(scores, start=1, end=2))


@custom_op("mmpvt_deploy::batched_nms", mutates_args=())
def batched_nms(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor,
    num_groups: int,
    class_agnostic: bool,
    iou_threshold: float,
    count: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Greedy NMS within each group, as MMCV's function of that name.

    Args:
        boxes (Tensor): (batch, N, 4).
        scores (Tensor): (batch, N); boxes of a score no higher than 0 are dropped.
        groups (Tensor): (batch, N), int64, below ``num_groups``: labels, or levels of a pyramid.
        num_groups (int): how many there are.
        class_agnostic (bool): whether boxes of different groups suppress each other.
        iou_threshold (float): a box that overlaps a better one by more is dropped.
        count (int): how many are kept of an image.

    Returns:
        tuple[Tensor, Tensor, Tensor]: (batch, K, 4) boxes, (batch, K) scores and groups, by falling
        score. K is the smaller of ``count`` and N; where fewer are kept, the rest has score -1.
    """
    kept_scores = scores.new_full((len(scores), min(count, scores.shape[1])), -1)
    index = torch.zeros_like(kept_scores, dtype=torch.int64)
    cfg = dict(type="nms", iou_threshold=iou_threshold)
    for i in range(len(scores)):
        (valid,) = torch.where(scores[i] > 0)
        if len(valid):
            candidates = (boxes[i, valid], scores[i, valid], groups[i, valid])
            _, kept = ops.batched_nms(*candidates, cfg, class_agnostic=class_agnostic)
            kept = valid[kept][:count]
            index[i, : len(kept)], kept_scores[i, : len(kept)] = kept, scores[i, kept]
    boxes = boxes.gather(1, index[..., None].expand(-1, -1, 4))
    return boxes, kept_scores, groups.gather(1, index)


@batched_nms.register_fake
def _(boxes: Tensor, scores: Tensor, groups: Tensor, num_groups: int, *options):
    shape = scores.shape[0], _kept(options[-1], scores.shape[1])
    return boxes.new_empty(*shape, 4), scores.new_empty(shape), groups.new_empty(shape)


def _onnx_batched_nms(
    boxes,
    scores,
    groups,
    num_groups: int,
    class_agnostic: bool,
    iou_threshold: float,
    count: int,
):
    """Boxes of different groups are moved apart, for a single NMS of each image."""
    apart, zero = boxes, op.Constant(value_float=0.0)
    if not class_agnostic:
        is_valid = op.Unsqueeze(op.Greater(scores, zero), op.Constant(value_ints=[2]))
        edge = op.ReduceMax(op.Where(is_valid, boxes, zero), op.Constant(value_ints=[1, 2]))
        step = op.Add(op.Max(edge, zero), op.Constant(value_float=1.0))
        group = op.Unsqueeze(op.Cast(groups, to=FLOAT), op.Constant(value_ints=[2]))
        apart = op.Add(boxes, op.Mul(group, step))
    chosen = op.NonMaxSuppression(
        apart,
        op.Unsqueeze(scores, op.Constant(value_ints=[1])),
        op.Constant(value_ints=[count]),
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[0.0]),  # of scores
    )
    places = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)  # image and box
    none = op.Expand(op.Constant(value_float=-1.0), op.Shape(scores))
    kept = op.ScatterND(none, places, op.GatherND(scores, places))
    kept, index = op.TopK(kept, _onnx_kept(count, scores))
    corners = op.Expand(
        op.Unsqueeze(index, op.Constant(value_ints=[2])), op.Constant(value_ints=[1, 1, 4])
    )
    return (
        op.GatherElements(boxes, corners, axis=1),
        kept,
        op.GatherElements(groups, index, axis=1),
    )


def _tensorrt_batched_nms(
    boxes,
    scores,
    groups,
    num_groups: int,
    class_agnostic: bool,
    iou_threshold: float,
    count: int,
):
    """TensorRT's plugin takes a score for each group, which is 0 for all but one."""
    own = op.Equal(
        op.Unsqueeze(groups, op.Constant(value_ints=[2])),
        op.Constant(value_ints=list(range(num_groups))),
    )
    per_group = op.Where(
        own, op.Unsqueeze(scores, op.Constant(value_ints=[2])), op.Constant(value_float=0.0)
    )
    _, boxes, scores, groups = efficient_nms(
        boxes,
        per_group,
        plugin_version="1",
        background_class=-1,
        max_output_boxes=min(count, scores.shape[1]),
        score_threshold=0.0,
        iou_threshold=iou_threshold,
        score_activation=0,
        class_agnostic=int(class_agnostic),
        box_coding=0,
    )
    return boxes, scores, op.Cast(groups, to=INT64)


@custom_op("mmpvt_deploy::roi_align", mutates_args=())
def roi_align(
    feature_map: Tensor,
    boxes: Tensor,
    images: Tensor,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """(N, channels, height, width) of (N, 4) boxes: :class:`mmcv.ops.RoIAlign`, ``avg`` mode.

    ``images``, (N,), int64, is which of the batch's each box is of.
    """
    rois = torch.cat([images[:, None].to(boxes.dtype), boxes], dim=1)
    size = (height, width)
    return ops.roi_align(feature_map, rois, size, spatial_scale, sampling_ratio, "avg", aligned)


@roi_align.register_fake
def _(feature_map: Tensor, boxes: Tensor, images, height: int, width: int, *options) -> Tensor:
    return feature_map.new_empty(boxes.shape[0], feature_map.shape[1], height, width)


def _onnx_roi_align(
    feature_map,
    boxes,
    images,
    height: int,
    width: int,
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
):
    return op.RoiAlign(
        feature_map,
        boxes,
        images,
        coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
        output_height=height,
        output_width=width,
        sampling_ratio=sampling_ratio,
        spatial_scale=spatial_scale,
    )


@custom_op("mmpvt_deploy::resize_to_image", mutates_args=())
def resize_to_image(
    maps: Tensor, x: Tensor, size: Tensor, rows: Tensor, columns: Tensor, align_corners: bool
) -> Tensor:
    """(image height, image width, channels) of (1, channels, h, w) maps of the padded input.

    They are resized to ``x``, cropped to ``size``, (1, 2), its sides without padding, and resized
    to the image, whose sides are those of ``rows`` and ``columns``.
    """
    options: dict[str, Any] = dict(mode="bilinear", align_corners=align_corners)
    height, width = size[0].long().tolist()
    maps = F.interpolate(maps, x.shape[2:], **options)[..., :height, :width]
    maps = F.interpolate(maps, (len(rows), len(columns)), **options)
    return maps[0].permute(1, 2, 0).contiguous()


@resize_to_image.register_fake
def _(maps: Tensor, x, size, rows: Tensor, columns: Tensor, *options) -> Tensor:
    return maps.new_empty(rows.shape[0], columns.shape[0], maps.shape[1])


def _onnx_resize_to_image(maps, x, size, rows, columns, align_corners: bool):
    """Channels last: there onnxruntime resizes, and compares channels, six times as fast."""
    mode = "align_corners" if align_corners else "half_pixel"
    maps = op.Transpose(maps, perm=[0, 2, 3, 1])
    padded = (op.Shape(x, start=2, end=3), op.Shape(x, start=3, end=4))
    maps = _onnx_resize(maps, *padded, mode)
    starts, axes = op.Constant(value_ints=[0, 0]), op.Constant(value_ints=[1, 2])
    ends = op.Squeeze(op.Cast(size, to=INT64), op.Constant(value_ints=[0]))
    maps = op.Slice(maps, starts, ends, axes)
    maps = _onnx_resize(maps, op.Shape(rows), op.Shape(columns), mode)
    return op.Squeeze(maps, op.Constant(value_ints=[0]))


def _onnx_resize(x, height, width, mode: str):
    """(1, height, width, channels) to another height and width, bilinearly."""
    one, channels = op.Constant(value_ints=[1]), op.Shape(x, start=3)
    shape = op.Concat(one, height, width, channels, axis=0)
    return op.Resize(x, None, None, shape, mode="linear", coordinate_transformation_mode=mode)


_OpSchema, _Parameter = onnx.defs.OpSchema, onnx.defs.OpSchema.FormalParameter


def _operator(domain: str, name: str, inputs: str, outputs: str, **attributes: str) -> Op:
    """A runtime's own operator, which the onnx package has no schema of; attributes by type."""
    kinds = dict(labels="tensor(int32)", count="tensor(int32)")
    schema = _OpSchema(
        name,
        domain,
        1,
        inputs=[_Parameter(x, "T") for x in inputs.split()],
        outputs=[_Parameter(x, kinds.get(x, "T")) for x in outputs.split()],
        type_constraints=[("T", ["tensor(float)"], "")],
        attributes=[
            _OpSchema.Attribute(key, getattr(_OpSchema.AttrType, kind))
            for key, kind in attributes.items()
        ],
    )
    return Op(Opset(domain, 1), name, schema)


multi_head_attention = _operator(  # onnxruntime's
    *("com.microsoft", "MultiHeadAttention", "query key value", "output"),
    num_heads="INT",
    scale="FLOAT",
)
efficient_nms = _operator(  # TensorRT's plugin
    *(*EFFICIENT_NMS, "boxes scores", "count boxes scores labels"),
    plugin_version="STRING",
    background_class="INT",
    max_output_boxes="INT",
    score_threshold="FLOAT",
    iou_threshold="FLOAT",
    score_activation="INT",
    class_agnostic="INT",
    box_coding="INT",
)


def _onnx_fused_attention(
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


def translations(runtime: str) -> dict[Callable, Callable]:
    """How operators are translated to ONNX for a runtime."""
    table: dict[Callable, Callable] = {
        torch.ops.mmpvt_deploy.topk.default: _onnx_topk,
        torch.ops.mmpvt_deploy.batched_nms.default: _onnx_batched_nms,
        torch.ops.mmpvt_deploy.roi_align.default: _onnx_roi_align,
        torch.ops.mmpvt_deploy.resize_to_image.default: _onnx_resize_to_image,
    }
    if runtime == "onnxruntime":
        table[torch.ops.aten.scaled_dot_product_attention.default] = _onnx_fused_attention
    if runtime == "tensorrt":
        table[torch.ops.mmpvt_deploy.batched_nms.default] = _tensorrt_batched_nms
    return table
