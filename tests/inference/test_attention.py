"""A position's attention is the layers' own, and looking at it changes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

import mmpvt
from helpers import ROOT, build_backbone, environment
from mmpvt import UserError
from mmpvt.inference.attention import visualize_attention
from mmpvt.models.archs import STRIDES
from mmpvt.models.backbone import PyramidBackbone

NAMES = ("pvt_tiny", "pvt_v2_b0", "pvt_v2_b2_li")
SIZE = (96, 160)  # of the images: at these, the maps of keys are of uneven sides


def lively(name: str) -> PyramidBackbone:
    """A backbone whose attention is far from even."""
    torch.manual_seed(0)
    backbone = build_backbone(name).eval()
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.15)
    return backbone


@pytest.fixture(scope="module", params=NAMES)
def backbone(request: pytest.FixtureRequest) -> PyramidBackbone:
    return lively(request.param)


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(3, *SIZE, generator=torch.Generator().manual_seed(1))


def blocks(backbone: PyramidBackbone) -> list[tuple[int, int, nn.Module]]:
    return [
        (stage, number, block.attn)
        for stage in range(backbone.num_stages)
        for number, block in enumerate(getattr(backbone, f"block{stage + 1}"))
    ]


def test_weights_give_what_each_layer_gives(backbone: PyramidBackbone, image: torch.Tensor):
    """Weights times values, projected, is the layer's own output at the position's token."""
    position = (50, 121)
    seen = {}
    hooks = [
        attn.register_forward_hook(
            lambda _, args, out, key=(stage, number): seen.update({key: (args[0], out)})
        )
        for stage, number, attn in blocks(backbone)
    ]
    found = visualize_attention(backbone, image, position)
    for hook in hooks:
        hook.remove()
    for stage, number, attn in blocks(backbone):
        tokens, out = seen[stage, number]
        row, column = found.tokens[stage]
        assert (row, column) == (position[0] // STRIDES[stage], position[1] // STRIDES[stage])
        with torch.no_grad():
            v = attn.heads(attn.kv(attn.reduce(tokens)).chunk(2, -1)[1])
            weights = torch.from_numpy(found.weights[stage][number])
            mixed = weights.flatten(1).unsqueeze(1) @ v[0]  # (heads, 1, dims)
            expected = attn.proj(mixed.transpose(0, 1).flatten())
        torch.testing.assert_close(expected, out[0, row, column], rtol=1e-4, atol=1e-4)


def test_weights_sum_to_one(backbone: PyramidBackbone, image: torch.Tensor):
    found = visualize_attention(backbone, image, (0, 0))
    for stage, weights in enumerate(found.weights):
        assert weights.dtype == np.float32
        assert weights.shape[:2] == (backbone.arch.depths[stage], backbone.arch.num_heads[stage])
        np.testing.assert_allclose(weights.sum((2, 3)), 1, rtol=1e-5)
        assert weights.max() > 2 / np.prod(weights.shape[2:])  # not even


def test_maps_of_keys(backbone: PyramidBackbone, image: torch.Tensor):
    found = visualize_attention(backbone, image, (95, 159))
    linear = backbone.arch.linear
    for stage, (weights, cell) in enumerate(zip(found.weights, found.cells, strict=True)):
        grid = [side // STRIDES[stage] for side in SIZE]
        reduction = backbone.arch.sr_ratios[stage]
        keys = (7, 7) if linear else tuple(side // reduction for side in grid)
        assert weights.shape[2:] == keys
        wanted = [96 / 7, 160 / 7] if linear else [STRIDES[stage] * reduction] * 2
        np.testing.assert_allclose(cell, wanted)


def test_nothing_changes(backbone: PyramidBackbone, image: torch.Tensor):
    batch = image.unsqueeze(0)
    with torch.no_grad():
        before = backbone(batch)
        visualize_attention(backbone, image, (10, 20))
        after = backbone(batch)
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert not any(module._forward_pre_hooks for module in backbone.modules())
    assert not backbone.training
    backbone.train()
    visualize_attention(backbone, image, (10, 20))
    assert backbone.training
    backbone.eval()


def test_heat_lies_where_the_key_does():
    """A query that looks at one key alone: the heat is that key's cell."""
    found = visualize_attention(lively("pvt_tiny"), torch.randn(3, *SIZE), (10, 20))
    for stage in range(4):
        weights = np.zeros_like(found.weights[stage])
        weights[:, :, 1, 3] = 1
        found.weights[stage][:] = weights
        heat = found.heat_map(stage)
        assert heat.shape == SIZE
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        height, width = found.cells[stage]
        assert abs(y + 0.5 - 1.5 * height) <= 1 and abs(x + 0.5 - 3.5 * width) <= 1
        assert heat[: int(height / 2)].max() == 0


