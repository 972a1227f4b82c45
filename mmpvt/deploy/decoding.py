"""From a head's maps to detections: what detectors in exportable form share.

Everything is of a batch, and padded: where an image has fewer boxes than places, the scores of the
rest are no higher than 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmcv.ops import RoIAlign
from mmdet.models.dense_heads import GFLHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor, nn

from mmpvt.deploy import operators
from mmpvt.errors import ExportError

PREDICT_METHODS = ("predict", "predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")
NO_LIMIT = 2**31 - 1
MAX_CANDIDATES = 3839  # of an image: TensorRT's TopK gives no more


class BatchedNMS(nn.Module):
    """MMCV's ``batched_nms`` of a model's ``test_cfg``.

    Args:
        cfg (Mapping): of NMS, as in the model's config.
        count (int): how many boxes are kept of an image; all, if not over 0.
        num_groups (int): how many labels, or levels, there are.
    """

    def __init__(self, cfg: Mapping, count: int, num_groups: int) -> None:
        super().__init__()
        cfg = dict(cfg)
        kind = cfg.pop("type", "nms")
        self.iou_threshold = cfg.pop("iou_threshold", None)
        self.class_agnostic = cfg.pop("class_agnostic", False)
        cfg.pop("split_thr", None)
        if kind != "nms" or cfg or self.iou_threshold is None:
            named = kind if kind != "nms" else f"nms with {', '.join(cfg) or 'no iou_threshold'}"
            raise ExportError(f"{named} in the model's test_cfg can't be exported: greedy nms can")
        self.count = count if count > 0 else NO_LIMIT
        self.num_groups = num_groups

    def forward(
        self, boxes: Tensor, scores: Tensor, groups: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Those that are kept, by falling score.

        Args:
            boxes (Tensor): (batch, N, 4).
            scores (Tensor): (batch, N); boxes of a score no higher than 0 are dropped.
            groups (Tensor): (batch, N), int64.

        Returns:
            tuple[Tensor, Tensor, Tensor]: (batch, K, 4), (batch, K) and (batch, K).
        """
        return operators.batched_nms(
            *(boxes, scores, groups, self.num_groups, self.class_agnostic),
            *(self.iou_threshold, self.count),
        )

    def describe(self) -> dict[str, object]:
        """What a caller needs to do it."""
        return dict(
            type="nms",
            iou_threshold=self.iou_threshold,
            class_agnostic=self.class_agnostic,
            max_per_img=self.count,
        )


