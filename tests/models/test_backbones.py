"""Sizes, arguments and modes of the backbones."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from mmcv.cnn.bricks import DropPath
from mmdet.registry import MODELS as MMDET_MODELS
from mmseg.registry import MODELS as MMSEG_MODELS

from helpers import build_backbone, relative
from mmpvt import UserError
from mmpvt.models import PyramidVisionTransformer, PyramidVisionTransformerV2, kernels
from mmpvt.models.layers import ResidualDropPath

TINY = dict(embed_dims=(8, 16, 20, 32), depths=(1, 1, 2, 1), mlp_ratios=(2, 2, 2, 2))
BOTH = pytest.mark.parametrize("backbone", [PyramidVisionTransformer, PyramidVisionTransformerV2])


@BOTH
@pytest.mark.parametrize(
    "size", [(32, 32), (33, 63), (75, 101), (101, 75), (448, 448), (32, 300), (97, 32)]
)
def test_any_size(backbone, size: tuple[int, int]):
    """v1 cuts a rest of rows and columns off (kernel = stride), v2 pads."""
    with torch.no_grad():
        outs = backbone(TINY).eval()(torch.randn(1, 3, *size))
    step = (
        (lambda n, k: n // k) if backbone is PyramidVisionTransformer else (lambda n, k: -(-n // k))
    )
    expected, (height, width) = [], size
    for dims, stride in zip(TINY["embed_dims"], (4, 2, 2, 2), strict=True):
        height, width = step(height, stride), step(width, stride)
        expected.append((1, dims, height, width))
    assert [tuple(out.shape) for out in outs] == expected
    assert all(out.isfinite().all() for out in outs)


@BOTH
def test_too_small(backbone):
    with pytest.raises(UserError, match="images of 31x64 pixels are too small"):
        backbone(TINY)(torch.randn(1, 3, 31, 64))


@pytest.mark.parametrize("as_convolutions", [True, False])
@BOTH
def test_a_batch_of_no_images(backbone, as_convolutions: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernels, "USE_ONEDNN", as_convolutions)
    maps = backbone(TINY)(torch.empty(0, 3, 64, 64))
    assert [len(each) for each in maps] == [0] * 4
    sum(each.sum() for each in maps).backward()


@BOTH
def test_maps_leave_channels_last(backbone):
    outs = backbone(TINY).eval()(torch.randn(2, 3, 64, 96))
    assert all(out.is_contiguous(memory_format=torch.channels_last) for out in outs)


@BOTH
def test_maps_leave_contiguous_for_compiled_operators(backbone, monkeypatch: pytest.MonkeyPatch):
    """Their kernels take the memory of an NCHW map for granted, and give wrong values else."""
    model, images = backbone(TINY).eval(), torch.randn(2, 3, 64, 96)
    expected = model(images)
    monkeypatch.setitem(sys.modules, "mmcv._ext", types.ModuleType("mmcv._ext"))
    for out, other in zip(model(images), expected, strict=True):
        assert out.is_contiguous() and torch.equal(out, other)


@BOTH
def test_an_image_does_not_depend_on_its_batch(backbone):
    model = backbone(TINY).eval().double()
    images = torch.randn(3, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        together, alone = model(images), model(images[1:2])
    assert all(relative(a[1:2], b) < 1e-12 for a, b in zip(together, alone, strict=True))


@BOTH
def test_in_channels(backbone):
    assert len(backbone(TINY, in_channels=1)(torch.randn(1, 1, 64, 64))) == 4


@BOTH
def test_out_indices(backbone):
    outs = backbone(TINY, out_indices=(1, 2))(torch.randn(1, 3, 64, 64))
    assert [out.shape[1] for out in outs] == [16, 20]
    model = backbone(TINY, out_indices=2)
    assert not hasattr(
        model, "block4"
    )  # not built: DistributedDataParallel waits for all gradients
    sum(out.sum() for out in model(torch.randn(1, 3, 64, 64))).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@BOTH
@pytest.mark.parametrize("indices", [(), (4,), (-1,), (2, 1), (1, 1)])
def test_out_indices_that_do_not_exist(backbone, indices):
    with pytest.raises(UserError, match="out_indices takes rising stage numbers from 0 to 3"):
        backbone(TINY, out_indices=indices)


@BOTH
def test_frozen_stages(backbone):
    model = backbone(TINY, frozen_stages=2, drop_path_rate=0.5, drop_rate=0.5)
    fixed = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert {int(name.split(".")[0][-1]) for name in fixed} == {1, 2}
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert {int(name.split(".")[0][-1]) for name in trained} == {3, 4}
    model.eval()
    model.train()
    assert not model.block2.training and not model.patch_embed1.training
    assert model.block3.training
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(images)[1], model(images)[1])  # nothing is dropped below
    with pytest.raises(UserError, match="frozen_stages takes -1 to 4, not 5"):
        backbone(TINY, frozen_stages=5)


@BOTH
def test_checkpointing_changes_nothing_but_memory(backbone):
    torch.manual_seed(0)
    model = backbone(TINY, drop_path_rate=0.5).double()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    grads = []
    for with_cp in (False, True):
        model.with_cp = with_cp
        model.zero_grad()
        torch.manual_seed(1)  # the same branches are dropped
        sum(out.square().mean() for out in model(images)).backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters()})
    assert all(torch.equal(grads[0][name], grads[1][name]) for name in grads[0])


@BOTH
def test_dropout_only_in_training(backbone):
    model = backbone(TINY, drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.2)
    images = torch.randn(1, 3, 64, 64)
    assert not torch.equal(model(images)[3], model(images)[3])
    model.eval()
    assert torch.equal(model(images)[3], model(images)[3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropped_branches_are_those_of_mmcv(dtype: torch.dtype):
    x, branch = torch.randn(64, 3, 2, 5), torch.randn(64, 3, 2, 5, dtype=dtype)
    torch.manual_seed(0)
    found = ResidualDropPath(0.4)(x, branch)
    torch.manual_seed(0)
    expected = x + DropPath(0.4)(branch)
    kept = (found != x).flatten(1).any(1)
    assert 0 < kept.sum() < len(kept)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if dtype == x.dtype else 2e-2)
    assert torch.equal(ResidualDropPath(0.4).eval()(x, branch), x + branch)


def test_stochastic_depth_rises_to_the_last_block():
    model = build_backbone("pvt_v2_b2", drop_path_rate=0.3)
    rates = [
        getattr(block.drop_path, "drop_prob", 0.0)
        for stage in range(1, 5)
        for block in getattr(model, f"block{stage}")
    ]
    assert rates == pytest.approx([0.3 * i / 15 for i in range(16)])


def test_initialisation():
    """Published settings: linear 0.02, v2's convolutions by their fan-out, biases 0."""
    torch.manual_seed(0)
    model = build_backbone("pvt_v2_b0")
    assert model.block4[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert model.patch_embed4.proj.weight.std().item() == pytest.approx(
        (2 / (9 * 256)) ** 0.5, rel=0.02
    )
    depthwise = model.block4[0].mlp.dwconv.dwconv.weight  # groups of one: fan-out 9
    assert depthwise.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.05)
    assert model.block4[0].mlp.fc1.bias.eq(0).all()
    assert build_backbone("pvt_tiny").pos_embed3.std().item() == pytest.approx(0.02, rel=0.02)


