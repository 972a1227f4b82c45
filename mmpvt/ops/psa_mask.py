"""Point-wise spatial attention's maps (Zhao et al., ECCV 2018, "PSANet").

A head predicts for each position a window of weights that is centred on it; the operator lays the
windows out as weights between any two positions of the map.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

_COLLECT = 0  # psa_type; 1 is "distribute"


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Lays windows out over the map.

    Args:
        input (Tensor): (B, h_mask * w_mask, h, w), the window of each position.
        output (Tensor): (B, h * w, h, w), zeros, set to the weights: of what is at [y * w + x] for
            what is at [h, w] if collecting, the other way round if distributing.
        psa_type (int): 0 for collecting, 1 for distributing.
        num_ (int): B.
        h_feature (int): h.
        w_feature (int): w.
        h_mask (int): rows of a window.
        w_mask (int): its columns.
        half_h_mask (int): its centre's row.
        half_w_mask (int): its centre's column.
    """
    windows = input.view(num_, h_mask, w_mask, h_feature, w_feature)
    target = _weights(output, psa_type, num_, h_feature, w_feature)
    for h, rows, taps in _rows(h_feature, h_mask, half_h_mask):
        for w, columns, steps in _rows(w_feature, w_mask, half_w_mask):
            target[:, rows, columns, h, w] = windows[:, taps, steps, h, w]


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """The gradient of :func:`psamask_forward`.

    Arguments that are not listed are the forward function's.

    Args:
        grad_output (Tensor): as the forward's ``output``, the gradient by it.
        grad_input (Tensor): as the forward's ``input``, zeros, set to its gradient.
    """
    windows = grad_input.view(num_, h_mask, w_mask, h_feature, w_feature)
    source = _weights(grad_output, psa_type, num_, h_feature, w_feature)
    for h, rows, taps in _rows(h_feature, h_mask, half_h_mask):
        for w, columns, steps in _rows(w_feature, w_mask, half_w_mask):
            windows[:, taps, steps, h, w] = source[:, rows, columns, h, w]


def _weights(table: Tensor, psa_type: int, images: int, height: int, width: int) -> Tensor:
    """A view (B, h, w, h, w): first the position that is weighted, then that of the window."""
    table = table.view(images, height, width, height, width)
    return table if psa_type == _COLLECT else table.permute(0, 3, 4, 1, 2)


def _rows(size: int, window: int, half: int) -> Iterator[tuple[int, slice, slice]]:
    """Of each position: the positions that its window covers, and the window's part on the map."""
    for position in range(size):
        first, last = max(position - half, 0), min(position - half + window, size)
        yield position, slice(first, last), slice(first - position + half, last - position + half)
