"""mmcv.ops.roi_align over mmpvt's operators.

tests/data/mmcv_roi_align.npz holds what mmcv 2.1.0's compiled CPU operators returned.
"""

import sys
from math import ceil, inf, nan
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from mmcv.ops import RoIAlign, roi_align
from mmdet.structures.mask import BitmapMasks

from mmpvt.ops import roi_align as module

DEVICES = ["cpu", "cpu by images", *(["cuda"] if torch.cuda.is_available() else [])]
HEIGHT, WIDTH = 9, 12
BOXES = {  # on a map of half their scale, HEIGHT x WIDTH
    "small": (5, 4, 8.5, 7),
    "large": (1.5, 0, 22, 17.5),
    "all": (0, 0, 24, 18),
    "wide": (0.3, 6, 23.1, 8),
    "point": (5, 5, 5, 5),
    "line": (5, 5, 5, 12),
    "inverted": (12, 11, 5, 4),
    "over each border": (-9, -5, 40, 33),
    "at the last pixel but half": (-1, -1, 25, 19),
    "outside left": (-30, 3, -20, 9),
    "outside below": (3, 30, 9, 44),
}


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    """Each device, and the CPU taking other devices' way through the boxes."""
    if "by images" in request.param:
        monkeypatch.setattr(module, "_PROMPT_DEVICES", set())
    return request.param.split()[0]


@pytest.fixture(autouse=True)
def without_torchvision(monkeypatch, request):
    if "torchvision" not in request.function.__name__:
        monkeypatch.setattr(module, "_torchvision_kernels", lambda device_type: None)


