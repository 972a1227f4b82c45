"""Detectors of learned queries in exportable form: DETR and those after it, Mask2Former."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import (
    ConditionalDETRHead,
    DABDETRHead,
    DeformableDETRHead,
    DETRHead,
    DINOHead,
    Mask2FormerHead,
    MaskFormerHead,
)
from mmdet.models.detectors import (
    DABDETR,
    DETR,
    DINO,
    ConditionalDETR,
    DeformableDETR,
    MaskFormer,
)
from mmdet.models.detectors.base_detr import DetectionTransformer
from mmdet.models.layers import PixelDecoder, TransformerEncoderPixelDecoder
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from torch import Tensor

from mmpvt.deploy.decoding import check_predicts_as, clip_boxes, padding_mask, pick
from mmpvt.deploy.forms import Core, enclose
from mmpvt.errors import ExportError


class ExportableDETR(Core):
    """DETR, Conditional DETR and DAB-DETR."""

    def __init__(self, model: DetectionTransformer, is_batch: bool = False) -> None:
        super().__init__(model, is_batch)
        bases = (DETRHead, ConditionalDETRHead, DABDETRHead, DeformableDETRHead, DINOHead)
        check_predicts_as(model.bbox_head, *bases)
        self.count = model.bbox_head.test_cfg.get("max_per_img", model.num_queries)

    def predict(self, x: Tensor, sizes: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        model, head = self.model, self.model.bbox_head
        encoder_inputs, decoder_inputs = self.tokens(model.extract_feat(x), x, sizes)
        memory = model.forward_encoder(**encoder_inputs)
        queries, _ = model.pre_decoder(**memory)
        hidden = model.forward_decoder(**queries, **decoder_inputs)
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

    def tokens(self, maps: tuple[Tensor, ...], x: Tensor, sizes: Tensor) -> tuple[dict, dict]:
        """What the model's encoder and decoder take, as its ``pre_transformer`` gives it."""
        feature_map = maps[-1]
        mask = padding_mask(feature_map, x, sizes)
        positions = self.model.positional_encoding(mask).flatten(2).transpose(1, 2)
        tokens, mask = feature_map.flatten(2).transpose(1, 2), mask.flatten(1)
        return (
            dict(feat=tokens, feat_mask=mask, feat_pos=positions),
            dict(memory_mask=mask, memory_pos=positions),
        )


class ExportableDeformableDETR(ExportableDETR):
    """Deformable DETR and DINO: tokens of several levels, whose sizes are ints."""

    def tokens(self, maps: tuple[Tensor, ...], x: Tensor, sizes: Tensor) -> tuple[dict, dict]:
        model, levels = self.model, []
        for i, feature_map in enumerate(maps):
            mask = padding_mask(feature_map, x, sizes)
            positions = model.positional_encoding(mask).flatten(2).transpose(1, 2)
            positions = positions + model.level_embed[i]
            ratio = model.get_valid_ratio(mask)
            levels.append((feature_map.flatten(2).mT, positions, mask.flatten(1), ratio))
        tokens, positions, masks, ratios = zip(*levels, strict=True)
        shared = dict(
            spatial_shapes=[feature_map.shape[2:] for feature_map in maps],
            level_start_index=None,
            valid_ratios=torch.stack(ratios, dim=1),
        )
        mask = torch.cat(masks, dim=1)
        encoder = dict(feat=torch.cat(tokens, 1), feat_mask=mask, feat_pos=torch.cat(positions, 1))
        return {**encoder, **shared}, dict(memory_mask=mask, **shared)


