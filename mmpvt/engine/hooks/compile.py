"""Compilation of the backbone, for a GPU (docs/performance.md)."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpvt.registry import HOOKS


@HOOKS.register_module()
class CompileHook(Hook):
    """Compiles the model's backbone before training.

    Not the whole model, as MMEngine's own setting does: heads and losses are of another size with
    every image's boxes, and fail in PyTorch 2.13's compiler. A backbone is compiled anew for each
    of the first eight sizes of images, and runs as it is at any further one.
    """

    def before_train(self, runner: Runner) -> None:
        """Compiles every module named ``backbone``."""
        for name, module in list(runner.model.named_modules()):
            if name.rpartition(".")[2] == "backbone":
                module.compile(dynamic=False)
