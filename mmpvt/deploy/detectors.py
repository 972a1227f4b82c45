"""MMDetection's detectors in exportable form, made of the models' own modules.

Each takes a batch and gives padded results: see :mod:`.forms`.
"""

from __future__ import annotations

import torch
from mmdet.models.dense_heads import DETRHead, GFLHead, RPNHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import DETR, SingleStageDetector, TwoStageDetector
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor

from mmpvt.deploy.decoding import (
    BatchedNMS,
    RoIFeatures,
    candidates,
    check_predicts_as,
    clip_boxes,
    drop_empty,
    drop_small_boxes,
    padding_mask,
    pick,
    topk_per_level,
)
from mmpvt.deploy.forms import Core
from mmpvt.errors import ExportError


class ExportableOneStage(Core):
    """RetinaNet, ATSS, GFL and others whose heads predict as MMDetection's base class does."""

    def __init__(self, model: SingleStageDetector, is_batch: bool = False) -> None:
        super().__init__(model, is_batch)
        head = model.bbox_head
        check_predicts_as(head, BaseDenseHead, GFLHead)
        self.cfg = head.test_cfg
        self.nms = BatchedNMS(self.cfg.nms, self.cfg.max_per_img, head.num_classes)

    def forward(self, x: Tensor, sizes: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        head = self.model.bbox_head
        maps = [list(level) for level in head(self.model.extract_feat(x))]
        boxes, scores, labels, _ = topk_per_level(
            head, *maps, count=self.cfg.get("nms_pre", -1), threshold=self.cfg.get("score_thr", 0)
        )
        boxes = clip_boxes(boxes, sizes) * scale[:, None]
        return self.nms(boxes, drop_small_boxes(boxes, scores, self.cfg), labels)


class ExportableTwoStage(Core):
    """Faster and Mask R-CNN."""

    mask_frame = "box"  # of which masks hold the probabilities

    def __init__(self, model: TwoStageDetector, is_batch: bool = False) -> None:
        super().__init__(model, is_batch)
        roi_head = model.roi_head
        if type(roi_head) is not StandardRoIHead:
            raise ExportError(f"{type(roi_head).__name__} can't be exported: StandardRoIHead can")
        check_predicts_as(model.rpn_head, RPNHead)
        check_predicts_as(roi_head.bbox_head, BBoxHead)
        self.box_features = RoIFeatures(roi_head.bbox_roi_extractor, is_batch)
        self.has_masks = roi_head.with_mask
        if self.has_masks:
            check_predicts_as(roi_head.mask_head, FCNMaskHead)
            self.outputs += ("masks",)
            extractor = roi_head.mask_roi_extractor
            self.mask_features = (
                RoIFeatures(extractor, is_batch) if extractor else self.box_features
            )
            self.mask_threshold = roi_head.test_cfg.mask_thr_binary
        self.rpn_cfg = model.rpn_head.test_cfg
        self.cfg = roi_head.test_cfg
        levels = model.rpn_head.prior_generator.num_levels
        self.rpn_nms = BatchedNMS(self.rpn_cfg.nms, self.rpn_cfg.max_per_img, levels)
        classes = roi_head.bbox_head.num_classes
        self.nms = BatchedNMS(self.cfg.nms, self.cfg.max_per_img, classes)

    def forward(self, x: Tensor, sizes: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        maps = self.model.extract_feat(x)
        proposals = self.propose(maps, sizes)
        boxes, scores, labels = self.classify(maps, *proposals, sizes, scale)
        if not self.has_masks:
            return boxes, scores, labels
        if not self.is_batch:
            scores, boxes, labels = drop_empty(scores, boxes, labels)
        masks = self.predict_masks(maps, boxes, labels)
        return boxes * scale[:, None], scores, labels, masks

    def propose(self, maps: tuple[Tensor, ...], sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Proposals (batch, N, 4), in the network's pixels, and their scores (batch, N)."""
        head = self.model.rpn_head
        count = self.rpn_cfg.get("nms_pre", -1)
        boxes, scores, _, levels = topk_per_level(head, *head(maps), count=count)
        boxes = clip_boxes(boxes, sizes)
        boxes, scores, _ = self.rpn_nms(
            boxes, drop_small_boxes(boxes, scores, self.rpn_cfg), levels
        )
        if not self.is_batch:
            scores, boxes = drop_empty(scores, boxes)
        return boxes, scores

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
        head = self.model.roi_head.bbox_head
        logits, deltas = head(self.box_features(maps, proposals))
        batch, count = objectness.shape
        torch._check(count > 0)
        scores = logits.softmax(-1)[:, :-1].reshape(batch, count, logits.shape[1] - 1)
        scores = torch.where(objectness[..., None] > 0, scores, -1.0)
        copies = 1 if head.reg_class_agnostic else head.num_classes
        priors = proposals[:, :, None].expand(-1, -1, copies, 4).reshape(-1, 4)
        boxes = head.bbox_coder.decode(priors, deltas.reshape(-1, 4))
        boxes = boxes.reshape(batch, count * copies, 4)
        boxes = clip_boxes(boxes, sizes)
        boxes = boxes if self.has_masks else boxes * scale[:, None]
        return self.nms(*candidates(boxes, scores, self.cfg.score_thr, self.is_batch))

    def predict_masks(self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor) -> Tensor:
        """(batch, N, side, side) probabilities within each box."""
        head = self.model.roi_head.mask_head
        masks = head(self.mask_features(maps, boxes)).sigmoid()
        index = labels.reshape(-1)[:, None, None, None].expand(-1, 1, *masks.shape[2:])
        masks = masks[:, :1] if head.class_agnostic else masks.gather(1, index)
        return masks.reshape(*labels.shape, *masks.shape[2:])


class ExportableDETR(Core):
    """DETR."""

    def __init__(self, model: DETR, is_batch: bool = False) -> None:
        super().__init__(model, is_batch)
        check_predicts_as(model.bbox_head, DETRHead)
        self.count = model.bbox_head.test_cfg.get("max_per_img", model.num_queries)

    def forward(self, x: Tensor, sizes: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        model, head = self.model, self.model.bbox_head
        feature_map = model.extract_feat(x)[-1]
        mask = padding_mask(feature_map, x, sizes)
        positions = model.positional_encoding(mask).flatten(2).transpose(1, 2)
        tokens = feature_map.flatten(2).transpose(1, 2)
        mask = mask.flatten(1)
        memory = model.forward_encoder(feat=tokens, feat_mask=mask, feat_pos=positions)
        queries, _ = model.pre_decoder(**memory)
        hidden = model.forward_decoder(**queries, memory_mask=mask, memory_pos=positions)
        logits, boxes = (layers[-1] for layers in head(**hidden))
        if head.loss_cls.use_sigmoid:
            scores, index = logits.sigmoid().flatten(1).topk(self.count)
            query, labels = index // head.num_classes, index % head.num_classes
        else:
            scores, labels = logits.softmax(-1)[..., :-1].max(-1)
            scores, query = scores.topk(self.count)
            labels = labels.gather(1, query)
        boxes = bbox_cxcywh_to_xyxy(pick(boxes, query)) * sizes.flip(1).repeat(1, 2)[:, None]
        return clip_boxes(boxes, sizes) * scale[:, None], scores, labels
