"""mmcv.ops.nms, soft_nms and batched_nms over mmpvt's operators.

tests/data/mmcv_nms.npz holds what mmcv 2.1.0's compiled CPU operators returned.
"""

import sys
from pathlib import Path
from types import ModuleType

import mmcv.ops
import numpy as np
import pytest
import torch

from mmpvt.ops import nms as nms_module

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(scope="module")
def golden():
    return np.load(Path(__file__).parents[1] / "data" / "mmcv_nms.npz")


@pytest.fixture(autouse=True)
def without_torchvision(monkeypatch, request):
    if "torchvision" not in request.function.__name__:
        monkeypatch.setattr(nms_module, "_torchvision_nms", lambda device_type: None)


def crowd(n, seed=0, side=100):
    """n boxes around a few centres, on a grid of quarters so that equal overlaps occur."""
    rng = np.random.default_rng(seed)
    centre = rng.uniform(0, side, (max(n // 12, 1), 2))[rng.integers(0, max(n // 12, 1), n)]
    corner = centre + rng.normal(0, 3, (n, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 20, (n, 2))], axis=1)
    boxes = torch.from_numpy((boxes * 4).round() / 4).float()
    return boxes, torch.from_numpy(rng.integers(1, 200, n) / 200).float()


def overlap(box, others, offset):
    """IoU of one box with others, in float32, from the definition."""
    width = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0]) + offset
    height = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1]) + offset
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    sides = others[:, 2:] - others[:, :2] + offset
    own = box[2:] - box[:2] + offset
    with np.errstate(invalid="ignore"):
        return shared / (own[0] * own[1] + sides[:, 0] * sides[:, 1] - shared)


def greedy_reference(boxes, scores, iou_threshold, offset):
    boxes, keep = boxes.numpy(), []
    order = np.argsort(-scores.numpy(), kind="stable")
    while len(order):
        keep.append(order[0])
        rest = order[1:]
        covered = overlap(boxes[order[0]], boxes[rest], offset) > np.float32(iou_threshold)
        order = rest[~covered]
    return keep


def soft_reference(boxes, scores, iou_threshold, sigma, min_score, method, offset):
    """The sequential algorithm as it is published, one box at a time."""
    left = [(box, np.float32(s), i) for i, (box, s) in enumerate(zip(boxes, scores, strict=True))]
    i = 0
    while i < len(left):
        top = max(range(i, len(left)), key=lambda k: (left[k][1], -k))
        left[i], left[top] = left[top], left[i]
        k = i + 1
        while k < len(left):
            box, score, index = left[k]
            iou = overlap(left[i][0], box[None], offset)[0]
            if method == "gaussian":
                score = score * np.exp(-(iou * iou) / np.float32(sigma))
            elif iou >= np.float32(iou_threshold):
                score = score * (np.float32(1) - iou if method == "linear" else np.float32(0))
            left[k] = (box, score, index)
            if score < np.float32(min_score):
                left[k] = left[-1]
                left.pop()
            else:
                k += 1
        i += 1
    return [index for _, _, index in left], [score for _, score, _ in left]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("iou_threshold", [0.3, 0.5, 0.7])
