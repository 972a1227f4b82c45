"""The operators of single heads: CARAFE, PSAMask, masked convolution, pooling, nms_match.

Where mmcv 2.1.0 has compiled CPU code, tests/data/mmcv_small_operators.npz holds what it returned;
the others are compared with their definition.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import (
    CARAFE,
    DeformRoIPoolPack,
    MaskedConv2d,
    carafe,
    deform_roi_pool,
    nms_match,
    roi_align,
    roi_pool,
)
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)
from mmcv.ops.psa_mask import PSAMask

from helpers import DATA

ROIS = torch.tensor(
    [[0, 1.0, 2, 9, 10], [1, 0, 0, 15, 11], [1, 4.4, 3.1, 6.2, 9.7], [0, -8, -5, 30, 40]],
    dtype=torch.float64,
)


@pytest.fixture(scope="module")
def golden():
    return np.load(DATA / "mmcv_small_operators.npz")


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["collect", "distribute"])
@pytest.mark.parametrize("mask_size", [(5, 7), (9, 3)])
def test_psa_mask_equals_the_compiled_operator(golden, kind, mask_size):
    name = f"psa_{kind}_{mask_size[0]}x{mask_size[1]}"
    x = torch.from_numpy(golden[f"{name}_input"]).requires_grad_()
    output = PSAMask(kind, mask_size)(x)
    np.testing.assert_array_equal(output.detach(), golden[name])
    output.backward(torch.linspace(0, 1, output.numel(), dtype=x.dtype).view(output.shape))
    np.testing.assert_array_equal(x.grad, golden[f"{name}_grad"])


@pytest.mark.parametrize("iou_threshold", [0.3, 0.5, 0.7])
def test_nms_match_equals_the_compiled_operator(golden, iou_threshold):
    groups = nms_match(golden["match_dets"], iou_threshold)
    lengths = golden[f"match_lengths_{iou_threshold}"]
    expected = np.split(golden[f"match_{iou_threshold}"], np.cumsum(lengths)[:-1])
    assert len(groups) == len(expected)
    for group, other in zip(groups, expected, strict=True):
        np.testing.assert_array_equal(group, other)


def test_nms_match_of_nothing():
    assert nms_match(torch.zeros(0, 5), 0.5) == []


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("groups", [1, 2])
def test_carafe_equals_its_definition(scale, kernel_size, groups):
    features = normal(2, 4, 5, 6).requires_grad_()
    masks = normal(2, groups * kernel_size**2, 5 * scale, 6 * scale, seed=1).requires_grad_()
    windows = F.unfold(features, kernel_size, padding=kernel_size // 2)
    windows = windows.view(2, groups, 2 * 2 // groups, kernel_size**2, 5, 6)
    windows = windows.repeat_interleave(scale, 4).repeat_interleave(scale, 5)
    kernels = masks.view(2, groups, 1, kernel_size**2, 5 * scale, 6 * scale)
    expected = (windows * kernels).sum(3).flatten(1, 2)
    output = carafe(features, masks, kernel_size, groups, scale)
    torch.testing.assert_close(output, expected)
    inputs = (features, masks)
    weights = torch.linspace(0, 1, output.numel(), dtype=output.dtype).view(output.shape)
    torch.testing.assert_close(
        torch.autograd.grad(output, inputs, weights),
        torch.autograd.grad(expected, inputs, weights),
    )


def test_carafe_of_float16():
    features, masks = normal(1, 4, 5, 6).half(), normal(1, 9, 10, 12, seed=1).half()
    output = CARAFE(3, 1, 2)(features, masks)
    expected = carafe(features.float(), masks.float(), 3, 1, 2)
    torch.testing.assert_close(output, expected.half())


@pytest.mark.filterwarnings("ignore:This overload of addmm")  # mmcv's own call
@pytest.mark.parametrize("padding", [0, 1])
def test_masked_convolution_is_a_convolution_at_some_positions(padding):
    conv = MaskedConv2d(3, 5, 3, padding=padding).double()
    x = normal(1, 3, 6, 8)
    mask = torch.zeros(1, 6, 8)
    mask[0, 1:4, 2:6] = 1
    expected = F.conv2d(x, conv.weight, conv.bias, padding=padding)
    output = conv(x, mask)
    assert output.shape == expected.shape
    size = expected.shape[2:]
    torch.testing.assert_close(output, expected * mask[:, : size[0], : size[1]])
    assert not conv(x, torch.zeros_like(mask)).any()


def pooled(x, rois, scale, bins):
    """RoIPool's definition, a bin at a time."""
    output = x.new_zeros(len(rois), x.size(1), *bins)
    for r, (image, *box) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = box[0] * scale, box[1] * scale, (box[2] + 1) * scale, (box[3] + 1) * scale
        for i, j in np.ndindex(*bins):
            rows = (math.floor(y1 + i * (y2 - y1) / bins[0]), y1 + (i + 1) * (y2 - y1) / bins[0])
            columns = (math.floor(x1 + j * (x2 - x1) / bins[1]), x1 + (j + 1) * (x2 - x1) / bins[1])
            window = x[
                int(image),
                :,
                max(rows[0], 0) : max(math.ceil(rows[1]), 0),
                max(columns[0], 0) : max(math.ceil(columns[1]), 0),
            ]
            if window.numel():
                output[r, :, i, j] = window.amax((1, 2))
    return output


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_roi_pool_equals_its_definition(scale):
    x = normal(2, 3, 12, 16).requires_grad_()
    output = roi_pool(x, ROIS, (2, 3), scale)
    expected = pooled(x, ROIS, scale, (2, 3))
    torch.testing.assert_close(output, expected)
    weights = torch.linspace(0, 1, output.numel(), dtype=output.dtype).view(output.shape)
    torch.testing.assert_close(
        torch.autograd.grad(output, x, weights), torch.autograd.grad(expected, x, weights)
    )


