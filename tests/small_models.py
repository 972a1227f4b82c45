"""Small models of each kind that can be exported, of random weights."""

from __future__ import annotations

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from helpers import ROOT
from mmpvt.datasets.shapes_drawing import draw_scene
from mmpvt.deploy.verification import predict
from mmpvt.engine.config import load_config
from mmpvt.engine.pipeline import read_test_pipeline

BACKBONES = {
    "v1": dict(type="mmpvt.PyramidVisionTransformer"),
    "v2": dict(type="mmpvt.PyramidVisionTransformerV2"),
}
ARCH = dict(embed_dims=(8, 16, 20, 32), depths=(1, 1, 1, 1), mlp_ratios=(2, 2, 2, 2))
NECK = dict(in_channels=[8, 16, 20, 32], out_channels=16)
HEAD = dict(in_channels=16, feat_channels=16, stacked_convs=1)
NORM = dict(type="GN", num_groups=4)
DETECTOR_SCALE = (224, 160)  # width and height that the test pipeline keeps images within


def _layer(**more) -> dict:
    attention = dict(embed_dims=32, num_heads=4)
    return dict(
        num_layers=1,
        layer_cfg=dict(
            self_attn_cfg=attention, ffn_cfg=dict(embed_dims=32, feedforward_channels=64), **more
        ),
    )


KINDS = {
    "retinanet": (
        "retinanet_pvt_t_fpn_1x_coco.py",
        dict(neck=NECK, bbox_head=HEAD),
        ["bbox_head.retina_cls"],
    ),
    "mask_rcnn": (
        "mask_rcnn_pvt_t_fpn_1x_coco.py",
        dict(
            neck=NECK,
            rpn_head=dict(in_channels=16, feat_channels=16),
            roi_head=dict(
                bbox_roi_extractor=dict(out_channels=16),
                bbox_head=dict(in_channels=16, fc_out_channels=32),
                mask_roi_extractor=dict(out_channels=16),
                mask_head=dict(num_convs=1, in_channels=16, conv_out_channels=16),
            ),
        ),
        ["rpn_head.rpn_cls", "roi_head.bbox_head.fc_cls", "roi_head.mask_head.conv_logits"],
    ),
    "detr": (
        "detr_pvt_s_8x2_50ep_coco.py",
        dict(
            num_queries=20,
            neck=dict(in_channels=[32], out_channels=32),
            encoder=_layer(),
            decoder=_layer(cross_attn_cfg=dict(embed_dims=32, num_heads=4)),
            positional_encoding=dict(num_feats=16),
            bbox_head=dict(embed_dims=32),
            test_cfg=dict(max_per_img=20),
        ),
        ["bbox_head.fc_cls"],
    ),
    "fpn": (
        "fpn_pvt_t_ade20k_40k.py",
        dict(neck=NECK, decode_head=dict(in_channels=[16] * 4, channels=16)),
        ["decode_head.conv_seg"],
    ),
    "gfl": (
        "gfl_pvt_v2_b2_fpn_3x_mstrain_fp16.py",
        dict(neck=NECK, bbox_head=dict(HEAD, norm_cfg=NORM)),
        ["bbox_head.gfl_cls"],
    ),
    "atss": (
        "atss_pvt_v2_b2_fpn_3x_mstrain_fp16.py",
        dict(neck=NECK, bbox_head=dict(HEAD, norm_cfg=NORM)),
        ["bbox_head.atss_cls"],
    ),
}


