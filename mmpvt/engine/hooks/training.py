"""What options of training add: compilation, averaged weights, an early end, validation's loss; and
keeping what a run's preparation wrote once training begins."""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce_dict, broadcast, get_rank
from mmengine.hooks import EMAHook as MMEngineEMAHook
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from mmpvt.checkpoint.fitting import unwrapped
from mmpvt.checkpoint.resume_check import EARLY_STOP
from mmpvt.datasets.samplers import fault_tolerant, flatten, seed_generators
from mmpvt.engine.hooks.checkpoints import main_metric
from mmpvt.errors import ConfigError, UserError
from mmpvt.registry import HOOKS
from mmpvt.utils.signals import delayed

START = (-math.inf, 0, -1)  # the best score, validations since, the iteration of the last


class StartHook(Hook):
    """Keeps, once the training begins, what would be put back where it can't.

    Args:
        undo (ExitStack): of :func:`~mmpvt.engine.preparation.prepare_training`.
    """

    def __init__(self, undo: ExitStack) -> None:
        self.undo = undo

    def before_train(self, runner: Runner) -> None:
        """All is checked by now, and the checkpoint is loaded."""
        self.undo.pop_all()


@HOOKS.register_module()
class CompileHook(Hook):
    """Compiles the model's backbone before training, for a GPU (docs/performance.md).

    Not the whole model, as MMEngine's own setting does: heads and losses are of another size with
    every image's boxes, and fail in PyTorch 2.13's compiler. A backbone is compiled anew for each
    of the first eight sizes of images, and runs as it is at any further one.
    """

    def before_train(self, runner: Runner) -> None:
        """Compiles every module named ``backbone``."""
        for name, module in list(runner.model.named_modules()):
            if name.rpartition(".")[2] == "backbone":
                module.compile(dynamic=False)


@HOOKS.register_module()
class EMAHook(MMEngineEMAHook):
    """MMEngine's hook, which mixes up the weights of a checkpoint saved during a validation.

    A checkpoint's ``state_dict`` holds the averages, its ``ema_state_dict`` the weights that are
    trained. While a validation runs (Ctrl-C may end it), the model itself holds the averages.

    Args:
        **kwargs: of MMEngine's ``EMAHook``.
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self._in_model = False

    def _swap_ema_parameters(self) -> None:
        with delayed():  # a signal's handler may save a checkpoint
            super()._swap_ema_parameters()
            self._in_model = not self._in_model

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adds the weights that are trained, and puts the averages in the model's place."""
        if self._in_model:
            checkpoint["ema_state_dict"] = self.ema_model.state_dict()
        else:
            super().before_save_checkpoint(runner, checkpoint)


@HOOKS.register_module()
class NormStatisticsHook(Hook):
    """Has all processes validate with the first one's BatchNorm statistics, as checkpoints hold
    them.

    Each process has those of its own images, and with them the score would be of no model that is
    saved. MMDetection 2 did the same, MMEngine doesn't.
    """

    priority = "LOW"  # after averaged weights are put in place

    def before_val_epoch(self, runner: Runner) -> None:
        """Sends them."""
        for module in runner.model.modules():
            if isinstance(module, _NormBase):
                for buffer in module.buffers(recurse=False):
                    broadcast(buffer)


