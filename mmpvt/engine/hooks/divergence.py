"""A loss or gradient that is no number is noticed before it reaches the weights."""

from __future__ import annotations

import math

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.runner import Runner
from torch import nn

from mmpvt.errors import UserError
from mmpvt.registry import HOOKS
from mmpvt.utils.text import printable

REACTIONS = ("stop", "skip")
PATIENCE = 20  # steps left out one after the other: the weights are at fault then, not a batch
NAMED = 5  # gradients named


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Watches every step of the optimizer.

    Where the loss or a gradient is NaN or infinite, the images, the iteration and the largest
    gradients are logged, and the step is not taken: the weights, and the last checkpoint, are
    good. In mixed precision an infinite gradient is left to the loss scaler, which expects some.

    Args:
        on_nan (str): ``'stop'`` ends the run, ``'skip'`` goes on with the next batch; after 20 in
            a row the run ends all the same. Default: ``'stop'``.
    """

    def __init__(self, on_nan: str = "stop") -> None:
        self.on_nan = on_nan
        self.skipped = 0
        self._in_a_row = 0
        self._images: list[str] = []
        self._finite = True
        self._buffers: dict[str, torch.Tensor] = {}

    def before_train(self, runner: Runner) -> None:
        """Puts itself between the backward pass and the optimizer's step."""
        if isinstance(runner.optim_wrapper, OptimWrapper):
            self._watch(runner, runner.optim_wrapper)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Remembers what is about to be trained on, and what a forward pass changes."""
        samples = (data_batch or {}).get("data_samples", ())
        self._images += [sample.metainfo.get("img_path", "?") for sample in samples]
        if self.on_nan == "skip" and not self._buffers:
            self._buffers = {name: b.clone() for name, b in runner.model.named_buffers()}

    def _watch(self, runner: Runner, wrapper: OptimWrapper) -> None:
        update_params, step = wrapper.update_params, wrapper.step

        def watched_update(loss: torch.Tensor, *args, **kwargs) -> None:
            self._finite = self._finite and bool(torch.isfinite(loss.detach()).all())
            update_params(loss, *args, **kwargs)

        def watched_step(**kwargs) -> None:
            if self._is_sound(wrapper):
                step(**kwargs)
                self._in_a_row = 0
            else:
                self._react(runner)
            self._images, self._finite, self._buffers = [], True, {}

        wrapper.update_params, wrapper.step = watched_update, watched_step

    def _is_sound(self, wrapper: OptimWrapper) -> bool:
        """Of this process and, as they must take the same steps, of all the others."""
        sound = self._finite
        if sound and not isinstance(wrapper, AmpOptimWrapper):
            parameters = (p for group in wrapper.param_groups for p in group["params"])
            norms = [p.grad.norm() for p in parameters if p.grad is not None]
            sound = not norms or bool(torch.stack(norms).isfinite().all())
        if get_world_size() == 1:
            return sound
        flag = torch.tensor(int(sound))
        all_reduce(flag, "min")
        return bool(flag)

    def _react(self, runner: Runner) -> None:
        self.skipped += 1
        self._in_a_row += 1
        what = "a gradient" if self._finite else "the loss"
        where = f"{what} is not finite at iteration {runner.iter + 1}"
        images = printable(", ".join(self._images))
        runner.logger.error(
            f"{where}, images {images}; largest gradients: {_largest(runner.model)}"
        )
        if self.on_nan == "stop" or self._in_a_row == PATIENCE:
            raise UserError(
                f"{where} (images {images}), and the weights are as before it: --resume with a "
                "lower learning rate or gradient clipping, mend the images, or pass --on-nan skip"
            )
        for name, buffer in runner.model.named_buffers():
            buffer.copy_(self._buffers[name])
        runner.logger.warning(f"that step is left out, {self.skipped} so far in this run")


def _largest(model: nn.Module) -> str:
    norms = {
        name: float(parameter.grad.norm())
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    first = sorted(norms, key=lambda name: (math.isfinite(norms[name]), -norms[name]))[:NAMED]
    return ", ".join(f"{name} {norms[name]:.3g}" for name in first)
