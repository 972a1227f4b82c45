"""Settings that change how fast a run is, not what it computes (docs/performance.md)."""

from __future__ import annotations

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpvt.errors import UserError
from mmpvt.registry import HOOKS

AMP_DTYPES = ("float16", "bfloat16")
FUSED = ("Adam", "AdamW", "SGD")  # PyTorch's optimizers that have a fused kernel


def set_amp(config: Config, dtype: str) -> None:
    """Trains in mixed precision.

    Args:
        config (Config): changed.
        dtype (str): one of ``AMP_DTYPES``; the loss is scaled for float16, whose range is small.

    Raises:
        UserError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise UserError("--amp needs a CUDA GPU, and PyTorch sees none here: leave it out")
    loss_scale = "dynamic" if dtype == "float16" else 1.0
    config.optim_wrapper.update(type="AmpOptimWrapper", dtype=dtype, loss_scale=loss_scale)


def spare_amp_without_gpu(config: Config) -> None:
    """Trains a config that asks for mixed precision in float32 where there is no GPU for it."""
    wrapper = config.get("optim_wrapper") or {}
    if wrapper.get("type") == "AmpOptimWrapper" and not torch.cuda.is_available():
        print("no GPU here: training in float32, where the config asks for mixed precision")
        wrapper["type"] = "OptimWrapper"
        for key in ("loss_scale", "dtype", "use_fsdp"):
            wrapper.pop(key, None)


def fuse_optimizer(config: Config) -> None:
    """Updates all parameters in one kernel, where PyTorch has one and the config doesn't choose."""
    optimizer = (config.get("optim_wrapper") or {}).get("optimizer") or {}
    if optimizer.get("type") in FUSED and not {"fused", "foreach"} & set(optimizer):
        optimizer["fused"] = True


@HOOKS.register_module()
class CompileHook(Hook):
    """Compiles the model's backbone before training.

    Not the whole model, as MMEngine's own setting does: heads and losses are of another size with
    every image's boxes, and fail in PyTorch 2.13's compiler. A backbone is compiled anew for each
    of the first eight sizes of images, and runs as it is at any further one.
    """

    def before_train(self, runner: Runner) -> None:
        for name, module in list(runner.model.named_modules()):
            if name.rpartition(".")[2] == "backbone":
                module.compile(dynamic=False)