def draw(dtype=torch.float64, channels=3, device="cpu"):
    """Two maps, and all of BOXES on each of them, mixed."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, channels, HEIGHT, WIDTH, generator=generator, dtype=torch.float64)
    boxes = torch.tensor(list(BOXES.values()), dtype=torch.float64)
    rois = torch.cat([torch.arange(len(boxes) * 2)[:, None] % 2, boxes.repeat(2, 1)], dim=1)
    return maps.to(device, dtype), rois.to(device, dtype)


def both(maps, rois, *options, memory_format=torch.preserve_format):
    """The result and its gradient: each bin has another weight."""
    maps = maps.detach().clone(memory_format=memory_format).requires_grad_()
    output = roi_align(maps, rois, *options)
    weights = torch.linspace(0, 1, output.numel(), dtype=torch.float64).view(output.shape)
    output.backward(weights.to(output))
    return output.detach(), maps.grad


def sample(plane, y, x):
    """Bilinear interpolation of one (C, H, W) map at one point."""
    height, width = plane.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return plane.new_zeros(len(plane))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), height - 2), min(int(x), width - 2)
    v, u = y - top, x - left
    (a, b), (c, d) = plane[:, top : top + 2, left : left + 2].permute(1, 2, 0)
    return (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * c + u * d)


def bin_reference(plane, start, size, ratio, mode):
    grid = [ratio or max(ceil(s), 0) for s in size]
    values = [
        sample(
            plane,
            *(s + (k + 0.5) * z / g for s, k, z, g in zip(start, at, size, grid, strict=True)),
        )
        for at in np.ndindex(*grid)
    ]
    if not values:
        return plane.new_full((len(plane),), 0.0 if mode == "avg" else -10000.0)
    values = torch.stack(values)
    return values.mean(0) if mode == "avg" else values.amax(0)


def reference(maps, rois, bins, scale, ratio, mode, aligned):
    """The algorithm as it is published, one sample at a time."""
    pooled = []
    for image, *box in rois.tolist():
        x1, y1, x2, y2 = (edge * scale - 0.5 * aligned for edge in box)
        size = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1), max(x2 - x1, 1))
        size = [length / count for length, count in zip(size, bins, strict=True)]
        for i, j in np.ndindex(*bins):
            start = (y1 + i * size[0], x1 + j * size[1])
            pooled.append(bin_reference(maps[int(image)], start, size, ratio, mode))
    return torch.stack(pooled).view(len(rois), *bins, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [False, True])
def test_equals_the_compiled_operator(aligned, sampling_ratio, mode, device):
    golden = np.load(Path(__file__).parents[1] / "data" / "mmcv_roi_align.npz")
    name = f"aligned{aligned:d}_sr{sampling_ratio}_{mode}"
    maps = torch.from_numpy(golden["feats"]).to(device).requires_grad_()
    rois = torch.from_numpy(golden["rois"]).to(device)
    output = roi_align(maps, rois, 7, 1 / 8, sampling_ratio, mode, aligned)
    # the maps had 8 channels, of which the file holds the first 2
    weights = torch.linspace(0, 1, 20 * 8 * 7 * 7, dtype=torch.float64).view(20, 8, 7, 7)[:, :2]
    output.backward(weights.to(device))
    np.testing.assert_allclose(output.detach().cpu(), golden[name], atol=1e-5)
    np.testing.assert_allclose(maps.grad.cpu(), golden[f"{name}_grad"], atol=1e-5)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 3])
@pytest.mark.parametrize("aligned", [False, True])
def test_equals_one_sample_at_a_time(aligned, sampling_ratio, mode, device):
    maps, rois = draw(device=device)
    options = ((2, 3), 0.5, sampling_ratio, mode, aligned)
    output, gradient = both(maps, rois, *options)
    maps.requires_grad_()
    expected = reference(maps, rois, *options)
    weights = torch.linspace(0, 1, output.numel(), dtype=torch.float64).view(output.shape)
    (expected_gradient,) = torch.autograd.grad(expected, maps, weights.to(device))
    torch.testing.assert_close(output, expected.detach())
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype, mode, device):
    maps, rois = draw(dtype, device=device)
    output, gradient = both(maps, rois, 3, 0.5, 0, mode)
    expected = both(maps.double(), rois.double(), 3, 0.5, 0, mode)
    assert output.dtype == gradient.dtype == dtype
    precision = dict(rtol=4 * torch.finfo(dtype).eps, atol=1e-4)
    torch.testing.assert_close(output.double(), expected[0], **precision)
    if mode == "avg" or dtype == torch.float32:  # mmcv has the places of maxima in half, too
        torch.testing.assert_close(gradient.double(), expected[1], **precision)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("channels", [1, 5])
def test_order_in_memory_does_not_matter(mode, channels, device):
    maps, rois = draw(channels=channels, device=device)
    expected = both(maps, rois, 4, 0.5, 0, mode)
    channels_last = both(maps, rois, 4, 0.5, 0, mode, memory_format=torch.channels_last)
    torch.testing.assert_close(channels_last, expected)
    strided = torch.zeros(2, channels, HEIGHT, 2 * WIDTH, dtype=maps.dtype, device=device)
    strided[..., ::2] = maps
    torch.testing.assert_close(roi_align(strided[..., ::2], rois, 4, 0.5, 0, mode), expected[0])


def test_gradient_into_any_tensor_of_zeros(device):
    maps, rois = draw(torch.float32, device=device)
    expected, grads = both(maps, rois, 3, 0.5)[1], []
    weights = torch.linspace(0, 1, len(rois) * 27, device=device).view(-1, 3, 3, 3)
    for dtype in (torch.float32, torch.float64):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            grad = torch.zeros_like(maps, dtype=dtype, memory_format=memory_format)
            module.roi_align_backward(weights, rois, None, None, grad, 3, 3, 0.5, 0, 1, True)
            grads.append(grad.float())
    torch.testing.assert_close(grads, [expected] * 4)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_no_boxes(mode, device):
    maps, rois = draw(device=device)
    output, gradient = both(maps, rois[:0], (2, 3), 0.5, 0, mode)
    assert output.shape == (0, 3, 2, 3) and not gradient.any()


def test_boxes_that_make_no_sense_spoil_no_others_and_take_no_memory(device):
    maps, rois = draw(torch.float32, device=device)
    far = [(0, 0, 1e9, 1e9), (-1e12, 3, 1e12, 9), (-3e38, -3e38, 3e38, 3e38)]
    senseless = [*far, (nan, 0, 5, 5), (0, nan, nan, nan), (0, 0, inf, 5), (-inf, -inf, inf, inf)]
    senseless = torch.tensor([(1, *box) for box in senseless], device=device)
    for sampling_ratio in (0, 2):
        expected = both(maps, rois, 7, 0.5, sampling_ratio)
        output, gradient = both(maps, torch.cat([rois, senseless]), 7, 0.5, sampling_ratio)
        torch.testing.assert_close(output[: len(rois)], expected[0])
        assert output.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("scale", [1 / 3, 1 / 16, 1.0])
def test_a_plane_is_sampled_where_its_bins_are(scale, device):
    """The mean of a linear function over a bin is its value at the bin's centre."""
    y, x = torch.arange(40.0, device=device), torch.arange(60.0, device=device)
    plane = (3 * y[:, None] - 2 * x).expand(1, 1, 40, 60)
    box = torch.tensor([[0, 4.2, 7.7, 49.3, 33.1]], device=device) / scale
    box[:, 0] = 0
    output = RoIAlign((5, 8), scale)(plane, box)
    y = 7.7 + 25.4 * (torch.arange(5, device=device) + 0.5) / 5 - 0.5
    x = 4.2 + 45.1 * (torch.arange(8, device=device) + 0.5) / 8 - 0.5
    torch.testing.assert_close(output[0, 0], 3 * y[:, None] - 2 * x, rtol=1e-4, atol=1e-3)


