"""Every known layout fills a backbone exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from mmdet.models.backbones.pvt import PyramidVisionTransformer as MMDetPVT
from mmdet.models.backbones.pvt import PyramidVisionTransformerV2 as MMDetPVTv2
from torch.nn import functional as F

from helpers import build_backbone, relative
from mmpvt.checkpoint import convert, describe_incompatible_keys
from mmpvt.errors import UserError
from mmpvt.models import PyramidVisionTransformer, PyramidVisionTransformerV2

SMALL = dict(embed_dims=(32, 64, 160, 256), depths=(1, 2, 1, 1))
IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).double()


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval().double()


def assert_same_maps(ours: torch.nn.Module, theirs: torch.nn.Module) -> None:
    with torch.no_grad():
        for mine, other in zip(ours(IMAGES), theirs(IMAGES), strict=True):
            assert relative(mine, other) < 1e-10


@pytest.fixture
def v1() -> PyramidVisionTransformer:
    return randomised(PyramidVisionTransformer(SMALL, pretrain_img_size=64))


@pytest.fixture
def v2() -> PyramidVisionTransformerV2:
    return randomised(PyramidVisionTransformerV2(SMALL))


WRAPPINGS = {
    "as it is": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "meta": {"epoch": 1}},
    "model": lambda state: {"model": state},
    "data parallel": lambda state: {f"module.{k}": v for k, v in state.items()},
    "compiled": lambda state: {f"module._orig_mod.{k}": v for k, v in state.items()},
    "detector": lambda state: {
        "state_dict": {
            **{f"backbone.{k}": v for k, v in state.items()},
            "neck.conv.weight": torch.ones(1),
        }
    },
    "classifier": lambda state: {
        **state,
        "head.weight": torch.ones(10, 256),
        "head.bias": torch.ones(10),
        "cls_token": torch.ones(1, 1, 256),
        "norm.weight": torch.ones(256),
        "norm.bias": torch.ones(256),
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_published(wrapping: str, v1: PyramidVisionTransformer):
    ours = PyramidVisionTransformer(SMALL, pretrain_img_size=64).eval().double()
    result = ours.load_state_dict(WRAPPINGS[wrapping](v1.state_dict()))
    assert not result.missing_keys and not result.unexpected_keys
    assert_same_maps(ours, v1)


@pytest.mark.parametrize("name", ["pvt_tiny", "pvt_v2_b0", "pvt_v2_b2_li"])
def test_published_names_and_shapes(name: str, official_shapes: dict):
    checkpoint = {key: torch.zeros(shape) for key, shape in official_shapes[name].items()}
    target = build_backbone(name).state_dict()
    assert describe_incompatible_keys(convert(checkpoint, target), target) is None


@pytest.mark.parametrize("name", ["pvt_v2_b0", "pvt_v2_b2_li"])
def test_timm(name: str, reference: Path):
    shapes = json.loads((reference / "timm_state_dicts.json").read_text())[name]
    checkpoint = {key: torch.full(shape, float(i)) for i, (key, shape) in enumerate(shapes.items())}
    target = build_backbone(name).state_dict()
    tensors = convert(checkpoint, target)
    assert describe_incompatible_keys(tensors, target) is None

    def source(ours: str) -> str:
        return list(shapes)[int(tensors[ours].flatten()[0])]

    assert source("patch_embed1.proj.weight") == "patch_embed.proj.weight"
    assert source("patch_embed3.norm.bias") == "stages.2.downsample.norm.bias"
    assert source("block4.1.attn.kv.weight") == "stages.3.blocks.1.attn.kv.weight"
    assert source("block2.0.attn.sr.weight") == "stages.1.blocks.0.attn.sr.weight"
    assert source("block1.1.mlp.dwconv.dwconv.bias") == "stages.0.blocks.1.mlp.dwconv.bias"
    assert source("norm2.weight") == "stages.1.norm.weight"


MMDET = dict(embed_dims=32, num_heads=[1, 2, 5, 8], num_layers=[1, 2, 1, 1])
SIZES = {1: dict(pretrain_img_size=64), 2: {}}


def test_mmdet_v1():
    theirs = randomised(MMDetPVT(pretrain_img_size=64, **MMDET))
    ours = PyramidVisionTransformer(SMALL, pretrain_img_size=64).eval().double()
    ours.load_state_dict(theirs.state_dict())
    assert_same_maps(ours, theirs)


def test_mmdet_v2():
    theirs = randomised(MMDetPVTv2(**MMDET))
    ours = PyramidVisionTransformerV2(SMALL).eval().double()
    ours.load_state_dict({f"backbone.{k}": v for k, v in theirs.state_dict().items()})
    assert_same_maps(ours, theirs)


@pytest.mark.parametrize("version", [1, 2])
def test_epsilon_of_mmdets_norms(version: int, v1, v2):
    """It is 1e-6 everywhere, the published code's 1e-5 in patch embedding and attention."""
    published = (v1, v2)[version - 1]
    theirs = randomised((MMDetPVT, MMDetPVTv2)[version - 1](**(MMDET | SIZES[version])))
    ours, again = (type(published)(SMALL, **SIZES[version]).eval().double() for _ in range(2))
    assert "norm_eps" not in ours.state_dict()
    ours.load_state_dict(theirs.state_dict())
    differing = convert(theirs.state_dict(), ours.state_dict())
    del differing["norm_eps"]
    again.load_state_dict(differing)
    with torch.no_grad():
        assert relative(again(IMAGES)[0], theirs(IMAGES)[0]) > 1e-8
    again.load_state_dict(ours.state_dict())  # saved, and read again
    assert_same_maps(again, theirs)
    again.load_state_dict(published.state_dict())
    assert again.norm_eps == 1e-5
    assert_same_maps(again, published)
    ours.load_state_dict({"block1.0.norm1.bias": torch.ones(32)}, strict=False)
    assert ours.norm_eps == 1e-6  # that of the weights that stay
    bad = dict(published.state_dict(), norm_eps=torch.tensor(-1.0))
    with pytest.raises(UserError, match="no epsilon of a norm"):
        ours.load_state_dict(bad)