def test_roi_pool_of_a_box_outside_is_zero_and_has_no_gradient():
    x = normal(1, 2, 4, 4).requires_grad_()
    output = roi_pool(x, torch.tensor([[0.0, 20, 20, 30, 30]]).double(), 2, 1.0)
    assert not output.any()
    output.sum().backward()
    assert not x.grad.any()
    assert roi_pool(x, torch.zeros(0, 5).double(), 2, 1.0).shape == (0, 2, 2, 2)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_deformable_pooling_without_offsets_is_roi_align(sampling_ratio):
    x = normal(2, 3, 12, 16).requires_grad_()
    expected = roi_align(x, ROIS, (2, 3), 0.5, sampling_ratio, "avg", True)
    zeros = torch.zeros(len(ROIS), 2, 2, 3, dtype=x.dtype)
    weights = torch.linspace(0, 1, expected.numel(), dtype=x.dtype).view(expected.shape)
    for offset in (None, zeros):
        output = deform_roi_pool(x, ROIS, offset, (2, 3), 0.5, sampling_ratio)
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(
            torch.autograd.grad(output, x, weights),
            torch.autograd.grad(expected, x, weights, retain_graph=True),
        )


def test_an_offset_moves_every_bin_by_its_share_of_the_box():
    x = normal(2, 3, 24, 24)
    rois = torch.tensor([[1.0, 8, 8, 16, 18]], dtype=torch.float64)
    offset = torch.tensor([0.5, -0.4], dtype=torch.float64).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    moved = rois + torch.tensor([0, 0.4, -0.4, 0.4, -0.4])  # 0.1 * (8, 10) * offset
    expected = roi_align(x, moved, 2, 1.0, 2, "avg", True)
    torch.testing.assert_close(deform_roi_pool(x, rois, offset, (2, 2), 1.0, 2, 0.1), expected)


def test_gradients_of_deformable_pooling_equal_finite_differences():
    x = normal(2, 2, 10, 12).requires_grad_()
    offset = (0.3 * normal(3, 2, 2, 2, seed=2)).requires_grad_()

    def pool(x, offset):
        return deform_roi_pool(x, ROIS[:3], offset, (2, 2), 0.5, 2, 0.1)

    assert torch.autograd.gradcheck(pool, (x, offset), fast_mode=True)


def test_the_deformable_pooling_layer_trains():
    layer = DeformRoIPoolPack((2, 2), 3, 8, 0.5, 2).double()
    layer(normal(2, 3, 12, 16), ROIS).sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in layer.parameters())
    assert deform_roi_pool(normal(2, 3, 12, 16), ROIS[:0], None, (2, 2)).shape == (0, 3, 2, 2)


def test_deformable_attention_as_a_gpu_calls_it():
    shapes = torch.tensor([[4, 5], [2, 3]])
    value = normal(2, 26, 2, 3).requires_grad_()
    where = normal(2, 7, 2, 2, 4, 2, seed=1).sigmoid().requires_grad_()
    weights = normal(2, 7, 2, 2, 4, seed=2).sigmoid().requires_grad_()
    inputs = (value, where, weights)
    expected = multi_scale_deformable_attn_pytorch(value, shapes, where, weights)
    start = torch.tensor([0, 20])
    output = MultiScaleDeformableAttnFunction.apply(value, shapes, start, where, weights, 64)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(
        torch.autograd.grad(output.sum(), inputs), torch.autograd.grad(expected.sum(), inputs)
    )
