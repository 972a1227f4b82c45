"""The precision that operators compute in."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32, or itself where it is that or float64."""
    return x if x.dtype == torch.float64 else x.float()