def test_position_embeddings_of_another_size(v1: PyramidVisionTransformer):
    ours = PyramidVisionTransformer(SMALL, pretrain_img_size=96).double()
    ours.load_state_dict(v1.state_dict())
    grid = v1.pos_embed2.detach().reshape(1, 8, 8, 64).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(12, 12), mode="bilinear", align_corners=False)
    assert relative(ours.pos_embed2, expected.flatten(2).mT) < 1e-12


@pytest.mark.parametrize("size", [64, 96])
def test_class_token_position_is_dropped(size: int, v1: PyramidVisionTransformer):
    state = v1.state_dict()
    state["pos_embed4"] = torch.cat([torch.full((1, 1, 256), 99.0), state["pos_embed4"]], dim=1)
    ours = PyramidVisionTransformer(SMALL, pretrain_img_size=size).double()
    ours.load_state_dict(state)
    assert ours.pos_embed4.shape[1] == (size // 32) ** 2
    assert ours.pos_embed4.max() < 50


def test_fewer_stages_leave_the_rest_out(v2: PyramidVisionTransformerV2):
    ours = PyramidVisionTransformerV2(SMALL, out_indices=(0, 2)).eval().double()
    ours.load_state_dict(v2.state_dict())
    with torch.no_grad():
        outs, expected = ours(IMAGES), v2(IMAGES)
    assert relative(outs[1], expected[2]) < 1e-12


def test_within_a_model_the_rest_stays(v2: PyramidVisionTransformerV2):
    """A detector's state dict in timm's names under ``backbone.``: only those are renamed."""
    detector = torch.nn.ModuleDict(
        dict(backbone=PyramidVisionTransformerV2(SMALL), head=torch.nn.Linear(2, 2))
    )
    state = {f"backbone.{k}": v for k, v in v2.state_dict().items()}
    state.update({"head.weight": torch.ones(2, 2), "head.bias": torch.ones(2)})
    detector.load_state_dict(state)
    assert detector["head"].weight.eq(1).all()
    assert relative(detector["backbone"].norm3.weight, v2.norm3.weight) < 1e-6


def test_another_architecture_is_reported(v2: PyramidVisionTransformerV2):
    ours = PyramidVisionTransformerV2(dict(SMALL, depths=(1, 1, 1, 1)))
    with pytest.raises(RuntimeError, match=r"block2\.1\.norm1\.weight"):
        ours.load_state_dict(v2.state_dict())
