"""The precision that operators compute in, and gradients by autograd."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32, or itself where it is that or float64."""
    return x if x.dtype == torch.float64 else x.float()


def differentiate(
    function: Callable[..., Tensor],
    inputs: Iterable[Tensor],
    grad_output: Tensor,
    targets: Iterable[Tensor],
) -> Tensor:
    """The function's result; sets ``targets`` to the gradients by its inputs."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        output = function(*inputs)
    grads = torch.autograd.grad(output, inputs, grad_output.view_as(output))
    for target, grad in zip(targets, grads, strict=True):
        target.copy_(grad)
    return output.detach()
