"""mmcv.ops.deform_conv2d and modulated_deform_conv2d over mmpvt's operators.

tests/data/mmcv_deform_conv.npz holds what mmcv 2.1.0's compiled CPU operators returned.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import DeformConv2d, deform_conv2d, modulated_deform_conv2d

from helpers import DATA, relative

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
GOLDEN = ((2, 2), (1, 1), (1, 1), 2, 2)  # stride, padding, dilation, groups, deform_groups


@pytest.fixture(scope="module")
def golden():
    return np.load(DATA / "mmcv_deform_conv.npz")


def leaf(array, device="cpu"):
    return torch.as_tensor(array, device=device).clone().requires_grad_()


def gradients(output, *inputs):
    weights = torch.linspace(0, 1, output.numel(), dtype=output.dtype, device=output.device)
    return torch.autograd.grad((output.flatten() * weights).sum(), inputs)


def draw(seed=0, dtype=torch.float64, groups=1, deform_groups=1, offset_scale=1.5):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    x, weight = normal(2, 4, 7, 9), normal(6, 4 // groups, 3, 3)
    offset = offset_scale * normal(2, deform_groups * 18, 7, 9)
    return x, offset, weight, normal(2, deform_groups * 9, 7, 9).sigmoid(), normal(6)


def one_tap_at_a_time(x, offset, weight, mask, stride, padding, dilation):
    """The definition, of one group."""
    _, _, height, width = x.shape
    output = x.new_zeros(len(x), len(weight), *offset.shape[2:])
    for n, row, column in np.ndindex(len(x), *offset.shape[2:]):
        for k in range(9):
            y = row * stride - padding + k // 3 * dilation + float(offset[n, 2 * k, row, column])
            z = column * stride - padding + k % 3 * dilation
            z += float(offset[n, 2 * k + 1, row, column])
            read = x.new_zeros(x.size(1))
            for i in (int(np.floor(y)), int(np.floor(y)) + 1):
                for j in (int(np.floor(z)), int(np.floor(z)) + 1):
                    if 0 <= i < height and 0 <= j < width:
                        read += (1 - abs(y - i)) * (1 - abs(z - j)) * x[n, :, i, j]
            output[n, :, row, column] += (
                mask[n, k, row, column] * weight[:, :, k // 3, k % 3] @ read
            )
    return output


@pytest.mark.parametrize("device", DEVICES)
def test_equals_the_compiled_operator(golden, device):
    names = ("dcn_input", "dcn_offset", "dcn_weight")
    x, offset, weight = (leaf(golden[name], device) for name in names)
    output = deform_conv2d(x, offset, weight, *GOLDEN)
    assert relative(output.cpu(), golden["dcn_out"]) < 1e-5
    grads = torch.autograd.grad(output.square().sum(), (x, offset, weight))
    for name, grad in zip(("input", "offset", "weight"), grads, strict=True):
        assert relative(grad.cpu(), golden[f"dcn_grad_{name}"]) < 1e-5


@pytest.mark.parametrize("device", DEVICES)
def test_modulated_equals_the_compiled_operator(golden, device):
    names = ("dcn_input", "dcn_offset", "dcn_mask", "dcn_weight", "dcn_bias")
    inputs = [leaf(golden[name], device) for name in names]
    output = modulated_deform_conv2d(*inputs, *GOLDEN)
    assert relative(output.cpu(), golden["mdcn_out"]) < 1e-5
    grads = torch.autograd.grad(output.square().sum(), inputs)
    for name, grad in zip(("input", "offset", "mask", "weight", "bias"), grads, strict=True):
        assert relative(grad.cpu(), golden[f"mdcn_grad_{name}"]) < 1e-5


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 1, 1), (1, 2, 2)])
def test_equals_one_tap_at_a_time(stride, padding, dilation):
    x, offset, weight, mask, bias = draw()
    expected = one_tap_at_a_time(x, offset, weight, mask, stride, padding, dilation)
    output = modulated_deform_conv2d(x, offset, mask, weight, bias, stride, padding, dilation)
    torch.testing.assert_close(output, expected + bias.view(1, -1, 1, 1))
    expected = one_tap_at_a_time(x, offset, weight, mask.new_ones(()).expand_as(mask), 1, 1, 1)
    torch.testing.assert_close(deform_conv2d(x, offset, weight, 1, 1, 1), expected)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("deform_groups", [1, 2])
def test_gradients_equal_finite_differences(groups, deform_groups):
    inputs = [x.requires_grad_() for x in draw(3, groups=groups, deform_groups=deform_groups)]

    def plain(x, offset, weight):
        return deform_conv2d(x, offset, weight, 1, 1, 1, groups, deform_groups)

    def modulated(x, offset, weight, mask, bias):
        return modulated_deform_conv2d(
            x, offset, mask, weight, bias, 1, 1, 1, groups, deform_groups
        )

    assert torch.autograd.gradcheck(plain, inputs[:3], fast_mode=True)
    assert torch.autograd.gradcheck(modulated, inputs, fast_mode=True)


def test_without_offsets_it_is_a_convolution():
    x, offset, weight, mask, bias = (v.requires_grad_() for v in draw())
    plain = F.conv2d(x, weight, bias, padding=1)
    offset = torch.zeros_like(offset).requires_grad_()
    output = modulated_deform_conv2d(x, offset, torch.ones_like(mask), weight, bias, 1, 1)
    torch.testing.assert_close(output, plain)
    torch.testing.assert_close(
        gradients(output, x, weight, bias), gradients(plain, x, weight, bias)
    )


def test_an_offset_to_a_whole_pixel_outside_gets_no_gradient():
    x, offset, weight, *_ = draw(offset_scale=0)
    offset.requires_grad_()
    (grad,) = gradients(deform_conv2d(x, offset, weight, 1, 1), offset)
    assert not grad[:, 0, 0].any()  # the kernel's first tap, in the first row, reads row -1
    assert grad[:, 0, 1:].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    x, offset, weight, mask, bias = draw(dtype=torch.float32)
    expected = modulated_deform_conv2d(x, offset, mask, weight, bias, 1, 1)
    halves = (v.to(dtype) for v in (x, offset, mask, weight, bias))
    output = modulated_deform_conv2d(*halves, 1, 1)
    assert output.dtype == dtype
    assert (output.float() - expected).norm() / expected.norm() < 0.05


def test_the_layer_trains():
    layer = DeformConv2d(4, 6, 3, padding=1)
    x, offset, *_ = draw(dtype=torch.float32)
    layer(x, offset).sum().backward()
    assert layer.weight.grad.isfinite().all() and layer.weight.grad.any()
