"""Outputs against a second, independent implementation, through its own random weights."""

from __future__ import annotations

import pytest
import torch

from helpers import randomised, relative
from mmpvt.models import PyramidVisionTransformer, PyramidVisionTransformerV2

transformers = pytest.importorskip("transformers")

SIZES = ((64, 96), (75, 101))


@pytest.mark.parametrize("linear", [False, True])
def test_transformers_v2(linear: bool):
    torch.manual_seed(0)
    config = transformers.PvtV2Config(
        linear_attention=linear,
        depths=[1, 2, 1, 1],
        out_features=[f"stage{i}" for i in range(1, 5)],
    )
    theirs = randomised(transformers.PvtV2Backbone(config))
    arch = dict(embed_dims=(32, 64, 160, 256), depths=(1, 2, 1, 1), linear=linear)
    ours = PyramidVisionTransformerV2(arch).eval().double()
    ours.load_state_dict(theirs.state_dict())
    for size in SIZES:
        images = torch.randn(1, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            expected = theirs(images).feature_maps
            for mine, other in zip(ours(images), expected, strict=True):
                assert relative(mine, other) < 1e-10


def test_transformers_v1():
    """Its fourth stage carries the class token, which dense prediction has none of."""
    torch.manual_seed(0)
    config = transformers.PvtConfig(depths=[1, 2, 1, 1], image_size=64)
    theirs = randomised(transformers.PvtModel(config))
    ours = PyramidVisionTransformer(dict(depths=(1, 2, 1, 1)), pretrain_img_size=64).eval().double()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        states = theirs(images, output_hidden_states=True).hidden_states
        last = {state.shape[2]: state for state in states}  # of each stage, by its channels
        for mine in ours(images)[:3]:
            assert relative(mine, last[mine.shape[1]].mT.reshape(mine.shape)) < 1e-10