class ExportableMaskFormer(Core):
    """MaskFormer and Mask2Former: masks over the whole input, and boxes around them."""

    outputs = (*Core.outputs, "masks")
    mask_frame = "image"
    mask_threshold = 0.0  # of logits, which are what is resized

    def __init__(self, model: MaskFormer, is_batch: bool = False) -> None:
        super().__init__(model, is_batch)
        self.cfg = model.panoptic_fusion_head.test_cfg
        if self.cfg.get("panoptic_on", True) or not self.cfg.get("instance_on", False):
            raise ExportError(
                f"{type(model).__name__}'s panoptic maps can't be exported: instances can "
                "(test_cfg's panoptic_on=False instance_on=True)"
            )
        check_masks(model.panoptic_head)

    def predict(self, x: Tensor, sizes: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        fusion = self.model.panoptic_fusion_head
        logits, masks = query_masks(self.model.panoptic_head, self.model.extract_feat(x), x, sizes)
        scores = logits.softmax(-1)[..., :-1].flatten(1)
        scores, index = scores.topk(self.cfg.get("max_per_image", 100))
        query, labels = index // fusion.num_classes, index % fusion.num_classes
        scores = torch.where(labels < fusion.num_things_classes, scores, -1.0)
        masks = masks.gather(1, query[..., None, None].expand(-1, -1, *masks.shape[2:]))
        if not self.is_batch:  # boxes and scores are of masks at the image's size
            return masks.new_zeros(1, masks.shape[1], 4), scores, labels, masks
        whole = F.interpolate(masks, x.shape[2:], mode="bilinear", align_corners=False)
        outside = padding_mask(x, x, sizes)[:, None]
        boxes, certainty = enclose(torch.where(outside, -1.0, whole))
        scores, order = torch.where(scores > 0, scores * certainty, scores).sort(descending=True)
        chosen = order[..., None, None].expand(-1, -1, *masks.shape[2:])
        boxes = pick(boxes, order) * scale[:, None]
        return boxes, scores, labels.gather(1, order), masks.gather(1, chosen)


def check_masks(head: MaskFormerHead) -> None:
    """Refuses heads that :func:`query_masks` doesn't know."""
    if isinstance(head, Mask2FormerHead):
        return
    decoder = type(head.pixel_decoder)
    if decoder not in (PixelDecoder, TransformerEncoderPixelDecoder):
        raise ExportError(f"{decoder.__name__} can't be exported")


def query_masks(
    head: MaskFormerHead, maps: tuple[Tensor, ...], x: Tensor, sizes: Tensor
) -> tuple[Tensor, Tensor]:
    """Class logits (batch, queries, classes + 1) and mask logits (batch, queries, h, w)."""
    if isinstance(head, Mask2FormerHead):
        logits, masks = head(maps, None)
        return logits[-1], masks[-1]
    decoder = head.pixel_decoder
    mask = padding_mask(maps[-1], x, sizes)
    if isinstance(decoder, TransformerEncoderPixelDecoder):
        height, width = maps[-1].shape[2:]
        tokens = decoder.encoder(
            query=decoder.encoder_in_proj(maps[-1]).flatten(2).mT,
            query_pos=decoder.positional_encoding(mask).flatten(2).mT,
            key_padding_mask=mask.flatten(1),
        )
        memory = tokens.mT.reshape(x.shape[0], -1, height, width)
        y = decoder.encoder_out_proj(memory)
    else:
        y, memory = decoder.last_feat_conv(maps[-1]), maps[-1]
    for i in range(decoder.num_inputs - 2, -1, -1):
        lateral = decoder.lateral_convs[i](maps[i])
        y = decoder.output_convs[i](lateral + F.interpolate(y, lateral.shape[-2:]))
    features = decoder.mask_feature(y)
    memory = head.decoder_input_proj(memory).flatten(2).mT
    queries = head.query_embed.weight.expand(x.shape[0], -1, -1)
    found = head.transformer_decoder(
        query=torch.zeros_like(queries),
        key=memory,
        value=memory,
        query_pos=queries,
        key_pos=head.decoder_pe(mask).flatten(2).mT,
        key_padding_mask=mask.flatten(1),
    )[-1]
    masks = torch.einsum("bqc,bchw->bqhw", head.mask_embed(found), features)
    return head.cls_embed(found), masks


TRANSFORMERS: dict[type, type[Core]] = {
    DETR: ExportableDETR,
    ConditionalDETR: ExportableDETR,
    DABDETR: ExportableDETR,
    DeformableDETR: ExportableDeformableDETR,
    DINO: ExportableDeformableDETR,
}