def test_nms_equals_the_compiled_operator(golden, iou_threshold, offset, device):
    boxes = torch.from_numpy(golden["nms_boxes"]).to(device)
    scores = torch.from_numpy(golden["nms_scores"]).to(device)
    dets, keep = mmcv.ops.nms(boxes, scores, iou_threshold, offset)
    expected = golden[f"nms_keep_thr{iou_threshold}_offset{offset}"]
    assert keep.dtype == torch.int64 and keep.device.type == device
    np.testing.assert_array_equal(keep.cpu(), expected)
    np.testing.assert_array_equal(dets[:, :4].cpu(), golden["nms_boxes"][expected])
    np.testing.assert_array_equal(dets[:, 4].cpu(), golden["nms_scores"][expected])


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_equals_the_compiled_operator(golden, method):
    dets, keep = mmcv.ops.soft_nms(
        golden["nms_boxes"], golden["nms_scores"], 0.3, sigma=0.5, min_score=1e-3, method=method
    )
    np.testing.assert_array_equal(keep, golden[f"softnms_{method}_keep"])
    np.testing.assert_allclose(dets, golden[f"softnms_{method}_dets"], atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("n", [1, 2, 127, 128, 129, 1500])
def test_nms_equals_one_box_at_a_time(n, offset, device):
    boxes, scores = crowd(n, seed=n, side=20 * n**0.5)
    for iou_threshold in (0.0, 0.25, 0.5, 1.0):
        _, keep = mmcv.ops.nms(boxes.to(device), scores.to(device), iou_threshold, offset)
        assert keep.tolist() == greedy_reference(boxes, scores, iou_threshold, offset)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("min_score", [0.0, 0.3])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
def test_soft_nms_equals_one_box_at_a_time(method, min_score, offset):
    boxes, scores = (x.numpy() for x in crowd(120, seed=3))
    options = dict(sigma=0.4, min_score=min_score, method=method, offset=offset)
    dets, keep = mmcv.ops.soft_nms(boxes, scores, 0.2, **options)
    expected_keep, expected_scores = soft_reference(boxes, scores, 0.2, **options)
    assert keep.tolist() == expected_keep
    np.testing.assert_array_equal(dets[:, :4], boxes[expected_keep])
    np.testing.assert_allclose(dets[:, 4], expected_scores, atol=1e-6)


def test_a_chain_of_overlaps_keeps_every_second_box():
    left = torch.arange(1000.0)
    boxes = torch.stack([left, 0 * left, left + 4, 0 * left + 4], dim=1)
    _, keep = mmcv.ops.nms(boxes, torch.linspace(1, 0.1, 1000), 0.5)
    assert keep.tolist() == list(range(0, 1000, 2))


def test_an_overlap_of_just_the_threshold_suppresses_nothing():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 3, 10], [0, 0, 6, 10], [0, 0, 10, 9]])
    _, keep = mmcv.ops.nms(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), 0.3)
    assert keep.tolist() == [0, 1]  # 0.3 in float32 is more than 0.3 in float64
    _, keep = mmcv.ops.nms(boxes[[0, 2]], torch.tensor([0.9, 0.8]), 0.6)
    assert keep.tolist() == [0, 1]


def test_score_threshold_and_max_num():
    boxes, scores = crowd(300)
    best = [i for i in greedy_reference(boxes, scores, 0.5, 0) if scores[i] > 0.4]
    _, keep = mmcv.ops.nms(boxes, scores, 0.5, score_threshold=0.4)
    assert keep.tolist() == best
    _, keep = mmcv.ops.nms(boxes, scores, 0.5, score_threshold=0.4, max_num=5)
    assert keep.tolist() == best[:5]
    dets, keep = mmcv.ops.nms(boxes, scores, 0.5, score_threshold=2.0)
    assert dets.shape == (0, 5) and keep.shape == (0,)


def test_arrays_in_give_arrays_out():
    boxes, scores = crowd(50)
    expected = greedy_reference(boxes, scores, 0.5, 0)
    dets, keep = mmcv.ops.nms(boxes.numpy(), scores.numpy(), 0.5)
    assert isinstance(dets, np.ndarray) and isinstance(keep, np.ndarray)
    assert keep.tolist() == expected and dets.dtype == np.float32
    dets, keep = mmcv.ops.soft_nms(boxes.numpy(), scores.numpy())
    assert isinstance(dets, np.ndarray) and isinstance(keep, np.ndarray)


def test_no_boxes():
    for suppress in (lambda b, s: mmcv.ops.nms(b, s, 0.5), mmcv.ops.soft_nms):
        dets, keep = suppress(torch.zeros(0, 4), torch.zeros(0))
        assert dets.shape == (0, 5) and keep.shape == (0,) and keep.dtype == torch.int64


