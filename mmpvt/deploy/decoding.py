"""From a head's maps to detections: what detectors in exportable form share.

Everything is of a batch, and padded: where an image has fewer boxes than places, the scores of the
rest are no higher than 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from mmcv import ops
from mmcv.cnn.bricks import GeneralizedAttention
from mmdet.models.roi_heads.roi_extractors import (
    BaseRoIExtractor,
    GenericRoIExtractor,
    SingleRoIExtractor,
)
from mmdet.models.task_modules.coders import (
    BaseBBoxCoder,
    BucketingBBoxCoder,
    LegacyDeltaXYWHBBoxCoder,
)
from torch import Tensor, nn

from mmpvt.deploy import operators
from mmpvt.errors import ExportError

PREDICT_METHODS = ("predict", "predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")
NO_LIMIT = 2**31 - 1
MAX_SOFT = 300  # boxes that soft_nms keeps: each is a dozen nodes
MAX_CANDIDATES = 3839  # of an image: TensorRT's TopK gives no more


class NMS(nn.Module):
    """Non-maximum suppression of a batch's boxes.

    Args:
        count (int): how many boxes are kept of an image; all, if not over 0.
        class_agnostic (bool): whether boxes of different groups suppress each other.
    """

    def __init__(self, count: int, class_agnostic: bool) -> None:
        super().__init__()
        self.count = count if count > 0 else NO_LIMIT
        self.class_agnostic = class_agnostic

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
        raise NotImplementedError

    def describe(self) -> dict[str, object]:
        """What a caller needs to do it."""
        raise NotImplementedError


class BatchedNMS(NMS):
    """MMCV's ``batched_nms`` with greedy ``nms``.

    Args:
        iou_threshold (float): a box that overlaps a better one by more is dropped.
        count, class_agnostic: as :class:`NMS`'s.
        num_groups (int): how many labels, or levels, there are.
    """

    def __init__(
        self, iou_threshold: float, count: int, class_agnostic: bool, num_groups: int
    ) -> None:
        super().__init__(count, class_agnostic)
        self.iou_threshold = iou_threshold
        self.num_groups = num_groups

    def forward(
        self, boxes: Tensor, scores: Tensor, groups: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return operators.batched_nms(
            *(boxes, scores, groups, self.num_groups, self.class_agnostic),
            *(self.iou_threshold, self.count),
        )

    def describe(self) -> dict[str, object]:
        return dict(
            type="nms",
            iou_threshold=self.iou_threshold,
            class_agnostic=self.class_agnostic,
            max_per_img=self.count,
        )


class SoftNMS(NMS):
    """MMCV's ``batched_nms`` with ``soft_nms`` (Bodla et al., arXiv 1704.04503).

    The best box lowers the scores of those that it overlaps, then the best of the rest does: once
    for each box that is kept, without a loop in the graph, which every runtime takes.

    Args:
        iou_threshold (float): methods but ``gaussian`` leave overlaps below it alone.
        sigma (float): width of ``gaussian``.
        min_score (float): boxes are dropped whose lowered score is less.
        method (str): ``linear``, ``gaussian`` or ``naive``.
        count, class_agnostic: as :class:`NMS`'s.
    """

    def __init__(
        self,
        iou_threshold: float,
        sigma: float,
        min_score: float,
        method: str,
        count: int,
        class_agnostic: bool,
    ) -> None:
        super().__init__(count, class_agnostic)
        self.iou_threshold, self.sigma, self.min_score = iou_threshold, sigma, min_score
        self.method = method

    def forward(
        self, boxes: Tensor, scores: Tensor, groups: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        # one more, that is no box: there may be none
        boxes, groups = F.pad(boxes, (0, 0, 0, 1)), F.pad(groups, (0, 1))
        scores = F.pad(scores, (0, 1), value=-1.0)
        areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
        low, high = boxes[..., :2], boxes[..., 2:]
        left, kept, places = scores, [], []
        for _ in range(self.count):
            best, place = left.max(1, keepdim=True)
            kept.append(best)
            places.append(place)
            box = pick(boxes, place)
            overlap = torch.minimum(high, box[..., 2:]) - torch.maximum(low, box[..., :2])
            overlap = overlap.clamp(min=0).prod(-1)
            iou = overlap / (areas.gather(1, place) + areas - overlap)
            iou = torch.where(overlap > 0, iou, 0.0)
            if not self.class_agnostic:
                iou = torch.where(groups == groups.gather(1, place), iou, 0.0)
            left = (left * self.weight(iou)).scatter(1, place, -1.0)
            left = torch.where(left >= self.min_score, left, -1.0)
        index = torch.cat(places, dim=1)
        return pick(boxes, index), torch.cat(kept, dim=1), groups.gather(1, index)

    def weight(self, iou: Tensor) -> Tensor:
        """What scores are multiplied by."""
        if self.method == "gaussian":
            return torch.exp(-(iou * iou) / self.sigma)
        lowered = 1 - iou if self.method == "linear" else torch.zeros_like(iou)
        return torch.where(iou < self.iou_threshold, 1.0, lowered)

    def describe(self) -> dict[str, object]:
        return dict(
            type="soft_nms",
            iou_threshold=self.iou_threshold,
            sigma=self.sigma,
            min_score=self.min_score,
            method=self.method,
            class_agnostic=self.class_agnostic,
            max_per_img=self.count,
        )


def build_nms(cfg: Mapping | None, count: int, num_groups: int) -> NMS:
    """The NMS of a model's ``test_cfg``.

    Args:
        cfg (Mapping | None): of NMS, as in the model's config.
        count (int): how many boxes are kept of an image; all, if not over 0.
        num_groups (int): how many labels, or levels, there are.

    Raises:
        ExportError: it is another kind of NMS, or a soft one that keeps too many boxes.
    """
    cfg = dict(type="nms=None") if cfg is None else dict(cfg)  # MMCV's then only sorts
    kind, class_agnostic = cfg.pop("type", "nms"), cfg.pop("class_agnostic", False)
    threshold = cfg.pop("iou_threshold", cfg.pop("iou_thr", None))
    cfg.pop("split_thr", None)
    limit = cfg.pop("max_num", -1)
    count = min((each for each in (count, limit) if each > 0), default=-1)
    if kind == "soft_nms":
        if not 0 < count <= MAX_SOFT:
            raise ExportError(
                f"soft_nms that keeps {count if count > 0 else 'all'} boxes can't be exported: "
                f"at most {MAX_SOFT} can be"
            )
        sigma, min_score = cfg.pop("sigma", 0.5), cfg.pop("min_score", 1e-3)
        method = cfg.pop("method", "linear")
        threshold = 0.3 if threshold is None else threshold
        if not cfg and min_score > 0:
            return SoftNMS(threshold, sigma, min_score, method, count, class_agnostic)
    if kind != "nms" or cfg or threshold is None:
        named = kind if not cfg else f"{kind} with {', '.join(cfg)}"
        raise ExportError(
            f"{named} in the model's test_cfg can't be exported: nms and soft_nms can"
        )
    return BatchedNMS(threshold, count, class_agnostic, num_groups)


class WithoutNMS(nn.Module):
    """Takes the place of NMS that the caller does."""

    def forward(
        self, boxes: Tensor, scores: Tensor, groups: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return boxes, scores, groups


class RoIFeatures(nn.Module):
    """RoIAlign of boxes, each on the level of its size, or on all.

    Args:
        extractor (SingleRoIExtractor | GenericRoIExtractor): of the model.
        is_batch (bool): every box is pooled on every level, and one is chosen; otherwise each
            level gets its own boxes, whose number follows from their sizes.
    """

    def __init__(self, extractor: BaseRoIExtractor, is_batch: bool = False) -> None:
        super().__init__()
        if type(extractor) not in (SingleRoIExtractor, GenericRoIExtractor):
            raise ExportError(f"{type(extractor).__name__} can't be exported")
        for layer in extractor.roi_layers:
            if isinstance(layer, ops.SimpleRoIAlign):
                continue
            if not isinstance(layer, ops.RoIAlign) or layer.pool_mode != "avg":
                raise ExportError(f"{type(layer).__name__} can't be exported: RoIAlign's mean can")
        if any(isinstance(part, GeneralizedAttention) for part in extractor.modules()):
            raise ExportError("GeneralizedAttention, of GRoIE, can't be exported")
        self.extractor = extractor
        self.is_batch = is_batch

    def forward(self, maps: Sequence[Tensor], boxes: Tensor, factor: float | None = None) -> Tensor:
        """(batch * N, channels, height, width) of (batch, N, 4) boxes, enlarged by ``factor``."""
        extractor, layers = self.extractor, self.extractor.roi_layers
        batch, count = boxes.shape[:2]
        images = torch.arange(batch)[:, None].expand(-1, count).reshape(-1)
        boxes = boxes.reshape(-1, 4)
        rois = torch.cat([boxes[:, :1], boxes], dim=1)  # only the corners are read
        if factor is not None and len(layers) > 1:
            boxes = extractor.roi_rescale(rois, factor)[:, 1:]
        if isinstance(extractor, GenericRoIExtractor) and len(layers) > 1:
            pooled = [roi_align(*pair, boxes, images) for pair in zip(layers, maps, strict=False)]
            if extractor.with_pre:
                pooled = [extractor.pre_module(features) for features in pooled]
            joined = sum(pooled[1:], pooled[0])
            if extractor.aggregation == "concat":
                joined = torch.cat(pooled, dim=1)
            return extractor.post_module(joined) if extractor.with_post else joined
        if len(layers) == 1:
            return roi_align(layers[0], maps[0], boxes, images)
        levels = extractor.map_roi_levels(rois, len(layers))
        if self.is_batch:
            pooled = [roi_align(*pair, boxes, images) for pair in zip(layers, maps, strict=False)]
            chosen = torch.zeros_like(pooled[0])  # of a box without area, which is on no level
            for i, features in enumerate(pooled):
                chosen = torch.where((levels == i)[:, None, None, None], features, chosen)
            return chosen
        of_levels = [torch.where(levels == i)[0] for i in range(len(layers))]
        parts = [
            roi_align(layer, level, boxes[index], images[index])
            for layer, level, index in zip(layers, maps, of_levels, strict=False)
        ]
        order = torch.cat(of_levels)
        parts.append(parts[0].new_zeros(1, *parts[0].shape[1:]))  # of boxes that are on no level
        # of as many as there are boxes, which the exporter doesn't know of the levels' sum
        inverse = torch.full_like(images, -1).scatter(0, order, torch.arange(order.shape[0]))
        return torch.cat(parts)[inverse]


def roi_align(
    layer: ops.RoIAlign | ops.SimpleRoIAlign, feature_map: Tensor, boxes: Tensor, images: Tensor
) -> Tensor:
    """What a layer makes of (N, 4) boxes of (N,) images, as many of each."""
    if isinstance(layer, ops.SimpleRoIAlign):
        return _sample_centres(layer, feature_map, boxes)
    options = (layer.spatial_scale, layer.sampling_ratio, layer.aligned)
    return operators.roi_align(feature_map, boxes, images, *layer.output_size, *options)


def _sample_centres(layer: ops.SimpleRoIAlign, feature_map: Tensor, boxes: Tensor) -> Tensor:
    """(N, channels, rows, columns): the map at the centres of each box's cells."""
    batch, channels, *sides = feature_map.shape
    places = []
    for axis, cells in enumerate(layer.output_size[::-1]):  # across, down
        start, end = boxes[:, axis, None], boxes[:, 2 + axis, None]
        place = start + (end - start) * ((torch.arange(cells) + 0.5) / cells)
        places.append(place * layer.spatial_scale / sides[1 - axis])
    rows, columns = layer.output_size
    across = places[0][:, None].expand(-1, rows, -1)
    down = places[1][:, :, None].expand(-1, -1, columns)
    grid = torch.stack([across, down], dim=-1).reshape(batch, -1, columns, 2) * 2 - 1
    sampled = F.grid_sample(feature_map, grid, align_corners=not layer.aligned)
    sampled = sampled.reshape(batch, channels, -1, rows, columns)
    return sampled.transpose(1, 2).flatten(0, 1)


