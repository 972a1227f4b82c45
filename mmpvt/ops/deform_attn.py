"""Multi-scale deformable attention (Zhu et al., arXiv 2010.04159) on devices other than the CPU.

On the CPU ``mmcv.ops`` computes it in PyTorch by itself; on a GPU it calls its extension. These
hand it the same code there.
"""

from __future__ import annotations

from torch import Tensor

from mmpvt.ops.arithmetic import differentiate


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
        sampling_locations (Tensor): (B, queries, heads, levels, points, 2), (x, y) in [0, 1].
        attention_weights (Tensor): (B, queries, heads, levels, points).
        level_start_index, im2col_step: unused.

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
    """The gradients of :func:`ms_deform_attn_forward`; unlisted arguments are that function's.

    Args:
        grad_output (Tensor): (B, queries, heads * channels), the gradient by what it returned.
        grad_value, grad_sampling_loc, grad_attn_weight (Tensor): as ``value``,
            ``sampling_locations`` and ``attention_weights``, set to their gradients.
    """

    def attend(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn_forward(
            value, spatial_shapes, level_start_index, locations, weights, im2col_step
        )

    inputs = (value, sampling_locations, attention_weights)
    differentiate(attend, inputs, grad_output, (grad_value, grad_sampling_loc, grad_attn_weight))
