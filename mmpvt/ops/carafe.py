"""CARAFE (Wang et al., arXiv 1905.02188): upsampling by a kernel of its own for each position."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmpvt.ops.arithmetic import at_least_float32


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    _routput: Tensor,
    _rmasks: Tensor,
    output: Tensor,
    **options: int,
) -> None:
    """Reassembles a map, larger.

    Args:
        features (Tensor): (B, C, H, W).
        masks (Tensor): (B, group_size * kernel_size ** 2, H * scale_factor, W * scale_factor), the
            kernel of each position of the output, for each group of channels.
        rfeatures (Tensor): as ``features``; set to them, as the backward pass gets it instead.
        output (Tensor): (B, C, H * scale_factor, W * scale_factor), set to the result.
        **options (int): ``kernel_size``, the side of the window that is weighted, centred on a
            position's source; ``group_size``, groups of channels; ``scale_factor``, how many times
            larger the output is.
    """
    rfeatures.copy_(features)
    for image, mask, out in zip(features, masks, output, strict=True):
        windows, kernels = _windows(image, mask, **options)
        out.copy_(torch.einsum("gckhw,gkhiwj->gchiwj", windows, kernels).reshape(out.shape))


def carafe_backward(
    grad_output: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    _rgrad_output: Tensor,
    _rgrad_input_hs: Tensor,
    _rgrad_input: Tensor,
    _rgrad_masks: Tensor,
    grad_input: Tensor,
    grad_masks: Tensor,
    **options: int,
) -> None:
    """The gradients of :func:`carafe_forward`; unlisted arguments are that function's.

    Args:
        grad_output (Tensor): as the forward's ``output``, the gradient by it.
        grad_input, grad_masks (Tensor): as ``features`` and ``masks``, set to their gradients.
    """
    size, kernel_size = rfeatures.shape[2:], options["kernel_size"]
    for i, image in enumerate(rfeatures):
        windows, kernels = _windows(image, masks[i], **options)
        grad = at_least_float32(grad_output[i]).view(*windows.shape[:2], *kernels.shape[2:])
        by_kernels = torch.einsum("gckhw,gchiwj->gkhiwj", windows, grad)
        grad_masks[i].copy_(by_kernels.reshape(grad_masks[i].shape))
        by_windows = torch.einsum("gkhiwj,gchiwj->gckhw", kernels, grad)
        by_windows = by_windows.reshape(1, -1, size.numel())
        grad_input[i].copy_(F.fold(by_windows, size, kernel_size, padding=kernel_size // 2)[0])


def _windows(
    image: Tensor, mask: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> tuple[Tensor, Tensor]:
    """(groups, C / groups, kernel_size ** 2, H, W): the window around each position; and its
    kernels, (groups, kernel_size ** 2, H, scale, W, scale)."""
    channels, height, width = image.shape
    windows = F.unfold(at_least_float32(image)[None], kernel_size, padding=kernel_size // 2)
    windows = windows.view(group_size, channels // group_size, kernel_size**2, height, width)
    sides = (height, scale_factor, width, scale_factor)
    return windows, at_least_float32(mask).reshape(group_size, kernel_size**2, *sides)