def test_rest_that_no_key_covers_is_cold():
    found = visualize_attention(lively("pvt_tiny"), torch.randn(3, 60, 80), (59, 79))
    assert found.weights[0].shape[2:] == (1, 2)  # of 15x20 tokens, 8x16 are covered
    heat = found.heat_map(0)
    assert heat[32:].max() == 0 and heat[:, 64:].max() == 0
    assert heat[:32, :64].min() > 0


def test_heads_and_blocks():
    found = visualize_attention(lively("pvt_v2_b0"), torch.randn(3, *SIZE), (10, 20))
    heads = [found.heat_map(2, 0, head) for head in range(5)]
    np.testing.assert_allclose(found.heat_map(2, 0), np.mean(heads, 0), rtol=1e-4, atol=1e-7)
    assert not np.allclose(heads[0], heads[1])
    assert not np.allclose(found.heat_map(2, 0), found.heat_map(2, 1))
    assert found.picture(block=0, head=0).shape == found.picture().shape
    for wrong in (dict(stage=4), dict(stage=0, block=2), dict(stage=0, head=1)):
        with pytest.raises(UserError, match="from 0"):
            found.heat_map(**wrong)


def test_files_and_arrays(tmp_path: Path):
    backbone = lively("pvt_v2_b0")
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    from_file = visualize_attention(backbone, tmp_path / "a.png", (50.7, 60.2))
    from_array = visualize_attention(backbone, pixels, (50, 60))
    assert from_file.position == (50, 60)
    for one, other in zip(from_file.weights, from_array.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(from_file.image, pixels[..., ::-1])
    picture = from_file.picture()
    assert picture.dtype == np.uint8 and picture.std() > 10
    columns = np.array_split(picture, 4, axis=1)
    ring = [((c == (0, 255, 255)).all(2)).sum() for c in columns]
    assert min(ring) > 5  # the position is marked in each


@pytest.mark.parametrize(
    ("image", "position", "said"),
    [
        (torch.zeros(3, 64, 64), (64, 0), "outside of the image, which is 64 pixels high"),
        (torch.zeros(3, 64, 64), (0, -1), "outside of the image"),
        (torch.zeros(3, 64, 64), 5, "two numbers, y and x"),
        (torch.zeros(2, 3, 64, 64), (0, 0), "one image is a"),
        (np.zeros(64), (0, 0), "an array of"),
        (np.zeros((64, 64)), (0, 0), "an image of 1 channels"),
        ("no.jpg", (0, 0), "no image at no.jpg"),
    ],
)
def test_mistakes(image: object, position: object, said: str):
    with pytest.raises(UserError, match=said):
        visualize_attention(build_backbone("pvt_v2_b0"), image, position)


def test_model_without_a_pvt():
    with pytest.raises(UserError, match="Sequential holds no PVT"):
        visualize_attention(nn.Sequential(), torch.zeros(3, 64, 64), (0, 0))


def test_import_stays_light():
    """``import mmpvt`` loads neither this nor the predictor, which take the data sets."""
    assert mmpvt.visualize_attention is visualize_attention
    code = "import mmpvt, sys; assert not {'mmpvt.inference.predictor', 'mmdet.datasets', "
    code += "'mmpvt.inference.attention'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), cwd=ROOT)
