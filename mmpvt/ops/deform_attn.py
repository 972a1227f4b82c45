"""Multi-scale deformable attention (Zhu et al., arXiv 2010.04159) on devices other than the CPU.

On the CPU ``mmcv.ops`` computes it in PyTorch by itself; on a GPU it calls its extension. These
hand it the same code there.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ms_deform_attn_forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Weighted samples of several maps.

    Args:
        value (Tensor): (B, keys, heads, channels), the maps' positions one after the other.
        spatial_shapes (Tensor): (levels, 2), height and width of each map.
        level_start_index (Tensor): (levels,); unused, as the shapes say it.
        sampling_locations (Tensor): (B, queries, heads, levels, points, 2), (x, y) in [0, 1].
        attention_weights (Tensor): (B, queries, heads, levels, points).
        im2col_step (int): unused.

    Returns:
        Tensor: (B, queries, heads * channels).
    """
    # within the function, as mmcv.ops imports this module's package
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch

    return multi_scale_deformable_attn_pytorch(
        value, spatial_shapes, sampling_locations, attention_weights
    ).contiguous()


def ms_deform_attn_backward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """The gradients of :func:`ms_deform_attn_forward`.

    Arguments that are not listed are the forward function's.

    Args:
        grad_output (Tensor): (B, queries, heads * channels), the gradient by what it returned.
        grad_value (Tensor): as ``value``, set to its gradient.
        grad_sampling_loc (Tensor): as ``sampling_locations``, likewise.
        grad_attn_weight (Tensor): as ``attention_weights``, likewise.
        im2col_step (int): unused.
    """
    inputs = [x.detach().requires_grad_() for x in (value, sampling_locations, attention_weights)]
    with torch.enable_grad():
        output = ms_deform_attn_forward(
            inputs[0], spatial_shapes, level_start_index, inputs[1], inputs[2], im2col_step
        )
    grads = torch.autograd.grad(output, inputs, grad_output)
    for target, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        target.copy_(grad)
