"""DETR."""

from __future__ import annotations

import torch
from mmdet.models.dense_heads import DETRHead
from mmdet.models.detectors import DETR
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor, nn

from mmpvt.deploy import operators
from mmpvt.deploy.detection import clipped, refuse_own_ways


class Transformer(nn.Module):
    """DETR, whose transformer gets the positions within the image alone.

    Those in the padding, which PyTorch masks out of attention, are cut off: nothing looks at them.

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
        feature_map = operators.cut(feature_map, *covered(feature_map, x, size))
        no_padding = feature_map.new_zeros(1, *feature_map.shape[2:], dtype=torch.bool)
        positions = model.positional_encoding(no_padding).flatten(2).transpose(1, 2)
        tokens = feature_map.flatten(2).transpose(1, 2)
        memory = model.forward_encoder(feat=tokens, feat_mask=None, feat_pos=positions)
        queries, _ = model.pre_decoder(**memory)
        hidden = model.forward_decoder(**queries, memory_mask=None, memory_pos=positions)
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


def covered(feature_map: Tensor, x: Tensor, size: Tensor) -> list[Tensor]:
    """(1,) int64 each: how many rows and columns of a map don't lie in the padding.

    Args:
        feature_map (Tensor): (1, channels, height, width).
        x (Tensor): the padded image, (1, 3, padded height, padded width).
        size (Tensor): (2,), height and width before padding.
    """
    counts = []
    for i in (0, 1):
        length, whole = feature_map.shape[2 + i], x.shape[2 + i]
        pixel = torch.arange(length) * whole // length
        counts.append((pixel < size[i]).sum(0, keepdim=True))
    return counts
