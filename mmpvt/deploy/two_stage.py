"""Faster and Mask R-CNN."""

from __future__ import annotations

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor, nn

from mmpvt.deploy.detection import (
    Suppression,
    candidates,
    clipped,
    refuse_own_ways,
    without_small,
)
from mmpvt.deploy.operators import roi_align
from mmpvt.errors import UserError


class TwoStage(nn.Module):
    """Faster R-CNN, Mask R-CNN.

    Args:
        model (TwoStageDetector): the detector.

    Raises:
        UserError: a part of it has no form in ONNX; it is named.
    """

    def __init__(self, model: TwoStageDetector) -> None:
        super().__init__()
        self.model = model
        roi_head = model.roi_head
        if type(roi_head) is not StandardRoIHead:
            raise UserError(f"{type(roi_head).__name__} can't be exported: StandardRoIHead can")
        refuse_own_ways(model.rpn_head, RPNHead)
        refuse_own_ways(roi_head.bbox_head, BBoxHead)
        self.has_masks = roi_head.with_mask
        self.outputs = ("boxes", "scores", "labels", *(("masks",) if self.has_masks else ()))
        if self.has_masks:
            refuse_own_ways(roi_head.mask_head, FCNMaskHead)
        self.box_features = RoIFeatures(roi_head.bbox_roi_extractor)
        if self.has_masks:
            same = roi_head.mask_roi_extractor
            self.mask_features = RoIFeatures(same) if same else self.box_features
        self.proposing = model.rpn_head.test_cfg
        self.cfg = roi_head.test_cfg
        self.proposal_suppression = Suppression(self.proposing.nms, self.proposing.max_per_img)
        self.suppression = Suppression(self.cfg.nms, self.cfg.max_per_img)

    def forward(
        self, x: Tensor, size: Tensor, scale: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, ...]:
        """As :meth:`OneStage.forward`; and masks, (N, image height, image width), bool."""
        maps = self.model.extract_feat(x)
        proposals = self.propose(maps, size)
        boxes, scores, labels = self.classify(maps, proposals, size, scale)
        if not self.has_masks:
            return boxes, scores, labels
        masks = self.mask(maps, boxes, labels)
        boxes = boxes * scale
        masks = pasted(masks, boxes, rows, columns) >= self.cfg.mask_thr_binary
        return boxes, scores, labels, masks

    def propose(self, maps: tuple[Tensor, ...], size: Tensor) -> Tensor:
        """(N, 4) boxes of anything, in the network's pixels."""
        head = self.model.rpn_head
        levels = candidates(head, *head(maps), count=self.proposing.get("nms_pre", -1))
        numbers = [torch.full_like(labels, i) for i, (_, _, labels) in enumerate(levels)]
        boxes = clipped(torch.cat([boxes for boxes, _, _ in levels]), size)
        scores = torch.cat([scores for _, scores, _ in levels])
        scores = without_small(boxes, scores, self.proposing)
        return self.proposal_suppression(boxes, scores, torch.cat(numbers))[0]

    def classify(
        self, maps: tuple[Tensor, ...], proposals: Tensor, size: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (N, 4), scores and labels (N,) of proposals.

        Boxes are the image's where there are no masks, else the network's: so MMDetection
        suppresses them.
        """
        head = self.model.roi_head.bbox_head
        logits, deltas = head(self.box_features(maps, proposals))
        scores = logits.softmax(-1)[:, :-1]
        copies = 1 if head.reg_class_agnostic else head.num_classes
        priors = proposals[:, None].expand(-1, copies, 4).reshape(-1, 4)
        torch._check(priors.shape[0] > 0)
        boxes = clipped(head.bbox_coder.decode(priors, deltas.reshape(-1, 4)), size)
        boxes = boxes if self.has_masks else boxes * scale
        place, labels = torch.where(scores > self.cfg.score_thr)
        scores = scores[place, labels]
        chosen = place if copies == 1 else place * copies + labels
        return self.suppression(boxes[chosen], scores, labels)

    def mask(self, maps: tuple[Tensor, ...], boxes: Tensor, labels: Tensor) -> Tensor:
        """(N, side, side) probabilities within each box."""
        head = self.model.roi_head.mask_head
        masks = head(self.mask_features(maps, boxes)).sigmoid()
        if head.class_agnostic:
            return masks[:, 0]
        index = labels[:, None, None, None].expand(-1, 1, *masks.shape[2:])
        return masks.gather(1, index)[:, 0]


class RoIFeatures(nn.Module):
    """The maps' cells within boxes, each box from the level of its size.

    Args:
        extractor (SingleRoIExtractor): the model's.

    Raises:
        UserError: it is of another kind.
    """

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        if type(extractor) is not SingleRoIExtractor:
            raise UserError(f"{type(extractor).__name__} can't be exported")
        for layer in extractor.roi_layers:
            if type(layer).__name__ != "RoIAlign" or layer.pool_mode != "avg":
                raise UserError(f"{type(layer).__name__} can't be exported: RoIAlign's mean can")
        self.extractor = extractor

    def forward(self, maps: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
        """(N, 4) boxes to (N, channels, height, width)."""
        layers = self.extractor.roi_layers
        rois = torch.cat([boxes[:, :1], boxes], dim=1)  # only the corners are read
        levels = self.extractor.map_roi_levels(rois, len(layers))
        cells, places = [], []
        for i, layer in enumerate(layers):
            (place,) = torch.where(levels == i)
            options = (*layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned)
            cells.append(roi_align(maps[i], boxes[place], *options))
            places.append(place)
        order = torch.cat(places)
        back = torch.zeros_like(order).scatter(0, order, torch.arange(order.shape[0]))
        return torch.cat(cells)[back]


def pasted(masks: Tensor, boxes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Masks of boxes laid into the image, bilinearly, zero around them.

    Bilinear sampling is a product on either side: of N boxes it costs two matrix products.

    Args:
        masks (Tensor): (N, side, side).
        boxes (Tensor): (N, 4), in the image's pixels.
        rows, columns (Tensor): centres of the image's pixels, (height,) and (width,).

    Returns:
        Tensor: (N, height, width).
    """
    down = weights(rows, boxes[:, 1], boxes[:, 3], masks.shape[1])
    across = weights(columns, boxes[:, 0], boxes[:, 2], masks.shape[2])
    return down @ masks @ across.mT


def weights(centres: Tensor, start: Tensor, end: Tensor, cells: int) -> Tensor:
    """(N, length, cells): how much of each cell between ``start`` and ``end`` a pixel takes."""
    place = (centres - start[:, None]) / (end - start)[:, None] * cells - 0.5
    return (1 - (place[..., None] - torch.arange(cells)).abs()).relu()
