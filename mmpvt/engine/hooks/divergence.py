"""A loss or gradient that is NaN or Inf is noticed before it reaches the weights."""

from __future__ import annotations

import itertools
import math

import torch
from mmengine.dist import all_gather_object, all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper as MMEngineAmpOptimWrapper
from mmengine.optim import OptimWrapper as MMEngineOptimWrapper
from mmengine.runner import Runner
from torch import nn

from mmpvt.datasets.samplers import flatten
from mmpvt.errors import UserError
from mmpvt.registry import HOOKS, OPTIM_WRAPPERS
from mmpvt.utils.text import printable

MAX_SKIPPED = 20  # steps in a row: the weights are at fault then, not a batch
NAMED = 5  # gradients in the log


class GuardedSteps(MMEngineOptimWrapper):
    """Asks a :class:`DivergenceHook`, where there is one, before each step of the optimizer."""

    guard: DivergenceHook | None = None

    def update_params(self, loss: torch.Tensor, *args, **kwargs) -> None:
        """Backward pass and, unless gradients are accumulated further, the step."""
        if self.guard is not None:
            self.guard.check_loss(loss)
        super().update_params(loss, *args, **kwargs)

    def step(self, **kwargs) -> None:
        """Steps if the loss and the gradients are finite."""
        if self.guard is None or self.guard.allows_step():
            super().step(**kwargs)


@OPTIM_WRAPPERS.register_module()
class OptimWrapper(GuardedSteps):
    """MMEngine's, with guarded steps."""


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(GuardedSteps, MMEngineAmpOptimWrapper):
    """MMEngine's, with guarded steps."""


@HOOKS.register_module()
class DivergenceHook(Hook):
    """Skips steps whose loss or gradients are NaN or infinite, or ends the run.

    The images, the iteration and the largest gradients are logged. The weights, and the last
    checkpoint, are good. In mixed precision an infinite gradient is left to the loss scaler, which
    expects some. The config's optimizer wrapper has to be ``mmpvt.OptimWrapper``,
    ``mmpvt.AmpOptimWrapper`` or ``mmpvt.Bfloat16OptimWrapper``.

    Args:
        on_nan (str): ``'stop'`` ends the run, ``'skip'`` skips the step; after 20 in a row the run
            ends all the same. Default: ``'stop'``.
    """

    def __init__(self, on_nan: str = "stop") -> None:
        self.on_nan = on_nan
        self.skipped = 0
        self._in_a_row = 0
        self._images: list[str] = []
        self._finite = True
        self._buffers: dict[str, torch.Tensor] = {}

    def before_train(self, runner: Runner) -> None:
        """Guards the runner's optimizer wrapper."""
        self._runner = runner
        if isinstance(runner.optim_wrapper, GuardedSteps):
            runner.optim_wrapper.guard = self
        else:
            kind = type(runner.optim_wrapper).__name__
            runner.logger.warning(f"steps of {kind} are not checked for NaN and Inf")

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Remembers the batch's images, and the buffers, which a forward pass changes."""
        samples = flatten((data_batch or {}).get("data_samples"))
        self._images += [sample.metainfo.get("img_path", "?") for sample in samples]
        if self.on_nan == "skip" and not self._buffers:
            self._buffers = {name: b.clone() for name, b in runner.model.named_buffers()}

    def check_loss(self, loss: torch.Tensor) -> None:
        """Notes whether a loss, one of several where gradients are accumulated, is finite."""
        self._finite = self._finite and bool(torch.isfinite(loss.detach()).all())

    def allows_step(self) -> bool:
        """Whether all losses and gradients since the last step are finite.

        Raises:
            UserError: they are not, and the run is to stop then, or 20 steps in a row were skipped.
        """
        allowed = self._is_finite()
        if allowed:
            self._in_a_row = 0
        else:
            self._react(self._runner)
        self._images, self._finite, self._buffers = [], True, {}
        return allowed

    def _is_finite(self) -> bool:
        """In this process and all others, as they must take the same steps."""
        wrapper, finite = self._runner.optim_wrapper, self._finite
        if finite and not isinstance(wrapper, MMEngineAmpOptimWrapper):
            parameters = (p for group in wrapper.param_groups for p in group["params"])
            norms = [p.grad.norm() for p in parameters if p.grad is not None]
            finite = not norms or bool(torch.stack(norms).isfinite().all())
        if get_world_size() == 1:
            return finite
        flag = torch.tensor(int(finite))
        all_reduce(flag, "min")
        return bool(flag)

    def _react(self, runner: Runner) -> None:
        self.skipped += 1
        self._in_a_row += 1
        # a loss that isn't finite in one process makes the gradients of all others so, too
        of_all = all_gather_object((self._finite, self._images))
        at_fault = [images for finite, images in of_all if not finite]
        what = "the loss" if at_fault else "a gradient"
        where = f"{what} is not finite at iteration {runner.iter + 1}"
        named = at_fault or [images for _, images in of_all]
        images = printable(", ".join(itertools.chain.from_iterable(named)))
        runner.logger.error(
            f"{where}, images {images}; largest gradients: {_largest(runner.model)}"
        )
        if self.on_nan == "stop" or self._in_a_row == MAX_SKIPPED:
            raise UserError(
                f"{where} (images {images}), and the weights are as before it",
                hint="resume with gradient clipping, start from the last checkpoint's weights (the "
                "config's load_from) with a lower learning rate, fix the images",
                instead=("on_nan", "skip"),
            )
        for name, buffer in runner.model.named_buffers():
            buffer.copy_(self._buffers[name])
        runner.logger.warning(f"that step is skipped, {self.skipped} so far in this run")


def _largest(model: nn.Module) -> str:
    norms = {
        name: float(parameter.grad.norm())
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    first = sorted(norms, key=lambda name: (math.isfinite(norms[name]), -norms[name]))[:NAMED]
    return ", ".join(f"{name} {norms[name]:.3g}" for name in first)
