"""Predicting in mixed precision: the network in float16 or bfloat16, heads hand on float32.

In bfloat16, whose numbers have eight binary digits, a box's side of 300 pixels would be off by one.
"""

from __future__ import annotations

from typing import Any

from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmpvt.errors import LaunchError


def check_amp(device: str, dtype: str) -> None:
    """Whether a device computes in that type of mixed precision.

    Raises:
        LaunchError: it doesn't.
    """
    if dtype == "float16" and device == "cpu":
        raise LaunchError("float16 is for GPUs", setting="amp", instead=("amp", "bfloat16"))


def decode_in_float32(model: nn.Module) -> None:
    """Has a model's heads hand on float32, whatever they compute in."""
    for part in model.modules():
        if isinstance(part, BaseDecodeHead):  # whose forward() is called past its hooks
            part.conv_seg.register_forward_hook(_to_float32_hook)
        elif hasattr(part, "predict_by_feat"):
            part.register_forward_hook(_to_float32_hook)


def _to_float32_hook(_: nn.Module, __: tuple, output: Any) -> Any:
    return _to_float32(output)


def _to_float32(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.float() if x.is_floating_point() else x
    if isinstance(x, list | tuple):
        return type(x)(map(_to_float32, x))
    return x