class WithoutNMS(nn.Module):
    """Takes the place of NMS that the caller does."""

    def forward(
        self, boxes: Tensor, scores: Tensor, groups: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return boxes, scores, groups


class RoIFeatures(nn.Module):
    """RoIAlign of boxes, each on the level of its size.

    Args:
        extractor (SingleRoIExtractor): of the model.
        is_batch (bool): every box is pooled on every level, and one is chosen; otherwise each
            level gets its own boxes, whose number follows from their sizes.
    """

    def __init__(self, extractor: SingleRoIExtractor, is_batch: bool = False) -> None:
        super().__init__()
        if type(extractor) is not SingleRoIExtractor:
            raise ExportError(f"{type(extractor).__name__} can't be exported")
        for layer in extractor.roi_layers:
            if type(layer).__name__ != "RoIAlign" or layer.pool_mode != "avg":
                raise ExportError(f"{type(layer).__name__} can't be exported: RoIAlign's mean can")
        self.extractor = extractor
        self.is_batch = is_batch

    def forward(self, maps: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
        """(batch * N, channels, height, width) of (batch, N, 4) boxes."""
        layers = self.extractor.roi_layers
        batch, count = boxes.shape[:2]
        images = torch.arange(batch)[:, None].expand(-1, count).reshape(-1)
        boxes = boxes.reshape(-1, 4)
        rois = torch.cat([boxes[:, :1], boxes], dim=1)  # only the corners are read
        levels = self.extractor.map_roi_levels(rois, len(layers))
        if self.is_batch or len(layers) == 1:
            pooled = [roi_align(*pair, boxes, images) for pair in zip(layers, maps, strict=False)]
            chosen = pooled[0]
            for i, features in enumerate(pooled[1:], 1):
                chosen = torch.where((levels == i)[:, None, None, None], features, chosen)
            return chosen
        of_levels = [torch.where(levels == i)[0] for i in range(len(layers))]
        parts = [
            roi_align(layer, level, boxes[index], images[index])
            for layer, level, index in zip(layers, maps, of_levels, strict=False)
        ]
        order = torch.cat(of_levels)
        inverse = torch.zeros_like(order).scatter(0, order, torch.arange(order.shape[0]))
        return torch.cat(parts)[inverse]


def roi_align(layer: RoIAlign, feature_map: Tensor, boxes: Tensor, images: Tensor) -> Tensor:
    """What a layer, mmcv's ``RoIAlign``, makes of (N, 4) boxes of (N,) images."""
    options = (layer.spatial_scale, layer.sampling_ratio, layer.aligned)
    return operators.roi_align(feature_map, boxes, images, *layer.output_size, *options)


def topk_per_level(
    head: BaseDenseHead,
    class_maps: Sequence[Tensor],
    box_maps: Sequence[Tensor],
    factor_maps: Sequence[Tensor] | None = None,
    *,
    count: int,
    threshold: float = 0.0,
) -> tuple[Tensor, ...]:
    """Boxes (batch, N, 4), scores, labels and levels (batch, N) of each level's highest scores.

    Args:
        head (BaseDenseHead): whose anchors, coder and activation are used.
        class_maps (Sequence[Tensor]): (batch, anchors * classes, height, width) each.
        box_maps (Sequence[Tensor]): (batch, anchors * box channels, height, width) each.
        factor_maps (Sequence[Tensor] | None): (batch, anchors, height, width) each, whose sigmoid
            multiplies the scores: centerness, say.
        count (int): of each level; all of them, if negative.
        threshold (float): the score is set to -1 where the class's alone is no higher. Default: 0.
    """
    sizes = [level.shape[-2:] for level in class_maps]
    priors = head.prior_generator.grid_priors(sizes, dtype=torch.float32, device="cpu")
    is_gfl = isinstance(head, GFLHead)
    box_channels = 4 * (head.reg_max + 1) if is_gfl else head.bbox_coder.encode_size
    levels = []
    for i, anchors in enumerate(priors):
        classes = flatten_map(class_maps[i], head.cls_out_channels)
        if not head.use_sigmoid_cls:
            classes = classes.softmax(-1)[..., :-1]
        num_classes = classes.shape[2]
        kept, index = operators.topk(classes.flatten(1), count if count > 0 else NO_LIMIT)
        torch._check(kept.shape[1] > 0)
        class_scores = scores = kept.sigmoid() if head.use_sigmoid_cls else kept
        anchor = index // num_classes
        if factor_maps is not None:
            scores = scores * pick(flatten_map(factor_maps[i], 1), anchor)[..., 0].sigmoid()
        scores = torch.where(class_scores > threshold, scores, -1.0)
        anchors = anchors[anchor].flatten(0, 1)
        deltas = pick(flatten_map(box_maps[i], box_channels), anchor).flatten(0, 1)
        if is_gfl:
            deltas = head.integral(deltas) * head.prior_generator.strides[i][0]
            anchors = head.anchor_center(anchors)
        boxes = head.bbox_coder.decode(anchors, deltas).reshape(*index.shape, 4)
        labels = index % num_classes
        levels.append((boxes, scores, labels, torch.full_like(labels, i)))
    return tuple(torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))


def candidates(
    boxes: Tensor, scores: Tensor, threshold: float, is_batch: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (batch, M, 4), scores and labels (batch, M) for NMS, of a second stage.

    Args:
        boxes (Tensor): (batch, N, 4) or, one a class, (batch, N * classes, 4).
        scores (Tensor): (batch, N, classes).
        threshold (float): of scores.
        is_batch (bool): the ``MAX_CANDIDATES`` highest scores are taken, and those below the
            threshold set to -1; otherwise, of one image, all those above it.
    """
    count, classes = scores.shape[1:]
    if is_batch:
        scores, index = operators.topk(scores.flatten(1), MAX_CANDIDATES)
        scores = torch.where(scores > threshold, scores, -1.0)
    else:
        (index,) = torch.where(scores.flatten() > threshold)
        scores, index = scores.flatten()[index][None], index[None]
    labels = index % classes
    return pick(boxes, index if boxes.shape[1] != count else index // classes), scores, labels


def flatten_map(feature_map: Tensor, channels: int) -> Tensor:
    """(batch, anchors * channels, height, width) as (batch, height * width * anchors, channels)."""
    return feature_map.permute(0, 2, 3, 1).reshape(feature_map.shape[0], -1, channels)


def pick(x: Tensor, index: Tensor) -> Tensor:
    """(batch, K, channels) of (batch, N, channels), at (batch, K) indices."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def clip_boxes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """(batch, N, 4) boxes within images of ``sizes``, (batch, 2), height and width."""
    return torch.minimum(boxes.clamp(min=0), sizes.flip(1).repeat(1, 2)[:, None])


def drop_small_boxes(boxes: Tensor, scores: Tensor, cfg: Mapping) -> Tensor:
    """The scores, but -1 where a box is no larger than ``min_bbox_size``."""
    smallest = cfg.get("min_bbox_size", -1)
    if smallest < 0:
        return scores
    is_large = (boxes[..., 2:] - boxes[..., :2] > smallest).all(-1)
    return torch.where(is_large, scores, -1.0)


def drop_empty(scores: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Scores and others of one image, (1, N, ...), without the places of scores no higher than 0.

    Their number follows from values.
    """
    (kept,) = torch.where(scores[0] > 0)
    return tuple(x[:, kept] for x in (scores, *others))


def padding_mask(feature_map: Tensor, x: Tensor, sizes: Tensor) -> Tensor:
    """(batch, rows, columns): where a map of the input, padded, is of the padding.

    As nearest-neighbour interpolation of the input's mask has it.

    Args:
        feature_map (Tensor): (batch, channels, rows, columns).
        x (Tensor): (batch, channels, padded height, padded width).
        sizes (Tensor): (batch, 2), height and width without padding.
    """
    outside = []
    for axis in (2, 3):
        length, padded = feature_map.shape[axis], x.shape[axis]
        outside.append(torch.arange(length) * padded // length >= sizes[:, axis - 2, None])
    return outside[0][:, :, None] | outside[1][:, None, :]


def check_predicts_as(head: nn.Module, *bases: type) -> None:
    """Refuses a head that predicts in another way than its base class does, by its name."""
    for name in PREDICT_METHODS:
        own = getattr(type(head), name, None)
        if all(own is not getattr(base, name, None) for base in bases):
            raise ExportError(
                f"{type(head).__name__} can't be exported: it has a predict of its own"
            )