@HOOKS.register_module()
class EarlyStoppingHook(Hook):
    """Ends training after validations in a row that didn't improve on the main metric.

    MMEngine's hook doesn't keep its count in checkpoints, takes an improvement of less than 0.1
    for none, and its loops then end without a checkpoint. The last is saved by
    :class:`~mmpvt.engine.hooks.checkpoints.CheckpointHook`.

    Args:
        patience (int): that many validations end the run.
    """

    priority = "LOW"  # before a checkpoint is saved

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def before_train(self, runner: Runner) -> None:
        """Ends a run that was resumed from where it had ended."""
        best, waited, _ = runner.message_hub.get_info(EARLY_STOP, START)
        self._stop_if_due(runner, best, waited)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Counts validations; one without a score, of a model that predicts nothing, too, but none
        of an evaluator that has no score to tell what is better."""
        name = main_metric(metrics or {})
        if unknown := [key for key in metrics or () if not (name or key.startswith("val/"))]:
            runner.logger.warning(
                f"training won't end early: none of {', '.join(unknown)} tells which model is "
                "better"
            )
            return
        score = float(metrics[name]) if metrics and name else -math.inf
        best, waited, last = runner.message_hub.get_info(EARLY_STOP, START)
        if last != runner.iter:  # else it ended a run while the checkpoint was being saved
            best, waited = (score, 0) if score > best else (best, waited + 1)
            runner.message_hub.update_info(EARLY_STOP, (best, waited, runner.iter))
        self._stop_if_due(runner, best, waited)

    def _stop_if_due(self, runner: Runner, best: float, waited: int) -> None:
        # after a resume with larger batches, more iterations may be done than a whole run has
        by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
        done, last = (
            (runner.epoch, runner.max_epochs) if by_epoch else (runner.iter, runner.max_iters)
        )
        if waited >= self.patience and done < last:
            runner.train_loop.stop_training = True
            said = f"the best score is {best:.4f}, and {waited} validations in a row were no better"
            if best == -math.inf:
                said = f"{waited} validations in a row had no score, as where nothing is predicted"
            runner.logger.info(f"training ends early, after iteration {runner.iter}: {said}")


@HOOKS.register_module()
class ValLossHook(Hook):
    """Adds the loss on the validation data to a validation's metrics, as ``val/loss``.

    MMEngine's validation loop logs what a model returns as losses from its predictions, which
    MMDetection's and MMSegmentation's don't. Here a copy of the model computes them on a data
    loader of its own, whose annotations follow the images through the transforms, and training
    isn't touched: generators, buffers, and what heads count are as before.

    Heads compute their losses as in training; normalisation, dropout and stochastic depth are those
    of evaluation. What heads draw at random is drawn alike at every validation.

    Args:
        dataloader (dict): config of the data loader.
    """

    priority = "HIGHEST"  # before the metrics are logged, and while averaged weights are in place

    def __init__(self, dataloader: dict) -> None:
        self.dataloader: Any = dataloader
        self.as_trained = False  # whether the backbone gives what it gives in training

    def before_train(self, runner: Runner) -> None:
        """Computes the losses of a batch.

        Raises:
            ConfigError: the model can't: it takes more than images and annotations, say.
        """
        loader = runner.build_dataloader(self.dataloader, runner.seed)
        self.dataloader = fault_tolerant(loader, evaluating=True)
        model: Any = unwrapped(runner.model)
        if hasattr(model, "set_epoch"):  # TOOD's, else told as an epoch begins
            model.set_epoch(runner.epoch)
        # DDRNet's backbone has maps for an auxiliary head in training alone
        for self.as_trained in (False, True):
            try:
                self._compute(runner, batches=1)
                return
            except UserError:
                raise
            except Exception as error:
                failure = error
        raise ConfigError(
            "this model's loss can't be computed on the validation data: "
            f"{type(failure).__name__}: {failure}",
            setting="val_loss",
            hint="leave it out",
        ) from failure

    def before_val_epoch(self, runner: Runner) -> None:
        """Drops the former losses, which MMEngine would log again for each batch."""
        scalars = runner.message_hub.log_scalars
        for name in [name for name in scalars if name.startswith("val/val/")]:
            del scalars[name]

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Adds the mean of each loss over the images."""
        losses = self._compute(runner)
        if not losses:
            runner.logger.warning("the validation data has no image to compute a loss on")
        if metrics is not None:
            metrics.update({f"val/{name}": value for name, value in losses.items()})

    def _compute(self, runner: Runner, batches: int | None = None) -> dict[str, float]:
        model = _loss_model(unwrapped(runner.model), self.as_trained)
        with _generators_kept(), torch.no_grad():
            return _mean_losses(model, itertools.islice(self.dataloader, batches))


def _loss_model(model: nn.Module, as_trained: bool) -> Any:
    """A copy that computes its losses as in training, from features as in evaluation; the
    backbone's own ``forward``, not that of its parts, may be told that it trains."""
    # CondInst's and YOLACT's heads keep maps of the last iteration, with the graph they are of
    kept = _tensors_within([vars(part) for part in model.modules()])
    graph_free = {id(tensor): tensor.detach() for tensor in kept if not tensor.is_leaf}
    model = copy.deepcopy(model, graph_free).train()
    for name, part in model.named_modules():
        is_random = isinstance(part, nn.MultiheadAttention) or "Drop" in type(part).__name__
        if is_random or isinstance(part, _NormBase) or name.rpartition(".")[2] == "backbone":
            part.eval()
            part.training = as_trained and name == "backbone"
    preprocessor: Any = model.data_preprocessor
    if getattr(preprocessor, "batch_augments", None) is not None:
        preprocessor.batch_augments = None
    return model


def _tensors_within(value: object) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors_within(item)


def _mean_losses(model: Any, loader: Iterable[dict]) -> dict[str, float]:
    """Each loss, over the images of all processes."""
    sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), dtype=torch.float64))
    images = torch.zeros((), dtype=torch.float64)
    for number, batch in enumerate(loader):
        seed_generators(0, get_rank(), number)
        data = model.data_preprocessor(batch, True)
        _, losses = model.parse_losses(model._run_forward(data, mode="loss"))
        samples = list(flatten(batch["data_samples"]))
        is_used = not any("skipped" in sample.metainfo for sample in samples)  # no placeholder
        images += len(samples) * is_used
        for name, loss in losses.items():
            if "loss" in name:  # which each process has to name, or they would wait for each other
                sums[name] += loss.double().cpu() * len(samples) if is_used else 0
    totals = {"images": images, **sums}
    all_reduce_dict(totals, "sum")
    count = totals.pop("images")
    return {name: float(total / count) for name, total in totals.items() if count}


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Python's, NumPy's and PyTorch's generators are afterwards as they were."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