KINDS |= {
    "cascade": (  # with Soft-NMS
        "cascade_mask_rcnn_pvt_v2_b0_fpn_shapes.py",
        dict(
            neck=dict(in_channels=[8, 16, 20, 32]),
            test_cfg=dict(
                rpn=dict(max_per_img=50),
                rcnn=dict(
                    nms=dict(type="soft_nms", iou_threshold=0.5, min_score=0.05), max_per_img=20
                ),
            ),
        ),
        [
            "rpn_head.rpn_cls",
            *(f"roi_head.bbox_head.{i}.fc_cls" for i in range(3)),
            *(f"roi_head.mask_head.{i}.conv_logits" for i in range(3)),
        ],
    ),
    "sparse_rcnn": (
        "sparse_rcnn_pvt_v2_b0_fpn_shapes.py",
        dict(neck=dict(in_channels=[8, 16, 20, 32])),
        ["roi_head.bbox_head.2.fc_cls"],
    ),
    "slide": (
        "fpn_pvt_t_ade20k_40k.py",
        dict(
            neck=NECK,
            decode_head=dict(in_channels=[16] * 4, channels=16),
            test_cfg=dict(mode="slide", crop_size=(96, 96), stride=(64, 64)),
        ),
        ["decode_head.conv_seg"],
    ),
    "vfnet": (  # deformable convolutions
        "mmdet::vfnet/vfnet_r50_fpn_1x_coco.py",
        dict(neck=NECK, bbox_head=dict(HEAD, norm_cfg=NORM)),
        ["bbox_head.vfnet_cls"],
    ),
    "tood": (
        "mmdet::tood/tood_r50_fpn_1x_coco.py",
        dict(neck=NECK, bbox_head=dict(HEAD, stacked_convs=2, norm_cfg=NORM)),
        ["bbox_head.tood_cls"],
    ),
    "deformable_detr": (
        "mmdet::deformable_detr/deformable-detr-refine_r50_16xb2-50e_coco.py",
        dict(
            num_queries=20,
            backbone=dict(out_indices=(1, 2, 3)),
            neck=dict(in_channels=[16, 20, 32], out_channels=32, norm_cfg=NORM),
            encoder=_layer(),
            decoder=_layer(cross_attn_cfg=dict(embed_dims=32, num_heads=4)),
            positional_encoding=dict(num_feats=16),
            bbox_head=dict(embed_dims=32),
            test_cfg=dict(max_per_img=20),
        ),
        ["bbox_head.cls_branches.0"],
    ),
    "mask2former": (
        "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py",
        dict(
            panoptic_head=dict(
                num_queries=20,
                in_channels=[8, 16, 20, 32],
                feat_channels=32,
                out_channels=32,
                pixel_decoder=dict(
                    norm_cfg=NORM,
                    encoder=_layer(),
                    positional_encoding=dict(num_feats=16),
                ),
                positional_encoding=dict(num_feats=16),
                transformer_decoder=dict(
                    _layer(cross_attn_cfg=dict(embed_dims=32, num_heads=4)), num_layers=2
                ),
            ),
            test_cfg=dict(max_per_image=20),
        ),
        ["panoptic_head.cls_embed", "panoptic_head.mask_embed.4"],
    ),
}


def build(kind: str, version: str) -> tuple[nn.Module, Config]:
    """A small model whose predictions are anything but all alike."""
    name, changes, deciding = KINDS[kind]
    is_ours = "::" not in name
    config = load_config(str(ROOT / "configs" / name) if is_ours else name)
    if not is_ours:  # a ResNet's options
        config.model.backbone.clear()
    config.model.backbone.update(BACKBONES[version], arch=ARCH, init_cfg=None)
    config.merge_from_dict(dict(model=changes))
    init_default_scope(config.default_scope)
    for transform in read_test_pipeline(config):
        if transform["type"] == "Resize":
            transform["scale"] = DETECTOR_SCALE
    torch.manual_seed(0)
    model = MODELS.build(config.model).eval()
    for layer in deciding:
        spread(model, config, model.get_submodule(layer))
    return model, config


def spread(model: nn.Module, config: Config, layer: nn.Module) -> None:
    """Scales a layer's weights until what it gives varies by a few units."""
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda _, __, out: seen.append(out.flatten()))
    predict(model, config, picture(120, 160))
    handle.remove()
    layer.weight.data.mul_(2 / torch.cat(seen).std().clamp(min=1e-6))


def picture(height: int, width: int) -> np.ndarray:
    """Shapes, uint8, (height, width, 3)."""
    side = max(height, width)
    drawn = draw_scene(np.random.default_rng(side), (side, side)).image
    return np.ascontiguousarray(drawn[:height, :width])
