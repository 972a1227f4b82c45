"""Checkpoints as MMDetection 2.13 and MMSegmentation 0.13 saved them, of every family in the zoo.

``OLD`` lists the names of everything but the backbone's tensors, as those versions' modules were
called (printed models of MMDetection 2.1x with mmcv 1.3, and their sources).
"""

from __future__ import annotations

import copy
import itertools
import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import load_checkpoint as load_into
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from helpers import ROOT
from mmpvt.checkpoint import describe_incompatible_keys, load_checkpoint
from mmpvt.engine.config import load_config
from mmpvt.engine.config_parts import iter_dicts
from mmpvt.engine.initial_weights import set_pretrained

WB = "{weight,bias}"
BN = "bn.{weight,bias,running_mean,running_var,num_batches_tracked}"
FPN3 = [f"neck.{{lateral,fpn}}_convs.{{0,1,2}}.conv.{WB}"]
FPN4 = [f"neck.{{lateral,fpn}}_convs.{{0,1,2,3}}.conv.{WB}"]
RPN = [f"rpn_head.{{rpn_conv,rpn_cls,rpn_reg}}.{WB}"]
GN_TOWERS = [
    "bbox_head.{cls,reg}_convs.{0,1}.conv.weight",
    f"bbox_head.{{cls,reg}}_convs.{{0,1}}.gn.{WB}",
    "bbox_head.scales.{0,1,2}.scale",
]
ATTN = "attn.{in_proj_weight,in_proj_bias,out_proj.weight,out_proj.bias}"
FFN = "layers.{0.0,1}.{weight,bias}"
STAGE = "roi_head.bbox_head.{0,1,2}"
OLD = {
    "retinanet_pvt_v2_b0_fpn_shapes": [
        *FPN3,
        f"bbox_head.{{cls,reg}}_convs.{{0,1}}.conv.{WB}",
        f"bbox_head.{{retina_cls,retina_reg}}.{WB}",
    ],
    "mask_rcnn_pvt_v2_b0_fpn_shapes": [
        *FPN4,
        *RPN,
        f"roi_head.bbox_head.{{fc_cls,fc_reg,shared_fcs.0,shared_fcs.1}}.{WB}",
        f"roi_head.mask_head.{{convs.0.conv,convs.1.conv,upsample,conv_logits}}.{WB}",
    ],
    "cascade_mask_rcnn_pvt_v2_b0_fpn_shapes": [
        *FPN4,
        *RPN,
        f"{STAGE}.{{fc_cls,fc_reg,shared_fcs.0}}.{WB}",
        f"{STAGE}.shared_convs.{{0,1}}.conv.weight",
        f"{STAGE}.shared_convs.{{0,1}}.{BN}",
        f"roi_head.mask_head.{{0,1,2}}.{{convs.0.conv,convs.1.conv,upsample,conv_logits}}.{WB}",
    ],
    "atss_pvt_v2_b0_fpn_shapes": [
        *FPN3,
        *GN_TOWERS,
        f"bbox_head.{{atss_cls,atss_reg,atss_centerness}}.{WB}",
    ],
    "gfl_pvt_v2_b0_fpn_shapes": [
        *FPN3,
        *GN_TOWERS,
        f"bbox_head.{{gfl_cls,gfl_reg}}.{WB}",
        "bbox_head.integral.project",
    ],
    "sparse_rcnn_pvt_v2_b0_fpn_shapes": [
        *FPN4,
        "rpn_head.{init_proposal_bboxes,init_proposal_features}.weight",
        f"{STAGE}.{{fc_cls,fc_reg,attention_norm,instance_interactive_conv_norm,ffn_norm}}.{WB}",
        f"{STAGE}.attention.{ATTN}",
        f"{STAGE}.instance_interactive_conv.{{dynamic_layer,norm_in,norm_out,fc_layer,fc_norm}}.{WB}",
        f"{STAGE}.ffn.{FFN}",
        f"{STAGE}.{{cls_fcs.0,reg_fcs.0,reg_fcs.3,reg_fcs.6}}.weight",
        f"{STAGE}.{{cls_fcs.1,reg_fcs.1,reg_fcs.4,reg_fcs.7}}.{WB}",
    ],
    "detr_pvt_v2_b0_shapes": [
        f"bbox_head.{{input_proj,fc_cls,fc_reg}}.{WB}",
        "bbox_head.query_embedding.weight",
        f"bbox_head.reg_ffn.{FFN}",
        f"bbox_head.transformer.encoder.layers.{{0,1}}.attentions.0.{ATTN}",
        f"bbox_head.transformer.encoder.layers.{{0,1}}.norms.{{0,1}}.{WB}",
        f"bbox_head.transformer.decoder.layers.{{0,1}}.attentions.{{0,1}}.{ATTN}",
        f"bbox_head.transformer.decoder.layers.{{0,1}}.norms.{{0,1,2}}.{WB}",
        f"bbox_head.transformer.{{encoder,decoder}}.layers.{{0,1}}.ffns.0.{FFN}",
        f"bbox_head.transformer.decoder.post_norm.{WB}",
    ],
    "fpn_pvt_v2_b0_shapes": [
        *FPN4,
        f"decode_head.conv_seg.{WB}",
        "decode_head.scale_heads.{0.0,1.0,2.0,2.2,3.0,3.2,3.4}.conv.weight",
        f"decode_head.scale_heads.{{0.0,1.0,2.0,2.2,3.0,3.2,3.4}}.{BN}",
    ],
}
# whose tensor it is today, where it is another's
NOW = {
    "bbox_head.transformer.": "",
    "attentions.0.": "self_attn.",
    "attentions.1.": "cross_attn.",
    "ffns.0.": "ffn.",
    "bbox_head.input_proj.": "neck.convs.0.conv.",
    "bbox_head.query_embedding.": "query_embedding.",
}
# as MMDetection 2.8 named parts of DETR
OLDER = {
    "attentions.0.": "self_attn.",
    "attentions.1.": "multihead_attn.",
    "ffns.0.": "ffn.",
    "decoder.post_norm.": "decoder.norm.",
}
V1 = dict(embed_dims=(32, 64, 160, 256), depths=(1, 1, 1, 1))


