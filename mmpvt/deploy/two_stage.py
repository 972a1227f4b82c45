"""Two-stage detectors and cascades in exportable form: proposals, then boxes and masks of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import EmbeddingRPNHead
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import (
    CascadeRoIHead,
    DoubleHeadRoIHead,
    DynamicRoIHead,
    HybridTaskCascadeRoIHead,
    MaskScoringRoIHead,
    PISARoIHead,
    PointRendRoIHead,
    SCNetRoIHead,
    SparseRoIHead,
    StandardRoIHead,
)
from mmdet.models.roi_heads.bbox_heads import BBoxHead, SABLHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor, nn

from mmpvt.deploy.decoding import (
    NMS,
    RoIFeatures,
    WithoutNMS,
    build_nms,
    candidates,
    check_predicts_as,
    clip_as,
    drop_empty,
    pick,
)
from mmpvt.deploy.dense import Proposals, bucket_boxes
from mmpvt.deploy.forms import Core
from mmpvt.errors import ExportError


def _listed(parts: nn.Module) -> list[Any]:
    return list(parts) if isinstance(parts, nn.ModuleList) else [parts]


class ExportableTwoStage(Core):
    """Faster and Mask R-CNN, and Cascade R-CNN, whose boxes are refined several times."""

    mask_frame = "box"  # of which masks hold the probabilities

    def __init__(self, model: TwoStageDetector, is_batch: bool = False) -> None:
        super().__init__(model, is_batch)
        roi_head = model.roi_head
        if not model.with_rpn:
            raise ExportError(
                f"{type(model).__name__} can't be exported: it takes its proposals from a file"
            )
        if getattr(roi_head, "with_shared_head", False):
            raise ExportError("roi_head.shared_head can't be exported")
        self.propose = Proposals(model.rpn_head)
        self.heads = _listed(roi_head.bbox_head)
        for head in self.heads:
            check_predicts_as(head, SABLHead if isinstance(head, SABLHead) else BBoxHead)
            if not getattr(head, "with_reg", True):
                raise ExportError(f"{type(head).__name__} without its boxes can't be exported")
        extractors = _listed(roi_head.bbox_roi_extractor)
        self.box_features = nn.ModuleList(RoIFeatures(each, is_batch) for each in extractors)
        self.has_masks = roi_head.with_mask
        if self.has_masks:
            self.outputs += ("masks",)
            self.mask_heads = _listed(roi_head.mask_head)
            for head in self.mask_heads:
                check_predicts_as(head, FCNMaskHead)
            shared = getattr(roi_head, "share_roi_extractor", False)
            extractors = _listed(roi_head.mask_roi_extractor)
            self.mask_features = (
                self.box_features
                if shared or extractors == [None]
                else nn.ModuleList(RoIFeatures(each, is_batch) for each in extractors)
            )
            self.mask_threshold = roi_head.test_cfg.mask_thr_binary
        self.cfg = roi_head.test_cfg
        classes = self.heads[-1].num_classes
        self.nms: NMS | WithoutNMS = build_nms(self.cfg.nms, self.cfg.max_per_img, classes)

    def predict(self, x: Tensor, sizes: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        pyramid = self.model.extract_feat(x)
        proposals, objectness = self.propose(pyramid, sizes)
        maps = self.shared_features(pyramid)
        if not self.is_batch:
            objectness, proposals = drop_empty(objectness, proposals)
        torch._check(objectness.shape[1] > 0)
        boxes, scores, labels = self.classify(maps, proposals, objectness, sizes, scale)
        if not self.has_masks:
            return boxes, scores, labels
        if not self.is_batch:
            scores, boxes, labels = drop_empty(scores, boxes, labels)
            torch._check(scores.shape[1] > 0)
        masks, quality = self.predict_masks(maps, boxes, labels)
        return self.sort(boxes * scale[:, None], scores, labels, masks, quality)

    def shared_features(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What boxes and masks are made of; more maps than the pyramid's may follow them."""
        return maps

    def box_head(
        self, stage: int, maps: Sequence[Tensor], boxes: Tensor
    ) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
        """Logits (batch * N, classes + 1) and deltas of (batch, N, 4) boxes."""
        return self.heads[stage](self.box_features[stage](maps, boxes))

    def classify(
        self,
        maps: tuple[Tensor, ...],
        proposals: Tensor,
        objectness: Tensor,
        sizes: Tensor,
        scale: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (batch, N, 4), scores and labels (batch, N) of proposals.

        Boxes are in the images' pixels where there are no masks, else in the network's: so
        MMDetection applies NMS to them.
        """
        batch, count = objectness.shape
        boxes, logits = proposals, []
        for stage, head in enumerate(self.heads):
            found, deltas = self.box_head(stage, maps, boxes)
            logits.append(found)
            if head is not self.heads[-1]:
                boxes, _ = self.regress(head, boxes, deltas, sizes, found)
        mean = sum(logits[1:], logits[0]) / len(logits) if len(logits) > 1 else logits[0]
        head = self.heads[-1]
        if getattr(head, "custom_cls_channels", False):
            scores = head.loss_cls.get_activation(mean)
        else:
            scores = mean.softmax(-1)
        scores = scores[:, :-1].reshape(batch, count, scores.shape[1] - 1)
        scores = torch.where(objectness[..., None] > 0, scores, -1.0)
        boxes, factors = self.regress(head, boxes, deltas, sizes)
        boxes = boxes if self.has_masks else boxes * scale[:, None]
        threshold = self.cfg.score_thr
        return self.nms(*candidates(boxes, scores, threshold, self.is_batch, factors))

    def regress(
        self,
        head: BBoxHead,
        boxes: Tensor,
        deltas: Tensor | tuple[Tensor, Tensor],
        sizes: Tensor,
        logits: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Boxes (batch, N, 4), of the class of the highest logit, or without logits (batch, N *
        classes, 4) of all; and perhaps factors of their scores.
        """
        batch, count = boxes.shape[:2]
        coder = head.bbox_coder
        if isinstance(deltas, tuple):
            found, factors = bucket_boxes(coder, boxes.flatten(0, 1), *deltas)
            found = clip_as(coder, found.reshape(batch, count, 4), sizes)
            return found, factors.reshape(batch, count)
        copies = 1 if head.reg_class_agnostic else head.num_classes
        if logits is not None and copies > 1:
            if head.custom_activation:
                logits = head.loss_cls.get_activation(logits)
            index = logits[:, :-1].argmax(1)[:, None, None].expand(-1, 1, 4)
            deltas, copies = deltas.reshape(-1, copies, 4).gather(1, index), 1
        priors = boxes[:, :, None].expand(-1, -1, copies, 4).reshape(-1, 4)
        found = coder.decode(priors, deltas.reshape(-1, 4))
        return clip_as(coder, found.reshape(batch, count * copies, 4), sizes), None

    def predict_masks(
        self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """(batch, N, side, side) probabilities within each box, and perhaps factors of scores."""
        found = [
            self.of_class(head(features(maps, boxes)), labels).sigmoid()
            for head, features in zip(self.mask_heads, self.mask_features, strict=True)
        ]
        mean = sum(found[1:], found[0]) / len(found) if len(found) > 1 else found[0]
        return mean.reshape(*labels.shape, *mean.shape[2:]), None

    def of_class(self, masks: Tensor, labels: Tensor) -> Tensor:
        """(batch * N, 1, side, side) of (batch * N, classes, side, side)."""
        if self.mask_heads[-1].class_agnostic or masks.shape[1] == 1:
            return masks[:, :1]
        index = labels.reshape(-1)[:, None, None, None].expand(-1, 1, *masks.shape[2:])
        return masks.gather(1, index)

    def sort(
        self, boxes: Tensor, scores: Tensor, labels: Tensor, masks: Tensor, factors: Tensor | None
    ) -> tuple[Tensor, ...]:
        """By falling score, where ``factors`` change scores."""
        if factors is None:
            return boxes, scores, labels, masks
        scores, order = torch.where(scores > 0, scores * factors, scores).sort(1, descending=True)
        index = order[..., None, None].expand(-1, -1, *masks.shape[2:])
        return pick(boxes, order), scores, labels.gather(1, order), masks.gather(1, index)


class ExportableDoubleHead(ExportableTwoStage):
    """Double-Head R-CNN: classes and boxes are of features of their own."""

    def box_head(
        self, stage: int, maps: Sequence[Tensor], boxes: Tensor
    ) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
        features, factor = self.box_features[stage], self.model.roi_head.reg_roi_scale_factor
        return self.heads[stage](features(maps, boxes), features(maps, boxes, factor))


class ExportableMaskScoring(ExportableTwoStage):
    """Mask Scoring R-CNN: scores are multiplied by the masks' estimated IoU."""

    def predict_masks(
        self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        features = self.mask_features[0](maps, boxes)
        masks = self.of_class(self.mask_heads[0](features), labels)
        iou = self.model.roi_head.mask_iou_head(features, masks[:, 0])
        iou = iou.gather(1, labels.reshape(-1, 1)).reshape(labels.shape)
        return masks.sigmoid().reshape(*labels.shape, *masks.shape[2:]), iou


class ExportablePointRend(ExportableTwoStage):
    """PointRend: masks are doubled in size, and their least certain points predicted again."""

    def predict_masks(
        self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        roi_head, head = self.model.roi_head, self.model.roi_head.point_head
        cfg, batch = self.cfg, boxes.shape[0]
        coarse = self.mask_heads[0](self.mask_features[0](maps, boxes))
        masks = self.of_class(coarse, labels)
        origin, extent = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
        for step in range(cfg.subdivision_steps):
            height, width = (side * cfg.scale_factor for side in masks.shape[2:])
            masks = F.interpolate(masks, (height, width), mode="bilinear", align_corners=False)
            if (
                cfg.subdivision_num_points >= cfg.scale_factor**2 * height * width
                and step < cfg.subdivision_steps - 1
            ):
                continue
            count = min(height * width, cfg.subdivision_num_points)
            _, index = (-masks.abs().flatten(1)).topk(count)
            places = torch.stack(
                [(index % width + 0.5) / width, (index // width + 0.5) / height], dim=-1
            )
            inside = places.reshape(batch, -1, count, 2) * extent[:, :, None] + origin[:, :, None]
            fine = []
            strides = roi_head.mask_roi_extractor.featmap_strides
            for feature_map, stride in zip(maps, strides, strict=False):
                rows, columns = (side * stride for side in feature_map.shape[2:])
                grid = torch.stack([inside[..., 0] / columns, inside[..., 1] / rows], dim=-1)
                points = F.grid_sample(feature_map, grid * 2 - 1, align_corners=False)
                fine.append(points.transpose(1, 2).flatten(0, 1))
            rough = F.grid_sample(coarse, places[:, :, None] * 2 - 1, align_corners=False)
            again = head(torch.cat(fine, dim=1), rough[..., 0])
            again = self.of_class(again[..., None], labels)[..., 0]
            masks = masks.flatten(2).scatter(2, index[:, None], again)
            masks = masks.reshape(-1, 1, height, width)
        return masks.sigmoid().reshape(*labels.shape, *masks.shape[2:]), None


class ExportableHTC(ExportableTwoStage):
    """Hybrid Task Cascade: a semantic branch, and masks that each stage passes to the next."""

    def __init__(self, model: TwoStageDetector, is_batch: bool = False) -> None:
        super().__init__(model, is_batch)
        roi_head = model.roi_head
        self.fusion = roi_head.semantic_fusion if roi_head.with_semantic else ()
        if self.fusion:
            self.semantic_features = RoIFeatures(roi_head.semantic_roi_extractor, is_batch)

    def shared_features(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if not self.fusion:
            return maps
        return (*maps, self.model.roi_head.semantic_head(maps)[1])

    def fused(
        self, name: str, features: nn.Module, maps: Sequence[Tensor], boxes: Tensor
    ) -> Tensor:
        """Features of boxes and, where ``name``'s are fused, of the semantic branch."""
        pooled = features(maps, boxes)
        if name not in self.fusion:
            return pooled
        semantic = self.semantic_features(maps[-1:], boxes)
        if semantic.shape[-2:] != pooled.shape[-2:]:
            semantic = F.adaptive_avg_pool2d(semantic, pooled.shape[-2:])
        return pooled + semantic

    def box_head(
        self, stage: int, maps: Sequence[Tensor], boxes: Tensor
    ) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
        return self.heads[stage](self.fused("bbox", self.box_features[stage], maps, boxes))

    def predict_masks(
        self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        features, last = self.fused("mask", self.mask_features[-1], maps, boxes), None
        for head in self.mask_heads:
            if self.model.roi_head.mask_info_flow:
                masks, last = head(features, last)
            else:
                masks = head(features)
        found = self.of_class(masks[0] if isinstance(masks, list) else masks, labels).sigmoid()
        return found.reshape(*labels.shape, *found.shape[2:]), None


class ExportableSCNet(ExportableHTC):
    """SCNet: global context, and features of boxes that are relayed to masks."""

    def __init__(self, model: TwoStageDetector, is_batch: bool = False) -> None:
        ExportableTwoStage.__init__(self, model, is_batch)
        roi_head = model.roi_head
        self.fusion = ("bbox", "mask") if roi_head.with_semantic else ()
        if self.fusion:
            self.semantic_features = RoIFeatures(roi_head.semantic_roi_extractor, is_batch)

    def shared_features(self, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        roi_head = self.model.roi_head
        context = (roi_head.glbctx_head(maps)[1],) if roi_head.with_glbctx else ()
        return (*maps, *context, *super().shared_features(maps)[len(maps) :])

    def fused(
        self, name: str, features: nn.Module, maps: Sequence[Tensor], boxes: Tensor
    ) -> Tensor:
        pooled = super().fused(name, features, maps, boxes)
        if not self.model.roi_head.with_glbctx:
            return pooled
        context = maps[-2] if self.fusion else maps[-1]
        count = boxes.shape[1]
        return pooled + context[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)

    def box_head(
        self, stage: int, maps: Sequence[Tensor], boxes: Tensor
    ) -> tuple[Tensor, Tensor | tuple[Tensor, Tensor]]:
        logits, deltas, _ = self.relayed(stage, maps, boxes)
        return logits, deltas

    def relayed(self, stage: int, maps: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, ...]:
        """Logits, deltas and shared features of boxes."""
        features = self.fused("bbox", self.box_features[stage], maps, boxes)
        return self.heads[stage](features, return_shared_feat=True)

    def predict_masks(
        self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        features = self.fused("mask", self.mask_features[0], maps, boxes)
        roi_head = self.model.roi_head
        if roi_head.with_feat_relay:
            features = features + roi_head.feat_relay_head(self.relayed(-1, maps, boxes)[2])
        found = self.of_class(self.mask_heads[0](features), labels).sigmoid()
        return found.reshape(*labels.shape, *found.shape[2:]), None


class ExportableSparseRCNN(Core):
    """Sparse R-CNN and QueryInst: learned boxes, each with a vector, refined several times."""

    mask_frame = "box"

    def __init__(self, model: TwoStageDetector, is_batch: bool = False) -> None:
        super().__init__(model, is_batch)
        roi_head = model.roi_head
        if type(model.rpn_head) is not EmbeddingRPNHead:
            raise ExportError(f"{type(model.rpn_head).__name__} can't be exported")
        self.features = nn.ModuleList(
            RoIFeatures(each, is_batch) for each in roi_head.bbox_roi_extractor
        )
        self.cfg = roi_head.test_cfg
        self.has_masks = roi_head.with_mask
        if self.has_masks:
            self.outputs += ("masks",)
            self.mask_features = RoIFeatures(roi_head.mask_roi_extractor[-1], is_batch)
            self.mask_threshold = roi_head.test_cfg.mask_thr_binary

    def predict(self, x: Tensor, sizes: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        rpn, roi_head = self.model.rpn_head, self.model.roi_head
        maps = self.model.extract_feat(x)
        batch = sizes.shape[0]
        boxes = bbox_cxcywh_to_xyxy(rpn.init_proposal_bboxes.weight)
        boxes = boxes * sizes.flip(1).repeat(1, 2)[:, None]
        objects = rpn.init_proposal_features.weight.expand(batch, -1, -1)
        for head, features in zip(roi_head.bbox_head, self.features, strict=True):
            logits, deltas, objects, attended = head(features(maps, boxes), objects)
            found = head.bbox_coder.decode(boxes.reshape(-1, 4), deltas.reshape(-1, 4))
            boxes = clip_as(head.bbox_coder, found.reshape(batch, -1, 4), sizes)
        head = roi_head.bbox_head[-1]
        scores = logits.sigmoid() if head.loss_cls.use_sigmoid else logits.softmax(-1)[..., :-1]
        scores, index = scores.flatten(1).topk(self.cfg.max_per_img)
        query, labels = index // head.num_classes, index % head.num_classes
        results = (pick(boxes, query) * scale[:, None], scores, labels)
        if not self.has_masks:
            return results
        masks = roi_head.mask_head[-1](self.mask_features(maps, boxes), attended)
        masks = masks.reshape(batch, -1, *masks.shape[2:]).sigmoid()
        # (batch, queries * classes, side, side)
        chosen = index[..., None, None].expand(-1, -1, *masks.shape[2:])
        return (*results, masks.gather(1, chosen))


ROI_HEADS: dict[type, type[Core]] = {
    StandardRoIHead: ExportableTwoStage,
    DynamicRoIHead: ExportableTwoStage,
    PISARoIHead: ExportableTwoStage,
    CascadeRoIHead: ExportableTwoStage,
    DoubleHeadRoIHead: ExportableDoubleHead,
    MaskScoringRoIHead: ExportableMaskScoring,
    PointRendRoIHead: ExportablePointRend,
    HybridTaskCascadeRoIHead: ExportableHTC,
    SCNetRoIHead: ExportableSCNet,
    SparseRoIHead: ExportableSparseRCNN,
}


def two_stage(model: TwoStageDetector, is_batch: bool) -> Core:
    """A two-stage detector, by its second stage.

    Raises:
        ExportError: its second stage can't be exported.
    """
    roi_head = model.roi_head
    if type(roi_head) not in ROI_HEADS:
        known = ", ".join(kind.__name__ for kind in ROI_HEADS)
        raise ExportError(f"{type(roi_head).__name__} can't be exported: {known} can")
    return ROI_HEADS[type(roi_head)](model, is_batch)
