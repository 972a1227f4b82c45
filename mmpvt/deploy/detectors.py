"""MMDetection's detectors in exportable form, made of the models' own modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmdet.models.dense_heads import DETRHead, GFLHead, RPNHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import DETR, SingleStageDetector, TwoStageDetector
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor, nn

from mmpvt.deploy import operators
from mmpvt.errors import ExportError

PREDICT_METHODS = ("predict", "predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")
NO_LIMIT = 2**31 - 1


class ExportableOneStage(nn.Module):
    """RetinaNet, ATSS, GFL and others whose heads predict as MMDetection's base class does."""

    outputs = ("boxes", "scores", "labels")

    def __init__(self, model: SingleStageDetector) -> None:
        super().__init__()
        head = model.bbox_head
        check_predicts_as(head, BaseDenseHead, GFLHead)
        self.model = model
        self.cfg = head.test_cfg
        self.nms = BatchedNMS(self.cfg.nms, self.cfg.max_per_img)

    def forward(
        self, x: Tensor, size: Tensor, scale: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 4) boxes in the image's pixels, (N,) scores and labels, by falling score.

        Args:
            x (Tensor): (1, channels, height, width), normalised and padded.
            size (Tensor): (2,), height and width before padding.
            scale (Tensor): (4,), from there to the image's pixels.
            rows, columns (Tensor): centres of the image's pixels.
        """
        head = self.model.bbox_head
        maps = [list(level) for level in head(self.model.extract_feat(x))]
        boxes, scores, labels, _ = topk_per_level(
            head, *maps, count=self.cfg.get("nms_pre", -1), threshold=self.cfg.get("score_thr", 0)
        )
        boxes = clip_boxes(boxes, size) * scale
        return self.nms(boxes, drop_small_boxes(boxes, scores, self.cfg), labels)


class ExportableTwoStage(nn.Module):
    """Faster and Mask R-CNN."""

    def __init__(self, model: TwoStageDetector) -> None:
        super().__init__()
        self.model = model
        roi_head = model.roi_head
        if type(roi_head) is not StandardRoIHead:
            raise ExportError(f"{type(roi_head).__name__} can't be exported: StandardRoIHead can")
        check_predicts_as(model.rpn_head, RPNHead)
        check_predicts_as(roi_head.bbox_head, BBoxHead)
        self.box_features = RoIFeatures(roi_head.bbox_roi_extractor)
        self.outputs: tuple[str, ...] = ("boxes", "scores", "labels")
        self.has_masks = roi_head.with_mask
        if self.has_masks:
            check_predicts_as(roi_head.mask_head, FCNMaskHead)
            self.outputs += ("masks",)
            extractor = roi_head.mask_roi_extractor
            self.mask_features = RoIFeatures(extractor) if extractor else self.box_features
        self.rpn_cfg = model.rpn_head.test_cfg
        self.cfg = roi_head.test_cfg
        self.rpn_nms = BatchedNMS(self.rpn_cfg.nms, self.rpn_cfg.max_per_img)
        self.nms = BatchedNMS(self.cfg.nms, self.cfg.max_per_img)

    def forward(
        self, x: Tensor, size: Tensor, scale: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, ...]:
        """As of one stage; and masks, (N, image height, image width), bool."""
        maps = self.model.extract_feat(x)
        proposals = self.propose(maps, size)
        boxes, scores, labels = self.classify(maps, proposals, size, scale)
        if not self.has_masks:
            return boxes, scores, labels
        masks = self.predict_masks(maps, boxes, labels)
        boxes = boxes * scale
        masks = paste_masks(masks, boxes, rows, columns) >= self.cfg.mask_thr_binary
        return boxes, scores, labels, masks

    def propose(self, maps: tuple[Tensor, ...], size: Tensor) -> Tensor:
        """(N, 4) proposals, in the network's pixels."""
        head = self.model.rpn_head
        count = self.rpn_cfg.get("nms_pre", -1)
        boxes, scores, _, levels = topk_per_level(head, *head(maps), count=count)
        boxes = clip_boxes(boxes, size)
        return self.rpn_nms(boxes, drop_small_boxes(boxes, scores, self.rpn_cfg), levels)[0]

    def classify(
        self, maps: tuple[Tensor, ...], proposals: Tensor, size: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (N, 4), scores and labels (N,) of proposals.

        Boxes are in the image's pixels where there are no masks, else in the network's: so
        MMDetection applies NMS to them.
        """
        head = self.model.roi_head.bbox_head
        logits, deltas = head(self.box_features(maps, proposals))
        scores = logits.softmax(-1)[:, :-1]
        copies = 1 if head.reg_class_agnostic else head.num_classes
        priors = proposals[:, None].expand(-1, copies, 4).reshape(-1, 4)
        torch._check(priors.shape[0] > 0)
        boxes = clip_boxes(head.bbox_coder.decode(priors, deltas.reshape(-1, 4)), size)
        boxes = boxes if self.has_masks else boxes * scale
        index, labels = torch.where(scores > self.cfg.score_thr)
        scores = scores[index, labels]
        return self.nms(boxes[index if copies == 1 else index * copies + labels], scores, labels)

    def predict_masks(self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor) -> Tensor:
        """(N, side, side) probabilities within each box."""
        head = self.model.roi_head.mask_head
        masks = head(self.mask_features(maps, boxes)).sigmoid()
        if head.class_agnostic:
            return masks[:, 0]
        index = labels[:, None, None, None].expand(-1, 1, *masks.shape[2:])
        return masks.gather(1, index)[:, 0]


class ExportableDETR(nn.Module):
    """DETR, whose transformer gets the positions within the image alone.

    Those in the padding, which PyTorch masks out of attention, are cropped.
    """

    outputs = ("boxes", "scores", "labels")

    def __init__(self, model: DETR) -> None:
        super().__init__()
        check_predicts_as(model.bbox_head, DETRHead)
        self.model = model
        self.count = model.bbox_head.test_cfg.get("max_per_img", model.num_queries)

    def forward(
        self, x: Tensor, size: Tensor, scale: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As of one stage."""
        model, head = self.model, self.model.bbox_head
        feature_map = model.extract_feat(x)[-1]
        sides = []  # rows and columns that aren't in the padding
        for i in (2, 3):
            length, padded = feature_map.shape[i], x.shape[i]
            pixel = torch.arange(length) * padded // length
            sides.append((pixel < size[i - 2]).sum(0, keepdim=True))
        feature_map = operators.crop(feature_map, *sides)
        no_padding = feature_map.new_zeros(1, *feature_map.shape[2:], dtype=torch.bool)
        positions = model.positional_encoding(no_padding).flatten(2).transpose(1, 2)
        tokens = feature_map.flatten(2).transpose(1, 2)
        memory = model.forward_encoder(feat=tokens, feat_mask=None, feat_pos=positions)
        queries, _ = model.pre_decoder(**memory)
        hidden = model.forward_decoder(**queries, memory_mask=None, memory_pos=positions)
        logits, boxes = (layers[-1, 0] for layers in head(**hidden))
        if head.loss_cls.use_sigmoid:
            scores, index = logits.sigmoid().flatten().topk(self.count)
            query, labels = index // head.num_classes, index % head.num_classes
        else:
            scores, labels = logits.softmax(-1)[:, :-1].max(-1)
            scores, query = scores.topk(self.count)
            labels = labels[query]
        boxes = bbox_cxcywh_to_xyxy(boxes[query]) * size.flip(0).repeat(2)
        return clip_boxes(boxes, size) * scale, scores, labels


class BatchedNMS(nn.Module):
    """MMCV's ``batched_nms``: boxes of different groups are moved apart for a single NMS."""

    def __init__(self, cfg: Mapping, count: int) -> None:
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

    def forward(
        self, boxes: Tensor, scores: Tensor, groups: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 4) boxes, (N,) scores over 0 and groups to those that are kept, by falling score."""
        apart = boxes
        if not self.class_agnostic:
            valid = torch.where((scores > 0)[:, None], boxes, 0.0)
            edge = torch.cat([valid.flatten(), valid.new_zeros(1)]).amax(0)
            apart = boxes + (groups * (edge + 1))[:, None]
        kept = operators.nms(apart, scores, self.iou_threshold, self.count)
        return boxes[kept], scores[kept], groups[kept]


class RoIFeatures(nn.Module):
    """RoIAlign of (N, 4) boxes, each on the level of its size: (N, channels, height, width)."""

    def __init__(self, extractor: SingleRoIExtractor) -> None:
        super().__init__()
        if type(extractor) is not SingleRoIExtractor:
            raise ExportError(f"{type(extractor).__name__} can't be exported")
        for layer in extractor.roi_layers:
            if type(layer).__name__ != "RoIAlign" or layer.pool_mode != "avg":
                raise ExportError(f"{type(layer).__name__} can't be exported: RoIAlign's mean can")
        self.extractor = extractor

    def forward(self, maps: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
        layers = self.extractor.roi_layers
        rois = torch.cat([boxes[:, :1], boxes], dim=1)  # only the corners are read
        levels = self.extractor.map_roi_levels(rois, len(layers))
        features, indices = [], []
        for i, layer in enumerate(layers):
            (index,) = torch.where(levels == i)
            options = (*layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned)
            features.append(operators.roi_align(maps[i], boxes[index], *options))
            indices.append(index)
        order = torch.cat(indices)
        inverse = torch.zeros_like(order).scatter(0, order, torch.arange(order.shape[0]))
        return torch.cat(features)[inverse]


def topk_per_level(
    head: BaseDenseHead,
    class_maps: Sequence[Tensor],
    box_maps: Sequence[Tensor],
    factor_maps: Sequence[Tensor] | None = None,
    *,
    count: int,
    threshold: float = 0.0,
) -> tuple[Tensor, ...]:
    """(N, 4) boxes, (N,) scores, labels and levels of each level's ``count`` highest scores.

    Args:
        head (BaseDenseHead): whose anchors, coder and activation are used.
        class_maps (Sequence[Tensor]): (1, anchors * classes, height, width) each.
        box_maps (Sequence[Tensor]): (1, anchors * box channels, height, width) each.
        factor_maps (Sequence[Tensor] | None): (1, anchors, height, width) each, whose sigmoid
            multiplies the scores: centerness, say.
        count (int): all of them, if negative.
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
            classes = classes.softmax(-1)[:, :-1]
        kept, index = operators.topk(classes.reshape(-1), count if count > 0 else NO_LIMIT)
        torch._check(kept.shape[0] > 0)
        class_scores = scores = kept.sigmoid() if head.use_sigmoid_cls else kept
        anchor = index // classes.shape[1]
        if factor_maps is not None:
            scores = scores * flatten_map(factor_maps[i], 1)[anchor, 0].sigmoid()
        scores = torch.where(class_scores > threshold, scores, -1.0)
        anchors, deltas = anchors[anchor], flatten_map(box_maps[i], box_channels)[anchor]
        if is_gfl:
            deltas = head.integral(deltas) * head.prior_generator.strides[i][0]
            anchors = head.anchor_center(anchors)
        boxes = head.bbox_coder.decode(anchors, deltas)
        labels = index % classes.shape[1]
        levels.append((boxes, scores, labels, torch.full_like(labels, i)))
    return tuple(torch.cat(parts) for parts in zip(*levels, strict=True))


def flatten_map(feature_map: Tensor, channels: int) -> Tensor:
    """(1, anchors * channels, height, width) as (height * width * anchors, channels)."""
    return feature_map[0].permute(1, 2, 0).reshape(-1, channels)


def clip_boxes(boxes: Tensor, size: Tensor) -> Tensor:
    """(N, 4) boxes within an image of ``size``, (2,), height and width."""
    return torch.minimum(boxes.clamp(min=0), size.flip(0).repeat(2))


def drop_small_boxes(boxes: Tensor, scores: Tensor, cfg: Mapping) -> Tensor:
    """The scores, but -1 where a box is no larger than ``min_bbox_size``."""
    smallest = cfg.get("min_bbox_size", -1)
    if smallest < 0:
        return scores
    is_large = (boxes[:, 2:] - boxes[:, :2] > smallest).all(1)
    return torch.where(is_large, scores, -1.0)


def paste_masks(masks: Tensor, boxes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(N, side, side) masks of boxes pasted into the image: (N, height, width), zero around them.

    Bilinear sampling is a product on either side: of N boxes it costs two matrix products.
    """
    vertical = _bilinear_weights(rows, boxes[:, 1], boxes[:, 3], masks.shape[1])
    horizontal = _bilinear_weights(columns, boxes[:, 0], boxes[:, 2], masks.shape[2])
    return vertical @ masks @ horizontal.mT


def _bilinear_weights(centres: Tensor, start: Tensor, end: Tensor, cells: int) -> Tensor:
    """(N, length, cells): the weight of each cell between ``start`` and ``end`` at each pixel."""
    position = (centres - start[:, None]) / (end - start)[:, None] * cells - 0.5
    return (1 - (position[..., None] - torch.arange(cells)).abs()).relu()


def check_predicts_as(head: nn.Module, *bases: type) -> None:
    """Refuses a head that predicts in another way than its base class does, by its name."""
    for name in PREDICT_METHODS:
        own = getattr(type(head), name, None)
        if all(own is not getattr(base, name, None) for base in bases):
            raise ExportError(
                f"{type(head).__name__} can't be exported: it has a predict of its own"
            )