def expand(pattern: str) -> list[str]:
    """``a.{b,c}`` as ``a.b``, ``a.c``."""
    parts = re.split(r"\{(.+?)\}", pattern)
    choices = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
    return ["".join(choice) for choice in itertools.product(*choices)]


def substitute(name: str, table: dict[str, str]) -> str:
    for old, new in table.items():
        name = name.replace(old, new)
    return name


def family(name: str, v1: bool = False) -> Config:
    """A config of the zoo that predicts something whatever its weights are."""
    config = load_config(str(ROOT / "configs" / f"{name}.py"))
    set_pretrained(config, "none")
    for part in iter_dicts(config.model):
        if "score_thr" in part:
            part["score_thr"] = 0.0
    if v1:
        config.model.backbone = dict(type="mmpvt.PyramidVisionTransformer", arch=V1)
    return config


def build(config: Config, seed: int) -> nn.Module:
    """A model with weights of its own."""
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = revert_sync_batchnorm(MODELS.build(copy.deepcopy(config.model))).eval()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and "integral" not in name:
            drawn = torch.randn(tensor.shape) * (0.05 if tensor.dim() > 1 else 0.2)
            tensor.copy_(drawn.abs() + 0.5 if "running_var" in name else drawn)
    return model


def old_state(model: nn.Module, listed: list[str], table: dict[str, str]) -> OrderedDict:
    """The model's tensors under the listed names and the backbone's, as a state dict."""
    state = model.state_dict()
    old = OrderedDict((name, state[name]) for name in state if name.startswith("backbone."))
    for name in itertools.chain(*map(expand, listed)):
        old[name] = state[substitute(name, table)]
    assert len(old) == len(state)
    old._metadata = OrderedDict({"": {"version": 1}})
    return old


def save(path: Path, state: dict) -> Path:
    """As MMCV 1.3 does."""
    meta = dict(
        mmdet_version="2.13.0+1f71c3a",
        mmcv_version="1.3.3",
        CLASSES=("person", "bicycle"),
        config="model = dict(type='DETR')",
        epoch=12,
        iter=87960,
        seed=None,
        hook_msgs=dict(best_score=np.float64(0.4), best_ckpt="epoch_12.pth"),
        fp16=dict(loss_scaler=dict(scale=512.0, growth_tracker=7)),
        time="Sun May 16 10:00:00 2021",
    )
    moments = dict(step=10, exp_avg=torch.ones(2), exp_avg_sq=torch.ones(2))
    optimizer = dict(state={0: moments}, param_groups=[dict(lr=1e-4, params=[0])])
    torch.save(dict(meta=meta, state_dict=state, optimizer=optimizer), path)
    return path


