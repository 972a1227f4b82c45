"""DETR."""

from __future__ import annotations

import torch
from mmdet.models.dense_heads import DETRHead
from mmdet.models.detectors import DETR
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor, nn

from mmpvt.deploy.detection import clipped, refuse_own_ways


class Transformer(nn.Module):
    """DETR, its padding kept out of attention.

    Args:
        model (DETR): the detector.

    Raises:
        UserError: its head predicts in another way than DETR's.
    """

    outputs = ("boxes", "scores", "labels")

    def __init__(self, model: DETR) -> None:
        super().__init__()
        refuse_own_ways(model.bbox_head, DETRHead)
        self.model = model
        self.count = model.bbox_head.test_cfg.get("max_per_img", model.num_queries)

    def forward(
        self, x: Tensor, size: Tensor, scale: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`OneStage.forward`."""
        model, head = self.model, self.model.bbox_head
        feature_map = model.extract_feat(x)[-1]
        is_padding = beyond(feature_map, x, size)
        positions = model.positional_encoding(is_padding).flatten(2).transpose(1, 2)
        tokens = feature_map.flatten(2).transpose(1, 2)
        mask = is_padding.flatten(1)
        memory = model.forward_encoder(feat=tokens, feat_mask=mask, feat_pos=positions)
        queries, _ = model.pre_decoder(**memory)
        hidden = model.forward_decoder(**queries, memory_mask=mask, memory_pos=positions)
        logits, boxes = (layers[-1, 0] for layers in head(**hidden))
        if head.loss_cls.use_sigmoid:
            scores, index = logits.sigmoid().flatten().topk(self.count)
            place, labels = index // head.num_classes, index % head.num_classes
        else:
            scores, labels = logits.softmax(-1)[:, :-1].max(-1)
            scores, place = scores.topk(self.count)
            labels = labels[place]
        boxes = bbox_cxcywh_to_xyxy(boxes[place]) * size.flip(0).repeat(2)
        return clipped(boxes, size) * scale, scores, labels


def beyond(feature_map: Tensor, x: Tensor, size: Tensor) -> Tensor:
    """(1, height, width), bool: which positions of a map lie in the padding.

    Args:
        feature_map (Tensor): (1, channels, height, width).
        x (Tensor): the padded image, (1, 3, padded height, padded width).
        size (Tensor): (2,), height and width before padding.
    """
    sides = []
    for i in (0, 1):
        length, whole = feature_map.shape[2 + i], x.shape[2 + i]
        pixel = torch.arange(length) * whole // length
        sides.append(pixel >= size[i])
    return (sides[0][:, None] | sides[1])[None]
