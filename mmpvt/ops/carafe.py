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
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Reassembles a map, larger.

    Args:
        features (Tensor): (B, C, H, W).
        masks (Tensor): (B, group_size * kernel_size ** 2, H * scale_factor, W * scale_factor), the
            kernel of each position of the output, for each group of channels.
        rfeatures (Tensor): as ``features``; set to them, as the backward pass gets it instead.
        output (Tensor): (B, C, H * scale_factor, W * scale_factor), set to the result.
        kernel_size (int): side of the window that is weighted, centred on a position's source.
        group_size (int): groups of channels.
        scale_factor (int): how many times larger the output is.
    """
    rfeatures.copy_(features)
    for image, mask, out in zip(features, masks, output, strict=True):
        windows = _windows(at_least_float32(image), kernel_size, group_size)
        kernels = _kernels(mask, kernel_size, group_size, scale_factor)
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
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """The gradients of :func:`carafe_forward`; unlisted arguments are that function's.

    Args:
        grad_output (Tensor): as the forward's ``output``, the gradient by it.
        grad_input, grad_masks (Tensor): as ``features`` and ``masks``, set to their gradients.
    """
    for i, image in enumerate(rfeatures):
        channels, height, width = image.shape
        windows = _windows(at_least_float32(image), kernel_size, group_size)
        kernels = _kernels(masks[i], kernel_size, group_size, scale_factor)
        grad = at_least_float32(grad_output[i]).view(
            group_size, channels // group_size, height, scale_factor, width, scale_factor
        )
        by_kernels = torch.einsum("gckhw,gchiwj->gkhiwj", windows, grad)
        grad_masks[i].copy_(by_kernels.reshape(grad_masks[i].shape))
        by_windows = torch.einsum("gkhiwj,gchiwj->gckhw", kernels, grad)
        by_windows = by_windows.reshape(1, -1, height * width)
        padding = kernel_size // 2
        grad_input[i].copy_(F.fold(by_windows, (height, width), kernel_size, padding=padding)[0])


def _windows(image: Tensor, kernel_size: int, group_size: int) -> Tensor:
    """(groups, C / groups, kernel_size ** 2, H, W): the window around each position."""
    channels, height, width = image.shape
    windows = F.unfold(image.unsqueeze(0), kernel_size, padding=kernel_size // 2)
    return windows.view(group_size, channels // group_size, kernel_size**2, height, width)


def _kernels(mask: Tensor, kernel_size: int, group_size: int, scale: int) -> Tensor:
    """(groups, kernel_size ** 2, H, scale, W, scale)."""
    height, width = mask.size(1) // scale, mask.size(2) // scale
    mask = at_least_float32(mask)
    return mask.reshape(group_size, kernel_size**2, height, scale, width, scale)