@pytest.mark.parametrize(
    ("backbone", "arch", "message"),
    [
        (PyramidVisionTransformer, "b2", "unknown arch 'b2': take one of tiny, small, medium, lar"),
        (PyramidVisionTransformerV2, "small", "take one of b0, b1, b2, b2_li, b3, b4, b5"),
        (
            PyramidVisionTransformerV2,
            dict(layers=3),
            "unknown field 'layers'; the fields are embed",
        ),
        (PyramidVisionTransformerV2, dict(depths=(1, 2)), "depths takes 4 positive integers"),
        (PyramidVisionTransformerV2, dict(num_heads=(1, 2, 3, 8)), "320 can.t be divided into 3"),
        (PyramidVisionTransformer, dict(linear=True), "linear attention is PVT v2's"),
    ],
)
def test_arch_that_does_not_exist(backbone, arch, message: str):
    with pytest.raises(UserError, match=message):
        backbone(arch)


@pytest.mark.parametrize("registry", [MMDET_MODELS, MMSEG_MODELS])
@pytest.mark.parametrize("name", ["PyramidVisionTransformer", "PyramidVisionTransformerV2"])
def test_built_from_any_config(registry, name: str):
    model = registry.build(dict(type=f"mmpvt.{name}", arch=TINY))
    assert type(model).__module__.startswith("mmpvt.models")
    theirs = MMDET_MODELS.get(name)
    assert theirs.__module__.startswith("mmdet.")  # untouched


@BOTH
def test_bfloat16_autocast(backbone):
    model = backbone(TINY).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outs = model(torch.randn(1, 3, 64, 64))
    assert all(out.isfinite().all() for out in outs)


@BOTH
@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore:.torch.jit:DeprecationWarning"
)
def test_traced_for_other_sizes(backbone):
    options = dict(with_cls_token=True) if backbone is PyramidVisionTransformer else {}
    model = backbone(TINY, **options).eval()
    traced = torch.jit.trace(model, torch.rand(1, 3, 64, 96), check_trace=False)
    images = torch.rand(2, 3, 100, 130)
    for found, expected in zip(traced(images), model(images), strict=True):
        torch.testing.assert_close(found, expected)
