"""Training loops that resume from a checkpoint as if the run had never stopped, and a test loop in
mixed precision.

What is random about an iteration is derived from the run's seed and the iteration's number, what
is random about a sample from its place in the run (:mod:`mmpvt.datasets.samplers`). So a checkpoint
holds no generators' states, only the seed and how far the data was used: both are kept in
MMEngine's message hub, which every checkpoint carries.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner, TestLoop
from torch import nn
from torch.utils.data import DataLoader

from mmpvt.checkpoint.resume_check import POSITION, VALIDATED
from mmpvt.datasets.samplers import fault_tolerant, seed_generators
from mmpvt.engine.checks.classes import check_class_counts
from mmpvt.engine.hooks.checkpoints import save_interrupted
from mmpvt.engine.mixed_precision import decode_in_float32
from mmpvt.errors import ConfigError
from mmpvt.registry import LOOPS
from mmpvt.utils.text import counted


class ResumableLoop(BaseLoop):
    """What the two loops share: a fault-tolerant data loader, and where in the data the run is.

    Args:
        runner (Runner): the runner.
        dataloader (DataLoader | dict): with a
            :class:`~mmpvt.datasets.samplers.ResumableBatchSampler`, endless for :class:`IterLoop`.
        **kwargs: of MMEngine's loop.

    Raises:
        ConfigError: there are fewer images than a batch has, and it would be dropped; or a head is
            for another number of classes.
    """

    def __init__(self, runner: Runner, dataloader: DataLoader | dict, *args, **kwargs) -> None:
        loader: Any = dataloader  # whose batch sampler is one of ours
        if isinstance(loader, dict):
            by_rank = runner._randomness_cfg.get("diff_rank_seed", False)
            loader = runner.build_dataloader(loader, runner.seed, by_rank)
        if not len(loader.dataset):
            raise ConfigError("the training's data set has no image that isn't filtered out")
        if not len(loader):
            raise ConfigError(
                f"the {len(loader.dataset)} training images make no batch of "
                f"{loader.batch_sampler.batch_size}",
                hint="set a smaller train_dataloader.batch_size, or leave out drop_last",
            )
        # of data sets whose files alone name classes, such as OpenImages'
        metainfo = getattr(loader.dataset, "metainfo", None)
        if isinstance(metainfo, dict):  # of joined data sets that differ it is a list
            check_class_counts(metainfo.get("classes") or (), runner.cfg.get("model") or {})
        loader = fault_tolerant(loader, on_bad_data=loader.batch_sampler.on_bad_data)
        super().__init__(runner, loader, *args, **kwargs)

    def _batches_done(self, otherwise: int) -> int:
        """Batches of this epoch that a checkpoint says the run has had, else ``otherwise``.

        On another number of processes a run skips as many samples.
        """
        self._began = self.runner.iter
        position = self.runner.message_hub.get_info(POSITION)
        if position is None:
            return otherwise
        self.dataloader.batch_sampler.seed = position["seed"]
        images, before = len(self.dataloader.dataset), position.get("images")
        if before not in (None, images):  # of an earlier version
            self.runner.logger.warning(
                f"the training's data set has {counted(images, 'image')}, and had {before} when "
                "the checkpoint was saved: where images are split anew, scores may be of some that "
                "were trained on"
            )
        return position["samples"] // self._samples(1)

    def _batches(self) -> Iterator[Any]:
        """What the data loader gives; where that fails, as when a disk is gone, the run is saved
        first, unless it has just begun or other processes would have to take part."""
        try:
            yield from self.dataloader
        except Exception:
            done = self.runner.iter
            if done > self._began and get_world_size() == 1:
                saved = save_interrupted(self.runner, done)
                if saved:
                    self.runner.logger.error(
                        f"no more data can be loaded: iteration {done} is saved in {saved}"
                    )
            raise

    def _store_position(self, batches: int) -> None:
        """Keeps, for checkpoints, how many of this epoch's batches will be done."""
        position = dict(
            seed=self.dataloader.batch_sampler.seed,
            samples=self._samples(batches),
            images=len(self.dataloader.dataset),
        )
        self.runner.message_hub.update_info(POSITION, position)

    def _samples(self, batches: int) -> int:
        return batches * self.dataloader.batch_sampler.batch_size * get_world_size()

    def _validate_missed(self) -> None:
        """Validates where a run was resumed from a checkpoint saved before a validation."""
        hub = self.runner.message_hub
        validated = hub.get_info(VALIDATED)
        if validated is None:  # a new run, or a checkpoint of an earlier version
            hub.update_info(VALIDATED, self._iter)
        elif validated != self._iter:
            self._validate_if_due()

    def _validate_if_due(self) -> None:
        self._decide_current_val_interval()
        by_epoch = isinstance(self, EpochBasedTrainLoop)
        done, last = (self._epoch, self._max_epochs) if by_epoch else (self._iter, self._max_iters)
        due = done % self.val_interval == 0 or done == last
        if self.runner.val_loop is not None and done >= self.val_begin and due:
            self.runner.val_loop.run()

    def _end_workers(self) -> None:
        """Once Python collects the loaders, it is too late to tell their workers, and PyTorch waits
        five seconds for each: in the test that follows, for a report."""
        self.dataloader_iterator: Any = None
        for loop in (self, self.runner.val_loop):
            if loop is not None:
                loop.dataloader._iterator = None

    def _seed_iteration(self) -> None:
        seed_generators(self.dataloader.batch_sampler.seed, get_rank(), self._iter)


