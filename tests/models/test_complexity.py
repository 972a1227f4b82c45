"""The counting of parameters and multiply-adds, against formulas and published figures."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from helpers import ROOT, build_backbone
from mmpvt.engine.config import load_config
from mmpvt.errors import ConfigError
from mmpvt.models.complexity import ModuleCost, build_without_memory, count
from mmpvt.models.layers import SpatialReductionAttention

# With the ImageNet head at 224x224, in multiply-adds: PVT, table 2, and PVT v2, table 2.
IMAGENET = {
    "pvt_tiny": 1.9,
    "pvt_small": 3.8,
    "pvt_medium": 6.7,
    "pvt_large": 9.8,
    "pvt_v2_b0": 0.6,
    "pvt_v2_b1": 2.1,
    "pvt_v2_b2": 4.0,
    "pvt_v2_b2_li": 3.9,
    "pvt_v2_b3": 6.9,
    "pvt_v2_b4": 10.1,
    "pvt_v2_b5": 11.8,
}


def parts_of(config: str, **kwargs) -> dict[str, ModuleCost]:
    """The parts of a config's model, by name."""
    model = build_without_memory(load_config(config))
    return {part.name: part for part in count(model, **kwargs)}


def macs_of(module: nn.Module, *shape: int) -> int:
    """Multiply-adds of a module without data."""
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        module.to("meta").eval()(torch.empty(shape, device="meta"))
    return counted.get_total_flops() // 2


@pytest.mark.parametrize("linear", [False, True])
def test_attention(linear: bool):
    """Its two products are counted."""
    height, width, dims, ratio = 16, 24, 64, 4
    attn = SpatialReductionAttention(dims, 2, ratio, linear=linear)
    tokens = height * width
    keys = 49 if linear else tokens // ratio**2
    products = 2 * tokens * keys * dims
    layers = 2 * tokens * dims**2 + 2 * keys * dims**2
    reduction = keys * dims**2 * (1 if linear else ratio**2)
    assert macs_of(attn, 1, height, width, dims) == products + layers + reduction


@pytest.mark.parametrize("name", IMAGENET)
def test_backbone_with_imagenet_head(name: str):
    with torch.device("meta"):
        backbone = build_backbone(name)
        model = nn.Sequential(backbone, Last(), nn.Linear(backbone.arch.embed_dims[-1], 1000))
    gmacs = macs_of(model, 1, 3, 224, 224) / 1e9
    assert gmacs == pytest.approx(IMAGENET[name], abs=0.1)
    if name == "pvt_v2_b2":
        assert gmacs == pytest.approx(4.04, rel=0.01)
        parameters = sum(p.numel() for p in model.parameters())
        assert parameters / 1e6 == pytest.approx(25.36, abs=0.01)


class Last(nn.Module):
    """The mean of the last map."""

    def forward(self, maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return maps[-1].mean((2, 3))


@pytest.mark.parametrize(
    ("config", "macs", "parameters"),
    [  # MMDetection's and MMSegmentation's own figures
        ("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", 239, 37.97),
        ("mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py", 260, 44.4),
        ("mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py", 178.8, 49.08),
    ],
)
def test_other_models(config: str, macs: float, parameters: float):
    parts = parts_of(config).values()
    assert sum(part.macs for part in parts) / 1e9 == pytest.approx(macs, rel=0.01)
    assert sum(part.parameters for part in parts) / 1e6 == pytest.approx(parameters, abs=0.05)


def test_parts_of_a_cascade():
    """Each stage's head runs on every proposal, and its mask head on every detection."""
    parts = parts_of(f"{ROOT}/configs/cascade_mask_rcnn_pvt_v2_b2_fpn_3x_mstrain_fp16.py")
    assert list(parts) == [
        "backbone",
        "neck",
        "rpn_head",
        "roi_head.bbox_head",
        "roi_head.mask_head",
    ]
    convs, fc, outputs = 4 * 49 * 9 * 256**2, 49 * 256 * 1024, 1024 * (81 + 4 * 80)
    assert parts["roi_head.bbox_head"].macs == 3 * 1000 * (convs + fc + outputs)
    convs, upsampling, masks = 4 * 14**2 * 9 * 256**2, 14**2 * 4 * 256**2, 28**2 * 256 * 80
    assert parts["roi_head.mask_head"].macs == 3 * 100 * (convs + upsampling + masks)


def test_parts_of_detr():
    """Attention over all tokens, in the encoder and from the decoder's queries."""
    parts = parts_of(f"{ROOT}/configs/detr_pvt_s_8x2_50ep_coco.py", shape=(320, 640))
    assert list(parts) == ["backbone", "neck", "encoder", "decoder", "bbox_head", "rest"]
    tokens, queries, dims, hidden = 10 * 20, 100, 256, 2048
    encoder = 4 * tokens * dims**2 + 2 * tokens**2 * dims + 2 * tokens * dims * hidden
    assert parts["encoder"].macs == 6 * encoder
    own = 4 * queries * dims**2 + 2 * queries**2 * dims
    cross = 2 * (queries + tokens) * dims**2 + 2 * queries * tokens * dims
    assert parts["decoder"].macs == 6 * (own + cross + 2 * queries * dims * hidden)
    assert parts["rest"] == ModuleCost("rest", queries * dims, 0)


def test_parameters_add_up():
    config = Config.fromfile(ROOT / "configs" / "gfl_pvt_v2_b2_fpn_3x_mstrain_fp16.py")
    model = build_without_memory(config)
    parameters = sum(p.numel() for p in model.parameters())
    assert sum(part.parameters for part in count(model, (64, 64))) == parameters


def test_unknown_kind():
    with pytest.raises(ConfigError, match="a FastRCNN can't be counted"):
        parts_of("mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py")


@pytest.mark.parametrize(
    ("config", "part"),
    [
        ("mmdet::htc/htc_r50_fpn_1x_coco.py", "semantic_roi_extractor|semantic_head"),
        ("mmdet::ms_rcnn/ms-rcnn_r50_fpn_1x_coco.py", "mask_iou_head"),
        ("mmseg::ocrnet/ocrnet_hr18_4xb2-40k_cityscapes-512x1024.py", "decode_head"),
        ("mmdet::guided_anchoring/ga-retinanet_r50-caffe_fpn_1x_coco.py", "bbox_head"),
        ("mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py", "semantic_head"),
        ("mmdet::queryinst/queryinst_r50_fpn_1x_coco.py", "mask_head"),
    ],
)
def test_parts_that_cannot_be_counted(config: str, part: str):
    """They are named, rather than counted as nothing."""
    with pytest.raises(ConfigError, match=f"({part}) (can't be counted|doesn't run on)"):
        parts_of(config, shape=(128, 128))


def test_a_size_that_a_part_does_not_take():
    with pytest.raises(
        ConfigError, match=r"neck doesn't run on an image of this size \(.* --shape"
    ):
        parts_of("mmdet::yolo/yolov3_d53_8xb8-ms-608-273e_coco.py", shape=(100, 100))
