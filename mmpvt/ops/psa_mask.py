"""Point-wise spatial attention's maps (Zhao et al., ECCV 2018, "PSANet").

A head predicts for each position a window of weights that is centred on it; the operator lays the
windows out as weights between any two positions of the map.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

_COLLECT = 0  # psa_type; 1 is "distribute"


def psamask_forward(input: Tensor, output: Tensor, **options: int) -> None:
    """Lays windows out over the map.

    Args:
        input (Tensor): (B, h_mask * w_mask, h, w), the window of each position.
        output (Tensor): (B, h * w, h, w), zeros, set to the weights: of what is at [y * w + x] for
            what is at [h, w] if collecting, the other way round if distributing.
        **options (int): ``psa_type``, 0 for collecting, 1 for distributing; ``num_``, B;
            ``h_feature, w_feature``, h and w; ``h_mask, w_mask``, rows and columns of a window;
            ``half_h_mask, half_w_mask``, its centre's row and column.
    """
    for window, weights in _parts(input, output, **options):
        weights.copy_(window)


def psamask_backward(grad_output: Tensor, grad_input: Tensor, **options: int) -> None:
    """The gradient of :func:`psamask_forward`; unlisted arguments are that function's.

    Args:
        grad_output (Tensor): as the forward's ``output``, the gradient by it.
        grad_input (Tensor): as the forward's ``input``, zeros, set to its gradient.
    """
    for window, weights in _parts(grad_input, grad_output, **options):
        window.copy_(weights)


def _parts(
    windows: Tensor,
    table: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Views of each position's window, as far as it is on the map, and of its part of the table."""
    windows = windows.view(num_, h_mask, w_mask, h_feature, w_feature)
    # first the position that is weighted, then that of the window
    table = table.view(num_, h_feature, w_feature, h_feature, w_feature)
    table = table if psa_type == _COLLECT else table.permute(0, 3, 4, 1, 2)
    for h, rows, taps in _rows(h_feature, h_mask, half_h_mask):
        for w, columns, steps in _rows(w_feature, w_mask, half_w_mask):
            yield windows[:, taps, steps, h, w], table[:, rows, columns, h, w]


def _rows(size: int, window: int, half: int) -> Iterator[tuple[int, slice, slice]]:
    """Of each position: the positions that its window covers, and the window's part on the map."""
    for position in range(size):
        first, last = max(position - half, 0), min(position - half + window, size)
        yield position, slice(first, last), slice(first - position + half, last - position + half)
