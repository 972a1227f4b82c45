"""Mixed precision: the network in float16 or bfloat16, heads hand on float32.

In bfloat16, whose numbers have eight binary digits, a box's side of 300 pixels would be off by one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmdet.models.dense_heads import MaskFormerHead
from mmdet.models.roi_heads.mask_heads import FusedSemanticHead, MaskPointHead
from mmengine.runner.amp import autocast
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.decode_heads.knet_head import KernelUpdateHead
from torch import Tensor, nn

from mmpvt.engine.hooks.divergence import OptimWrapper
from mmpvt.engine.launch import is_first_process
from mmpvt.errors import LaunchError
from mmpvt.models.kernels import cpu_instructions
from mmpvt.registry import OPTIM_WRAPPERS

LAST_LAYERS = ("conv_seg", "fc_seg", "mask_norm")  # of MMSegmentation's heads
DECODING = ("predict_by_feat", "_get_predictions")  # methods of MMDetection's heads, mmpretrain's
OTHER_HEADS = (FusedSemanticHead, KernelUpdateHead, MaskFormerHead, MaskPointHead)
# names of PyTorch's for instructions on bfloat16: x86's, Arm's
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16")


def check_amp(device: str, dtype: str) -> None:
    """Whether a device computes in that type of mixed precision; warns of a CPU that is slow in it.

    Raises:
        LaunchError: it doesn't.
    """
    if device != "cpu":
        return
    if dtype == "float16":
        raise LaunchError("float16 is for GPUs", setting="amp", instead=("amp", "bfloat16"))
    instructions = cpu_instructions()
    lacks = instructions and not any(map(instructions.get, BFLOAT16_INSTRUCTIONS))
    if lacks and is_first_process():
        print(
            "warning: this processor has no instructions for bfloat16, so it is slower than "
            "float32 here",
            file=sys.stderr,
        )


@OPTIM_WRAPPERS.register_module()
class Bfloat16OptimWrapper(OptimWrapper):
    """Trains in bfloat16 by autocast, on a CPU too, which MMEngine's ``AmpOptimWrapper`` refuses.

    Weights, gradients and the optimizer's step are in float32, and so are losses. bfloat16 has
    float32's range, so the loss is not scaled.
    """

    _model: nn.Module | None = None

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Within it the model computes in bfloat16; its heads hand on float32."""
        if model is not self._model:
            decode_in_float32(model)
            self._model = model
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield


def decode_in_float32(model: nn.Module) -> None:
    """Has a model's heads hand on float32, whatever they compute in."""
    for part in model.modules():
        if isinstance(part, BaseDecodeHead):  # whose forward() is called past its hooks
            layers = [getattr(part, name) for name in LAST_LAYERS if hasattr(part, name)]
        elif any(hasattr(part, name) for name in DECODING) or isinstance(part, OTHER_HEADS):
            # a two-stage DETR's encoder calls the branches, too
            layers = [part, *getattr(part, "cls_branches", ()), *getattr(part, "reg_branches", ())]
        else:
            layers = []
        for layer in layers:
            layer.register_forward_hook(_to_float32_hook)


def _to_float32_hook(_: nn.Module, __: tuple, output: Any) -> Any:
    return _to_float32(output)


def _to_float32(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.float() if x.is_floating_point() else x
    if isinstance(x, dict):
        return {key: _to_float32(value) for key, value in x.items()}
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*map(_to_float32, x))
    if isinstance(x, list | tuple):
        return type(x)(map(_to_float32, x))
    return x