def test_boxes_without_area_suppress_nothing():
    boxes = torch.tensor([[1.0, 1, 1, 1]] * 3 + [[0.0, 0, 4, 4]] * 2)
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5])
    assert mmcv.ops.nms(boxes, scores, 0.0)[1].tolist() == [0, 1, 2, 3]
    for method in ("naive", "linear", "gaussian"):
        dets, keep = mmcv.ops.soft_nms(boxes, scores, method=method)
        assert keep.tolist()[:4] == [0, 1, 2, 3]
        torch.testing.assert_close(dets[:4, 4], scores[:4])


def test_a_box_that_is_not_a_number_spoils_no_other():
    boxes, scores = crowd(200)
    expected = greedy_reference(boxes, scores, 0.5, 0)
    spoiled = torch.cat([torch.full((1, 4), torch.nan), boxes])
    _, keep = mmcv.ops.nms(spoiled, torch.cat([torch.ones(1), scores]), 0.5)
    assert (keep[keep > 0] - 1).tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(dtype):
    boxes, scores = (x.to(dtype) for x in crowd(200, side=60))
    expected = greedy_reference(boxes.float(), scores.float(), 0.4, 0)
    dets, keep = mmcv.ops.nms(boxes, scores, 0.4)
    assert keep.tolist() == expected and dets.dtype == dtype
    single, expected_keep = mmcv.ops.soft_nms(boxes.float(), scores.float(), 0.4, method="linear")
    dets, keep = mmcv.ops.soft_nms(boxes, scores, 0.4, method="linear")
    assert keep.tolist() == expected_keep.tolist() and dets.dtype == dtype
    torch.testing.assert_close(dets, single.to(dtype))


def test_autocast_changes_nothing_and_no_gradient_is_needed():
    boxes, scores = crowd(300)
    expected = greedy_reference(boxes, scores, 0.5, 0)
    with torch.autocast("cpu", torch.bfloat16):
        dets, keep = mmcv.ops.nms(boxes.requires_grad_(), scores.requires_grad_(), 0.5)
    assert keep.tolist() == expected and dets.requires_grad and dets.dtype == torch.float32


def test_inputs_stay_as_they_were():
    boxes, scores = crowd(100)
    before = boxes.clone(), scores.clone()
    mmcv.ops.nms(boxes, scores, 0.5)
    mmcv.ops.soft_nms(boxes, scores)
    assert torch.equal(boxes, before[0]) and torch.equal(scores, before[1])


def class_by_class(boxes, scores, classes, iou_threshold):
    keep = []
    for c in classes.unique():
        members = (classes == c).nonzero().squeeze(1)
        chosen = greedy_reference(boxes[members], scores[members], iou_threshold, 0)
        keep += members[chosen].tolist()
    return sorted(keep, key=lambda i: -scores[i])


@pytest.mark.parametrize("split_thr", [10000, 100], ids=["at once", "class by class"])
def test_batched_nms_keeps_classes_apart(split_thr):
    boxes, scores = crowd(400)
    scores = scores[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    scores = scores + torch.arange(400) * 1e-5  # no ties: the two orders agree
    classes = torch.arange(400) % 7
    config = dict(type="nms", iou_threshold=0.5, split_thr=split_thr)
    dets, keep = mmcv.ops.batched_nms(boxes, scores, classes, config)
    assert keep.tolist() == class_by_class(boxes, scores, classes, 0.5)
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], dim=1)[keep])
    _, keep = mmcv.ops.batched_nms(boxes, scores, classes, dict(config, max_num=9))
    assert len(keep) == 9


def test_batched_nms_class_agnostic_and_none():
    boxes, scores = crowd(200)
    classes = torch.arange(200) % 3
    config = dict(type="nms", iou_threshold=0.5)
    expected = greedy_reference(boxes, scores, 0.5, 0)
    _, keep = mmcv.ops.batched_nms(boxes, scores, classes, config, class_agnostic=True)
    assert keep.tolist() == expected
    _, keep = mmcv.ops.batched_nms(boxes, scores, classes, dict(config, class_agnostic=True))
    assert keep.tolist() == expected
    dets, keep = mmcv.ops.batched_nms(boxes, scores, classes, None)
    assert len(keep) == 200 and torch.equal(dets[:, 4], scores.sort(descending=True).values)


