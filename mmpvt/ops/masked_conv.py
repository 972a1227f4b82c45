"""What a convolution at some positions of a map only is made of: gathering and putting back."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Gathers what a kernel reads at some positions.

    Args:
        im (Tensor): (1, C, H, W).
        mask_h_idx, mask_w_idx (Tensor): (N,) int64, rows and columns of the positions.
        col (Tensor): (C * kernel_h * kernel_w, N), set to what is read; 0 outside the map.
        kernel_h, kernel_w (int): rows and columns of the kernel.
        pad_h, pad_w (int): rows that it starts above the position, and columns left of it.
    """
    # a window that starts at a position may reach beyond what the padding covers
    padded = F.pad(
        im[0], (pad_w, max(kernel_w - 1 - pad_w, 0), pad_h, max(kernel_h - 1 - pad_h, 0))
    )
    windows = padded.unfold(1, kernel_h, 1).unfold(2, kernel_w, 1)
    col.copy_(windows[:, mask_h_idx, mask_w_idx].permute(0, 2, 3, 1).reshape(col.shape))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, **_size: int
) -> None:
    """Puts values at some positions of a map.

    Args:
        col (Tensor): (channels, N).
        mask_h_idx, mask_w_idx (Tensor): (N,) int64, rows and columns of the positions.
        im (Tensor): (1, channels, height, width), set at the positions.
    """
    im[0, :, mask_h_idx, mask_w_idx] = col.view(im.size(1), -1)