@LOOPS.register_module()
class EpochLoop(ResumableLoop, EpochBasedTrainLoop):
    """MMEngine's epoch-based loop, resumed at the right sample."""

    def run(self) -> nn.Module:
        """Trains."""
        self.runner.call_hook("before_train")
        self._done = self._batches_done(otherwise=0)
        self._count_iterations()
        if not self._done:
            self._validate_missed()
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._validate_if_due()
        self._end_workers()
        self.runner.call_hook("after_train")
        return self.runner.model

    def _count_iterations(self) -> None:
        """Where a run is resumed with other data or batches, its last iteration is another than
        MMEngine counts: the last one of accumulated gradients, too."""
        length = len(self.dataloader)
        left = (self._max_epochs - self._epoch) * length - min(self._done, length)
        last = self._iter + max(left, 0)
        if last != self.max_iters:
            self._max_iters = last
            runner = self.runner
            runner.optim_wrapper.initialize_count_status(runner.model, self._iter, last)

    def run_epoch(self) -> None:
        """Trains for what is left of an epoch."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        self.dataloader.batch_sampler.start_at(self._epoch, self._done)
        for idx, data_batch in enumerate(self._batches(), self._done):
            self._store_position(idx + 1)
            self._seed_iteration()
            self.run_iter(idx, data_batch)
        self._done = 0
        self._store_position(0)
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1


@LOOPS.register_module()
class IterLoop(ResumableLoop, IterBasedTrainLoop):
    """MMEngine's iteration-based loop, resumed without loading the samples it has had."""

    def run(self) -> nn.Module:
        """Trains."""
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        done = self._batches_done(otherwise=self._iter)
        self.dataloader.batch_sampler.start_at(0, done)
        self.dataloader_iterator = self._batches()
        self._validate_missed()
        while self._iter < self._max_iters and not self.stop_training:
            self.runner.model.train()
            data_batch = next(self.dataloader_iterator)
            done += 1
            self._store_position(done)
            self._seed_iteration()
            self.run_iter(data_batch)
            self._validate_if_due()
        self.runner.call_hook("after_train_epoch")
        self._end_workers()
        self.runner.call_hook("after_train")
        return self.runner.model


@LOOPS.register_module()
class AmpTestLoop(TestLoop):
    """MMEngine's test loop in mixed precision of a data type: its own ``fp16`` has one a device.

    Args:
        *args: of MMEngine's loop.
        dtype (str): ``'float16'`` or ``'bfloat16'``.
        **kwargs: of MMEngine's loop.
    """

    def __init__(self, *args, dtype: str, **kwargs) -> None:
        super().__init__(*args, **kwargs, fp16=True)
        device = next(self.runner.model.parameters()).device.type
        self._autocast = torch.autocast(device, getattr(torch, dtype))
        decode_in_float32(self.runner.model)

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Predicts on a batch."""
        with self._autocast:
            super().run_iter(idx, data_batch)
