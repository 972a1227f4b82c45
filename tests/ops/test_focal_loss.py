"""mmcv.ops.sigmoid_focal_loss and softmax_focal_loss over mmpvt's operators."""

import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import (
    SigmoidFocalLoss,
    SoftmaxFocalLoss,
    sigmoid_focal_loss,
    softmax_focal_loss,
)
from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
CLASSES = 6


def draw(n=40, dtype=torch.float64, device="cpu"):
    """Logits, and targets, of which one in seven is background (``CLASSES``)."""
    generator = torch.Generator().manual_seed(n)
    logits = 3 * torch.randn(n, CLASSES, generator=generator, dtype=torch.float64)
    target = (torch.arange(n) + 3) % (CLASSES + 1)
    return logits.to(device, dtype).requires_grad_(), target.to(device)


def kernel(p, one_hot, gamma, alpha):
    """The loss as mmcv's CUDA kernel writes it, of p = sigmoid(logits)."""
    positive = -alpha * (1 - p) ** gamma * p.log()
    negative = -(1 - alpha) * p**gamma * (1 - p).log()
    return torch.where(one_hot, positive, negative)


def one_hot(target, dtype=torch.bool):
    return F.one_hot(target, CLASSES + 1)[:, :CLASSES].to(dtype)


def value_and_gradient(loss, logits):
    weights = torch.linspace(0.5, 1.5, loss.numel(), dtype=loss.dtype, device=loss.device)
    (gradient,) = torch.autograd.grad((loss.flatten() * weights).sum(), logits)
    return loss.detach(), gradient


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("gamma", "alpha"), [(2.0, 0.25), (0.0, 0.5), (0.5, 0.9), (1.5, 0.1)])
def test_sigmoid_equals_the_kernel_s_formula(gamma, alpha, dtype, device):
    logits, target = draw(dtype=dtype, device=device)
    loss = sigmoid_focal_loss(logits, target, gamma, alpha, None, "none")
    # the formula itself loses digits as p nears 1, so it is always evaluated in float64
    expected = kernel(logits.double().sigmoid(), one_hot(target), gamma, alpha).to(dtype)
    torch.testing.assert_close(
        value_and_gradient(loss, logits), value_and_gradient(expected, logits)
    )


def test_sigmoid_equals_mmdet_s_python_loss():
    logits, target = draw(200, torch.float32)
    ours = sigmoid_focal_loss(logits, target, 2.0, 0.25, None, "none")
    theirs = py_sigmoid_focal_loss(logits, one_hot(target, torch.float32), reduction="none")
    torch.testing.assert_close(value_and_gradient(ours, logits), value_and_gradient(theirs, logits))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("loss", "reduction"),
    [
        # mmcv's own backward of an unreduced softmax_focal_loss fails, whatever the operator does
        (softmax_focal_loss, "mean"),
        (softmax_focal_loss, "sum"),
        (sigmoid_focal_loss, "none"),
        (sigmoid_focal_loss, "mean"),
        (sigmoid_focal_loss, "sum"),
    ],
)
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
def test_gradients_are_those_of_finite_differences(loss, gamma, weighted, reduction):
    logits, target = draw(12)
    weight = torch.linspace(0.5, 3, CLASSES, dtype=logits.dtype) if weighted else None
    assert torch.autograd.gradcheck(
        lambda x: loss(x, target, gamma, 0.3, weight, reduction), logits
    )


def test_class_weights_apply_to_a_sample_s_whole_row_and_not_to_background():
    logits, target = draw(30)
    weight = torch.linspace(0.5, 3, CLASSES, dtype=logits.dtype)
    plain = sigmoid_focal_loss(logits, target, 2.0, 0.25, None, "none")
    weighted = sigmoid_focal_loss(logits, target, 2.0, 0.25, weight, "none")
    factor = torch.cat([weight, weight.new_ones(1)])[target]
    torch.testing.assert_close(weighted, plain * factor[:, None])