def test_autocast_changes_nothing():
    maps, rois = draw(torch.float32)
    expected = both(maps, rois, 7, 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(both(maps, rois, 7, 0.5), expected, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_inputs_stay_as_they_were(mode):
    maps, rois = draw()
    before = maps.clone(), rois.clone()
    roi_align(maps.requires_grad_(), rois, 7, 0.5, 0, mode).sum().backward()
    assert torch.equal(maps, before[0]) and torch.equal(rois, before[1])


def test_mask_targets():
    masks = np.zeros((3, 60, 80), dtype=np.uint8)
    masks[0, 10:40, 20:60] = 1
    masks[1, :, 40:] = 1
    boxes = np.array([[20, 10, 60, 40], [30, 0, 50, 60], [0, 0, 80, 60]], dtype=np.float32)
    targets = BitmapMasks(masks, 60, 80).crop_and_resize(boxes, (28, 28), np.array([0, 1, 0]))
    assert targets.masks[0].all()
    assert not targets.masks[1, :, :14].any() and targets.masks[1, :, 14:].all()
    rows, columns = (np.flatnonzero(targets.masks[2].any(axis)) for axis in (1, 0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (5, 18, 7, 20)
    assert targets.masks[2].sum() == 14 * 14


@pytest.mark.full
def test_memory_stays_bounded():
    resource = pytest.importorskip("resource")  # not on Windows
    rois = torch.tensor([[0, 0, 0, 1216, 800.0]]).repeat(20, 1)
    rois[:, 0] = torch.arange(20)
    masks = torch.ones(20, 1, 800, 1216)
    maps, boxes = torch.ones(1, 256, 200, 304), rois[:1].repeat(10, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert roi_align(masks, rois, 28).min() > 0.999  # a bin has 29 x 44 samples
    assert roi_align(maps, boxes, 7, 1 / 4).shape == (10, 256, 7, 7)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10  # KiB to MiB
    assert grown < 150  # a table of the samples of the maps, alone, has 600 MiB


def test_torchvision_does_the_work_where_it_is_the_quickest(monkeypatch):
    calls = []

    def forward(*args):
        calls.append(args)
        return torch.full((22, 3, 2, 4), 5.0)

    def backward(*args):
        calls.append(args)
        return torch.full((2, 3, HEIGHT, WIDTH), 6.0)

    monkeypatch.setattr(module, "_find_torchvision_kernels", lambda device: (forward, backward))
    assert module._torchvision_kernels("cuda") == (forward, backward)
    assert module._torchvision_kernels("cpu") is None
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert module._torchvision_kernels("cuda") is None

    monkeypatch.setattr(module, "_torchvision_kernels", lambda device: (forward, backward))
    maps, rois = draw(torch.float16)
    output, gradient = both(maps, rois, (2, 4), 0.25, 2, "avg", False)
    assert (output == 5).all() and (gradient == 6).all()
    assert output.dtype == gradient.dtype == torch.float16
    (given_maps, given_rois, *options), (weights, given_rois_again, *options_again) = calls
    assert torch.equal(given_maps, maps.float()) and given_maps.dtype == torch.float32
    assert torch.equal(given_rois, rois.float()) and torch.equal(given_rois_again, given_rois)
    assert options == [0.25, 2, 4, 2, False] and weights.dtype == torch.float32
    assert options_again == [0.25, 2, 4, 2, 3, HEIGHT, WIDTH, 2, False]
    roi_align(maps, rois, (2, 4), 0.25, 2, "max")
    assert len(calls) == 2  # torchvision has no maxima


@pytest.mark.parametrize("error", [None, RuntimeError, NotImplementedError, AttributeError])
def test_torchvision_that_does_not_fit_is_passed_over(monkeypatch, error):
    def kernel(*args):
        if error:
            raise error("Couldn't load custom C++ ops")

    operators = SimpleNamespace(roi_align=kernel, _roi_align_backward=kernel)
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setattr(torch.ops, "torchvision", operators, raising=False)
    find = module._find_torchvision_kernels.__wrapped__
    assert find("cpu") == (None if error else (kernel, kernel))
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert find("cpu") is None


@pytest.mark.parametrize("device", ["cpu", *DEVICES[2:]])
def test_torchvision_agrees(device, monkeypatch):
    kernels = module._find_torchvision_kernels(device)
    if kernels is None:
        pytest.skip(f"no torchvision with a roi_align kernel for {device}")
    maps, rois = draw(device=device)
    for options in ((7, 0.5, 0, "avg", True), (7, 0.5, 2, "avg", False)):
        monkeypatch.setattr(module, "_torchvision_kernels", lambda device_type: None)
        expected = both(maps, rois, *options)
        monkeypatch.setattr(module, "_torchvision_kernels", lambda device_type: kernels)
        torch.testing.assert_close(both(maps, rois, *options), expected)
    for aligned in (False, True):
        for sampling_ratio in (0, 2):
            test_equals_the_compiled_operator(aligned, sampling_ratio, "avg", device)