def predict(model: nn.Module) -> list[Tensor]:
    """What it finds in a picture of noise."""
    picture = torch.randint(256, (3, 64, 64), generator=torch.Generator().manual_seed(0))
    size = dict(img_shape=(64, 64), ori_shape=(64, 64), scale_factor=(1.0, 1.0))
    kind = SegDataSample if hasattr(model, "decode_head") else DetDataSample
    with torch.no_grad():
        (found,) = model.test_step(
            dict(inputs=[picture.to(torch.uint8)], data_samples=[kind(metainfo=size)])
        )
    if kind is SegDataSample:
        return [found.seg_logits.data]
    instances = found.pred_instances
    assert len(instances)
    return [instances.bboxes, instances.scores, instances.labels]


def assert_loads(path: Path, config: Config, model: nn.Module) -> None:
    """A model like the one that was saved is filled by the file, nothing missing or left over."""
    other = build(config, seed=1)
    expected = predict(model)
    assert any(not torch.equal(a, b) for a, b in zip(expected, predict(other), strict=True))
    load_into(other, str(path), strict=True)
    for ours, theirs in zip(predict(other), expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", OLD)
def test_every_family(name: str, tmp_path: Path):
    config = family(name)
    model = build(config, seed=0)
    table = NOW if name.startswith("detr") else {}
    path = save(tmp_path / "old.pth", old_state(model, OLD[name], table))
    assert_loads(path, config, model)


def test_trans2seg(tmp_path: Path):
    """Its head is this project's: no older version had it."""
    config = family("trans2seg_pvt_v2_b0_shapes")
    model = build(config, seed=0)
    assert_loads(save(tmp_path / "a.pth", model.state_dict()), config, model)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_detr_before_2_9(prefix: str, tmp_path: Path):
    config = family("detr_pvt_v2_b0_shapes")
    model = build(config, seed=0)
    state = old_state(model, OLD["detr_pvt_v2_b0_shapes"], NOW)
    older = {prefix + substitute(name, OLDER): tensor for name, tensor in state.items()}
    assert_loads(save(tmp_path / "older.pth", older), config, model)


def test_version_1_backbone_with_its_class_token(tmp_path: Path):
    config = family("retinanet_pvt_v2_b0_fpn_shapes", v1=True)
    model = build(config, seed=0)
    state = old_state(model, OLD["retinanet_pvt_v2_b0_fpn_shapes"], {})
    token = torch.full((1, 1, 256), 9.0)
    state["backbone.cls_token"] = token
    state["backbone.pos_embed4"] = torch.cat([token, state["backbone.pos_embed4"]], 1)
    assert_loads(save(tmp_path / "a.pth", state), config, model)


def test_half_precision_and_averages(tmp_path: Path):
    """MMCV's EMAHook stores a second copy of every tensor, under a flattened name."""
    config = family("gfl_pvt_v2_b0_fpn_shapes")
    model = build(config, seed=0)
    for tensor in model.state_dict().values():
        tensor.copy_(tensor.half())
    state = old_state(model, OLD["gfl_pvt_v2_b0_fpn_shapes"], {})
    half = {name: tensor.half() for name, tensor in state.items()}
    averages = {f"ema_{name.replace('.', '_')}": torch.zeros_like(t) for name, t in half.items()}
    assert_loads(save(tmp_path / "a.pth", {**half, **averages}), config, model)


def test_what_is_new_or_unknown_stays_as_it_is(tmp_path: Path):
    state = {
        "bbox_head.transformer.encoder.layers.0.attentions.0.sampling_offsets.weight": torch.ones(
            1
        ),
        "bbox_head.query_embedding.weight": torch.ones(1),
        "ema_head.weight": torch.ones(1),
    }
    torch.save(state, tmp_path / "a.pth")
    assert list(load_checkpoint(tmp_path / "a.pth")) == list(state)


def test_of_another_model(tmp_path: Path):
    config = family("detr_pvt_v2_b0_shapes")
    model = build(config, seed=0)
    state = old_state(model, OLD["detr_pvt_v2_b0_shapes"], NOW)
    tensors = load_checkpoint(save(tmp_path / "a.pth", state))["state_dict"]
    config.model.num_queries = 10
    wanted = build(config, seed=0).state_dict()
    said = "1 of another shape: query_embedding.weight (20x128, not 10x128)"
    assert describe_incompatible_keys(tensors, wanted) == said