@pytest.mark.parametrize("outside", [-1, CLASSES, CLASSES + 5, 255])
def test_targets_outside_the_classes_are_background(outside):
    logits, _ = draw(10)
    target = torch.full((10,), outside)
    loss = sigmoid_focal_loss(logits, target, 2.0, 0.25, None, "none")
    nothing = torch.zeros(10, CLASSES, dtype=torch.bool)
    torch.testing.assert_close(loss, kernel(logits.sigmoid(), nothing, 2.0, 0.25))
    assert softmax_focal_loss(logits, target, 2.0, 0.25, None, "sum") == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sigmoid_stays_finite_and_right_far_out(dtype):
    x = torch.tensor([-1e4, -200, -90, -41, -39, 39, 41, 90, 200, 1e4], dtype=dtype)
    logits = x[:, None].clone().requires_grad_()
    for target, wrong, alpha in ((1, x, 0.75), (0, -x, 0.25)):
        loss = sigmoid_focal_loss(logits, torch.full((10,), target), 2.0, 0.25, None, "none")
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        limit = alpha * wrong.clamp(min=0)  # loss of what is surely wrong; else 0
        torch.testing.assert_close(loss[:, 0], limit, rtol=1e-6, atol=1e-15)
        slope = alpha * (wrong > 0) * (1 if target else -1)
        torch.testing.assert_close(gradient[:, 0], slope.to(dtype), rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("loss", [sigmoid_focal_loss, softmax_focal_loss])
def test_half_precision_is_computed_in_float32(loss, dtype):
    logits, target = draw(50, dtype)
    results = loss(logits, target, 2.0, 0.25, None, "sum")
    expected = loss(logits.detach().float(), target, 2.0, 0.25, None, "sum")
    assert results.dtype == dtype
    torch.testing.assert_close(results.float(), expected, rtol=2e-2, atol=0)


def softmax_reference(logits, target, gamma, alpha, weight):
    log_p = logits.log_softmax(1).gather(1, target.clamp(max=CLASSES - 1)[:, None]).squeeze(1)
    loss = -alpha * (1 - log_p.exp()) ** gamma * log_p
    weight = logits.new_ones(CLASSES) if weight is None else weight
    return loss * torch.cat([weight, weight.new_zeros(1)])[target]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_softmax_equals_the_definition(gamma, weighted, device):
    logits, target = draw(device=device)
    weight = torch.linspace(0.5, 3, CLASSES).to(logits) if weighted else None
    each = softmax_focal_loss(logits.detach(), target, gamma, 0.3, weight, "none")
    torch.testing.assert_close(each, softmax_reference(logits, target, gamma, 0.3, weight).detach())
    loss = softmax_focal_loss(logits, target, gamma, 0.3, weight, "mean")
    expected = softmax_reference(logits, target, gamma, 0.3, weight).mean()
    torch.testing.assert_close(
        value_and_gradient(loss, logits), value_and_gradient(expected, logits)
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_softmax_stays_finite_at_certainty(gamma):
    logits = torch.tensor([[500.0, -500], [500.0, -500]], requires_grad=True)
    loss = softmax_focal_loss(logits, torch.tensor([0, 1]), gamma, 0.25, None, "sum")
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
    assert (logits.grad[0] == 0).all()


@pytest.mark.parametrize("module", [SigmoidFocalLoss, SoftmaxFocalLoss])
def test_no_samples(module):
    logits, target = draw(0, torch.float32)
    loss = module(2.0, 0.25, reduction="sum")(logits, target)
    loss.backward()
    assert loss == 0 and logits.grad.shape == (0, CLASSES)


def test_operands_stay_as_they_were():
    logits, target = draw(20)
    before = logits.detach().clone(), target.clone()
    sigmoid_focal_loss(logits, target, 2.0, 0.25, None, "sum").backward()
    softmax_focal_loss(logits, target, 2.0, 0.25, None, "sum").backward()
    assert torch.equal(logits, before[0]) and torch.equal(target, before[1])
