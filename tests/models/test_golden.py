"""Outputs, gradients and sizes against those of the published implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import build_backbone, golden_image, relative

OUTPUTS = (
    "pvt_tiny_64x96",
    "pvt_small_75x101",
    "pvt_small_224x224",
    "pvt_v2_b0_64x96",
    "pvt_v2_b2_75x101",
    "pvt_v2_b2_li_96x64",
)
GRADIENTS = ("pvt_small_64x96", "pvt_v2_b2_li_64x96")
PARAMS = {  # millions, without and with the ImageNet head: the papers' tables
    "pvt_tiny": (12.71, 13.23),
    "pvt_small": (23.97, 24.49),
    "pvt_medium": (43.69, 44.21),
    "pvt_large": (60.85, 61.37),
    "pvt_v2_b0": (3.41, 3.67),
    "pvt_v2_b1": (13.50, 14.01),
    "pvt_v2_b2": (24.85, 25.36),
    "pvt_v2_b2_li": (22.04, 22.55),
    "pvt_v2_b3": (44.73, 45.24),
    "pvt_v2_b4": (62.04, 62.56),
    "pvt_v2_b5": (81.44, 81.96),
}


def golden(case: str, published_weights):
    """The backbone with the golden weights, and the golden input, both float64."""
    name, size = case.rsplit("_", 1)
    model = build_backbone(name).eval().double()
    model.load_state_dict(published_weights(name))
    height, width = map(int, size.split("x"))
    return model, torch.from_numpy(golden_image(height, width))


@pytest.mark.parametrize("case", OUTPUTS)
def test_outputs(case: str, reference: Path, published_weights):
    model, images = golden(case, published_weights)
    arrays = np.load(reference / "golden" / f"{case}.npz")
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.float32, 1e-4)):
        with torch.no_grad():
            outs = model.to(dtype)(images.to(dtype))
        assert len(outs) == 4
        for i, out in enumerate(outs):
            assert relative(out, arrays[f"out{i}"]) < tolerance


@pytest.mark.parametrize("with_cp", [False, True])
@pytest.mark.parametrize("case", GRADIENTS)
def test_gradients(case: str, with_cp: bool, reference: Path, published_weights):
    model, images = golden(case, published_weights)
    model.with_cp = with_cp
    images.requires_grad_(True)
    sum((out**2).mean() for out in model(images)).backward()
    arrays = np.load(reference / "golden" / f"{case}_grad.npz")
    theirs = dict(zip(arrays["grad_keys"], arrays["grad_norms"], strict=True))
    ours = {name: parameter.grad.norm().item() for name, parameter in model.named_parameters()}
    assert ours == pytest.approx(theirs, rel=1e-6)
    assert relative(images.grad, arrays["x_grad"]) < 1e-6


@pytest.mark.parametrize("name", PARAMS)
def test_parameter_counts(name: str, official_shapes: dict):
    bare, with_head = PARAMS[name]
    with torch.device("meta"):
        count = sum(p.numel() for p in build_backbone(name).parameters())
    assert count / 1e6 == pytest.approx(bare, abs=0.006)
    published = sum(int(np.prod(shape)) for shape in official_shapes[name].values())
    assert published / 1e6 == pytest.approx(with_head, abs=0.006)