def test_batched_nms_of_type_soft_nms():
    boxes, scores = crowd(90, side=30)
    classes = torch.arange(90) % 2
    config = dict(type="soft_nms", iou_threshold=0.3, min_score=0.05, method="linear")
    dets, keep = mmcv.ops.batched_nms(boxes, scores, classes, config)
    assert torch.equal(boxes[keep], dets[:, :4]) and (dets[:, 4] >= 0.05).all()
    apart = boxes + (classes * (boxes.max() + 1))[:, None]
    options = dict(sigma=0.5, min_score=0.05, method="linear", offset=0)
    expected = soft_reference(apart.numpy(), scores.numpy(), 0.3, **options)
    assert keep.tolist() == expected[0]
    np.testing.assert_allclose(dets[:, 4], expected[1], atol=1e-6)


@pytest.mark.full
def test_memory_stays_bounded():
    resource = pytest.importorskip("resource")  # not on Windows
    boxes, scores = crowd(40_000, side=1000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, keep = mmcv.ops.nms(boxes, scores, 0.5)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20  # KiB to GiB
    assert len(keep) > 1000 and grown < 0.3  # one float32 table of all pairs has 6 GiB


def fake_torchvision(monkeypatch, kernel):
    """A torchvision whose ops.nms is ``kernel``: what can be said of one without having one."""
    package, ops = ModuleType("torchvision"), ModuleType("torchvision.ops")
    package.ops, ops.nms = ops, kernel
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.ops", ops)
    find = nms_module._torchvision_nms.__wrapped__
    monkeypatch.setattr(nms_module, "_torchvision_nms", find)


@pytest.mark.parametrize("offset", [0, 1])
def test_torchvision_does_the_work_where_it_is_installed(monkeypatch, offset):
    calls = []

    def kernel(boxes, scores, iou_threshold):
        calls.append((boxes, scores, iou_threshold))
        return torch.arange(len(boxes)).flip(0)

    fake_torchvision(monkeypatch, kernel)
    boxes, scores = crowd(5)
    _, keep = mmcv.ops.nms(boxes.half(), scores, 0.7, offset)
    assert keep.tolist() == [4, 3, 2, 1, 0]
    given_boxes, given_scores, given_threshold = calls[-1]
    expected = boxes.half().float() + torch.tensor([0, 0, offset, offset])
    assert torch.equal(given_boxes, expected) and given_boxes.dtype == torch.float32
    assert torch.equal(given_scores, scores)
    assert given_threshold == float(np.float32(0.7))
    mmcv.ops.nms(boxes, scores.half(), 0.7, offset)
    assert torch.equal(calls[-1][1], scores.half().float())  # it takes one type alone
    mmcv.ops.nms(*crowd(nms_module.TORCHVISION_ON_CPU + 1), 0.7, offset)  # ours is the quicker one
    assert all(len(boxes) <= 5 for boxes, *_ in calls)


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, AttributeError])
def test_torchvision_that_does_not_fit_is_passed_over(monkeypatch, error):
    def kernel(boxes, scores, iou_threshold):
        raise error("operator torchvision::nms does not exist")

    fake_torchvision(monkeypatch, kernel)
    boxes, scores = crowd(100)
    _, keep = mmcv.ops.nms(boxes, scores, 0.5)
    assert keep.tolist() == greedy_reference(boxes, scores, 0.5, 0)


@pytest.mark.parametrize("device", DEVICES)
def test_torchvision_agrees(golden, device):
    if nms_module._torchvision_nms(device) is None:
        pytest.skip(f"no torchvision with an nms kernel for {device}")
    boxes = torch.from_numpy(golden["nms_boxes"]).to(device)
    scores = torch.from_numpy(golden["nms_scores"]).to(device)
    for iou_threshold in (0.3, 0.5, 0.7):
        _, keep = mmcv.ops.nms(boxes, scores, iou_threshold)
        np.testing.assert_array_equal(keep.cpu(), golden[f"nms_keep_thr{iou_threshold}_offset0"])