def candidates(
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    is_batch: bool,
    factors: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (batch, M, 4), scores and labels (batch, M) for NMS, of several classes a box.

    Args:
        boxes (Tensor): (batch, N, 4) or, one a class, (batch, N * classes, 4).
        scores (Tensor): (batch, N, classes).
        threshold (float): of scores.
        is_batch (bool): the ``MAX_CANDIDATES`` highest scores are taken, and those below the
            threshold set to -1; otherwise, of one image, all those above it.
        factors (Tensor | None): (batch, N), that scores are multiplied by afterwards.
    """
    count, classes = scores.shape[1:]
    if is_batch:
        scores, index = operators.topk(scores.flatten(1), MAX_CANDIDATES)
        scores = torch.where(scores > threshold, scores, -1.0)
    else:
        (index,) = torch.where(scores.flatten() > threshold)
        scores, index = scores.flatten()[index][None], index[None]
    labels, place = index % classes, index // classes
    if factors is not None:
        scores = scores * factors.gather(1, place)
    return pick(boxes, index if boxes.shape[1] != count else place), scores, labels


def flatten_map(feature_map: Tensor, channels: int) -> Tensor:
    """(batch, anchors * channels, height, width) as (batch, height * width * anchors, channels)."""
    return feature_map.permute(0, 2, 3, 1).reshape(feature_map.shape[0], -1, channels)


def pick(x: Tensor, index: Tensor) -> Tensor:
    """(batch, K, channels) of (batch, N, channels), at (batch, K) indices."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def clips_border(coder: BaseBBoxCoder) -> bool:
    """Whether a coder clips boxes to the image; the one of MMDetection 1 always does."""
    return getattr(coder, "clip_border", True)


def border_of(coder: BaseBBoxCoder) -> int:
    """Pixels within the image's far sides that a coder clips boxes to."""
    return int(isinstance(coder, BucketingBBoxCoder | LegacyDeltaXYWHBBoxCoder))


def clip_boxes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """(batch, N, 4) boxes within images of ``sizes``, (batch, 2), height and width."""
    return torch.minimum(boxes.clamp(min=0), sizes.flip(1).repeat(1, 2)[:, None])


def clip_as(coder: BaseBBoxCoder, boxes: Tensor, sizes: Tensor) -> Tensor:
    """(batch, N, 4) boxes within images of ``sizes``, (batch, 2), where the coder clips them."""
    return clip_boxes(boxes, sizes - border_of(coder)) if clips_border(coder) else boxes


def drop_small_boxes(boxes: Tensor, scores: Tensor, cfg: Mapping) -> Tensor:
    """The scores, but -1 where a box is no larger than ``min_bbox_size``."""
    smallest = cfg.get("min_bbox_size", -1)
    if smallest < 0:
        return scores
    is_large = (boxes[..., 2:] - boxes[..., :2] > smallest).all(-1)
    return torch.where(is_large, scores, -1.0)


def check_smallest(cfg: Mapping, is_batch: bool) -> None:
    """Refuses ``min_bbox_size``, in the images' pixels, of a batch, whose images are resized."""
    if is_batch and cfg.get("min_bbox_size", -1) > 0:
        raise ExportError(
            f"min_bbox_size={cfg['min_bbox_size']} in the model's test_cfg can't be exported for "
            "batches, whose images are resized before: 0 can"
        )


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
