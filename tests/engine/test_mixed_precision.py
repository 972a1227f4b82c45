"""Training in bfloat16 by autocast on a CPU."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from dev.swap_sweep import ConfigTrial, ShippedConfig, batches
from mmpvt.engine.mixed_precision import Bfloat16OptimWrapper, decode_in_float32
from small_models import build


def losses_and_gradients(model: nn.Module, batch: dict) -> tuple[dict[str, Tensor], Tensor]:
    torch.manual_seed(0)  # of stochastic depth and of the samplers of boxes
    model.zero_grad()
    losses = model(**model.data_preprocessor(batch, True), mode="loss")
    total, parsed = model.parse_losses(losses)
    total.backward()
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}
    return parsed, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize(
    ("kind", "version", "tolerance"),
    [
        ("retinanet", "v1", 0.03),
        ("mask_rcnn", "v2", 0.3),  # its losses are those of other proposals
        ("fpn", "v2", 0.03),
    ],
)
def test_losses_are_those_of_float32(kind: str, version: str, tolerance: float):
    """But for rounding, and in float32."""
    model, config = build(kind, version)
    model.train()
    types: set[torch.dtype] = set()
    model.neck.register_forward_hook(lambda *args: types.update(out.dtype for out in args[-1]))
    wrapper = Bfloat16OptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with DefaultScope.overwrite_default_scope(config.default_scope):
        batch = batches.training_batch(config)
        wanted, towards = losses_and_gradients(model, batch)
        types.clear()
        with wrapper.optim_context(model):
            found, gradient = losses_and_gradients(model, batch)
    assert types == {torch.bfloat16}
    losses = [name for name in wanted if "loss" in name]
    assert {found[name].dtype for name in losses} == {torch.float32}
    for name in losses:
        assert found[name].item() == pytest.approx(wanted[name].item(), tolerance, 0.01), name
    assert any(found[name] != wanted[name] for name in losses)
    assert torch.cosine_similarity(gradient, towards, dim=0) > 1 - tolerance


@pytest.mark.parametrize(
    ("package", "path"),
    [
        ("mmdet", "point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py"),
        ("mmseg", "knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py"),
        ("mmseg", "point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of MMSegmentation's heads
def test_heads_whose_last_layer_is_another(package: str, path: str):
    """Which put float32 and what they compute into one tensor."""
    _, config = ConfigTrial().prepare(ShippedConfig(package, path))
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(config.model).eval()
        decode_in_float32(model)
        batch = batches.prediction_batch(config)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            (sample,) = model(**model.data_preprocessor(batch, False), mode="predict")
    scores = sample.pred_instances.scores if package == "mmdet" else sample.seg_logits.data
    assert scores.dtype == torch.float32 and scores.numel()


def test_heads_are_hooked_once():
    """And the branches that the encoder of a two-stage DETR calls past its head."""
    model, _ = build("deformable_detr", "v2")
    wrapper = Bfloat16OptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    for _ in range(3):
        with wrapper.optim_context(model):
            pass
    head = model.bbox_head
    for layer in (head, *head.cls_branches, *head.reg_branches):
        assert len(layer._forward_hooks) == 1
