"""Focal loss (Lin et al., arXiv 1708.02002, equation 5) and its gradient, sigmoid and softmax.

With ``p`` the probability given to the right answer, the loss is
``-alpha * (1 - p) ** gamma * log(p)``. A target outside [0, C) means background: no class is right,
and no class weight applies. Tensors narrower than float32 are computed with in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmpvt.ops.arithmetic import at_least_float32

_TINY = torch.finfo(torch.float32).tiny


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Sigmoid focal loss: each class of each sample is a yes or no.

    Args:
        input (Tensor): (N, C) logits.
        target (Tensor): (N,) int64, the one class to answer yes to; none if outside [0, C).
        weight (Tensor): (C,), what multiplies the losses of the samples of a class; or empty.
        output (Tensor): (N, C), set to the losses.
        gamma (float): exponent that takes weight off what is already right.
        alpha (float): factor where yes is right; ``1 - alpha`` where no is.
    """
    output.copy_(_sigmoid(_loss, 1, input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """The derivative of each loss of :func:`sigmoid_focal_loss_forward` by its logit; unlisted
    arguments are that function's.

    Args:
        grad_input (Tensor): (N, C), set to the derivatives.
    """
    grad_input.copy_(_sigmoid(_slope, -1, input, target, weight, gamma, alpha))


def softmax_focal_loss_forward(
    softmax: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Softmax focal loss: the classes of a sample share one probability.

    Args:
        softmax (Tensor): (N, C) probabilities.
        target (Tensor): (N,) int64, the right class; the loss is 0 if outside [0, C).
        weight (Tensor): (C,), what multiplies the losses of the samples of a class; or empty.
        output (Tensor): (N,), set to the losses.
        gamma (float): exponent that takes weight off what is already right.
        alpha (float): factor of every loss.
    """
    if softmax.numel():
        p = at_least_float32(softmax)
        column, is_class, factor = _target_column(target, weight, p.size(1))
        right = p.gather(1, column)
        loss = -alpha * (1 - right).pow(gamma) * right.clamp(min=_TINY).log()
        output.copy_((loss * factor * is_class).squeeze(1))


def softmax_focal_loss_backward(
    softmax: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """The derivative of each loss of :func:`softmax_focal_loss_forward` by its sample's logits;
    unlisted arguments are that function's.

    Args:
        buff (Tensor): (N,), set to the derivatives by the logarithm of the right class's
            probability.
        grad_input (Tensor): (N, C), set to the derivatives by the logits.
    """
    if softmax.numel():
        p = at_least_float32(softmax)
        column, is_class, factor = _target_column(target, weight, p.size(1))
        right = p.gather(1, column)
        wrong = 1 - right
        # the bound keeps 0 ** (gamma - 1) finite; the logarithm that it meets is 0
        pull = gamma * wrong.clamp(min=_TINY).pow(gamma - 1) * right * right.clamp(min=_TINY).log()
        by_log = alpha * (pull - wrong.pow(gamma)) * factor * is_class
        buff.copy_(by_log.squeeze(1))
        grad_input.copy_((-by_log * p).scatter_(1, column, by_log * wrong))


def _sigmoid(
    function: Callable[[Tensor, float], Tensor],
    sign: int,
    input: Tensor,
    target: Tensor,
    weight: Tensor,
    gamma: float,
    alpha: float,
) -> Tensor:
    """``function`` of how far each logit leans to the wrong answer, weighted, (N, C).

    That is the logit itself where no is right, and its opposite (whence ``sign``, of a derivative)
    at the target. No is taken to be right everywhere, then the targets are overwritten: no (N, C)
    mask is needed.
    """
    x = at_least_float32(input)
    if not x.numel():
        return x
    column, is_class, factor = _target_column(target, weight, x.size(1))
    result = function(x, gamma).mul_(1 - alpha)
    yes_is_right = function(-x.gather(1, column), gamma).mul_(sign * alpha)
    result.scatter_(1, column, torch.where(is_class, yes_is_right, result.gather(1, column)))
    return result.mul_(factor)


def _target_column(
    target: Tensor, weight: Tensor, num_classes: int
) -> tuple[Tensor, Tensor, Tensor | int]:
    """Of each sample (N, 1): the target's column, whether it is a class, and its class weight."""
    column = target.clamp(0, num_classes - 1).unsqueeze(1)
    is_class = column == target.unsqueeze(1)
    factor = torch.where(is_class, weight[column], 1) if weight.numel() else 1
    return column, is_class, factor


def _loss(wrong: Tensor, gamma: float) -> Tensor:
    """``-p ** gamma * log(1 - p)`` of ``p = sigmoid(wrong)``, the probability of being wrong."""
    # from 40 on, log(1 + exp(x)) is x to the last digit of float64, and exp(40) fits in float32
    return F.softplus(wrong, threshold=40).mul_(wrong.sigmoid().pow_(gamma))


def _slope(wrong: Tensor, gamma: float) -> Tensor:
    """The derivative of :func:`_loss` by ``wrong``."""
    p = wrong.sigmoid()
    slope = F.softplus(wrong, threshold=40).mul_(1 - p).mul_(gamma).add_(p)
    return slope.mul_(p.pow_(gamma))
