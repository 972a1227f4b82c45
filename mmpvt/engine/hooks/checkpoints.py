"""Checkpoints: written so that a full disk ends no run, and refused where they can't fit."""

from __future__ import annotations

import gc
import os
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook as MMEngineCheckpointHook
from mmengine.hooks import Hook
from mmengine.hooks import LoggerHook as MMEngineLoggerHook
from mmengine.runner import Runner

from mmpvt.checkpoint.fitting import fill_partly, fit_to_model
from mmpvt.checkpoint.resume_check import KEPT, check_resumable
from mmpvt.checkpoint.saving import INTERRUPTED, POINTER, atomic_backend_args
from mmpvt.engine.class_names import compare_with_checkpoint, dataset_meta, stored_meta
from mmpvt.errors import OutputError
from mmpvt.registry import HOOKS
from mmpvt.utils.atomic import atomic_write, remove_parts
from mmpvt.utils.text import few


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """MMEngine's hook, which deletes the oldest checkpoint before it writes the newest.

    Here it is deleted afterwards. Where a checkpoint can't be written (a full disk), that is
    logged, the older ones stay, and training continues.

    Args:
        max_keep_ckpts (int): checkpoints kept, or -1 for all. Default: -1.
        **kwargs: of MMEngine's ``CheckpointHook``.
    """

    def __init__(self, max_keep_ckpts: int = -1, **kwargs) -> None:
        super().__init__(**kwargs)
        self.keep = max_keep_ckpts
        self._failure: OSError | None = None
        self._saved_iteration: int | None = None

    def before_train(self, runner: Runner) -> None:
        """Finds the folder, and clears the partial files of a killed run."""
        super().before_train(runner)
        is_default = not self.file_client_args and not self.backend_args
        if is_default and type(self.file_backend) is LocalBackend:  # no other package's
            self.backend_args: dict | None = atomic_backend_args()
        if is_main_process():
            remove_parts(self.out_dir)

    def after_train(self, runner: Runner) -> None:
        """Ends the run.

        Raises:
            OutputError: the last checkpoint couldn't be written.
        """
        if self._failure:
            raise OutputError(
                f"the run is over, but its last checkpoint could not be written to {self.out_dir} "
                f"({self._failure.strerror})",
                where=self.out_dir,
                hint="make room, then resume from the one before",
            )
        super().after_train(runner)

    def save_interrupted(self, runner: Runner, epoch: int, iteration: int) -> str | None:
        """Saves between two regular checkpoints, unless the run was just saved.

        Returns:
            str | None: the file to resume from, or None where it couldn't be written.
        """
        if self._saved_iteration != iteration:
            self._save(runner, INTERRUPTED, dict(epoch=epoch, iter=iteration), by_epoch=False)
        return None if self._failure else self.last_ckpt

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        kept = runner.message_hub.get_info(KEPT, [])
        steps = [*(old for old in kept if old != step), step]
        dropped = steps[: -self.keep] if self.keep > 0 else []
        if self.keep > 0:
            runner.message_hub.update_info(KEPT, steps[-self.keep :])
        self._save(runner, self.filename_tmpl.format(step), meta, self.by_epoch)
        if self._failure:
            runner.message_hub.update_info(KEPT, kept)
        elif is_main_process():
            for old in dropped:
                path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old))
                if self.file_backend.isfile(path):
                    self.file_backend.remove(path)

    def _save(self, runner: Runner, name: str, meta: dict, by_epoch: bool) -> None:
        path = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", path)
        iteration = meta["iter"]  # MMEngine adds to the dict
        try:
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            # The config's text is formatted through trees that refer to themselves: 2 MB that
            # Python's own collector would leave lying for a dozen checkpoints.
            gc.collect()
            if is_main_process():
                atomic_write(Path(runner.work_dir) / POINTER, os.fsencode(path))
        except OSError as error:
            self._failure = error
            runner.logger.error(
                f"{path} could not be written ({error.strerror}): training continues, and the "
                "older checkpoints stay"
            )
            return
        self._failure = None
        self._saved_iteration = iteration
        self.last_ckpt = path

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        try:
            super()._save_best_checkpoint(runner, metrics)
        except OSError as error:
            runner.logger.error(f"the best checkpoint could not be written ({error.strerror})")


@HOOKS.register_module()
class LoggerHook(MMEngineLoggerHook):
    """MMEngine's hook, which ends a run where the disk has no room for another line of scalars."""

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        """Logs an iteration."""
        self._try(runner, super().after_train_iter, *args, **kwargs)

    def after_val_epoch(self, runner: Runner, *args, **kwargs) -> None:
        """Logs a validation's scores."""
        self._try(runner, super().after_val_epoch, *args, **kwargs)

    def _try(self, runner: Runner, log, *args, **kwargs) -> None:
        try:
            log(runner, *args, **kwargs)
        except OSError as error:
            runner.logger.error(f"the scalars could not be written ({error.strerror})")


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Says before a run what MMEngine would only warn of: that a checkpoint is another model's.

    A checkpoint that holds a backbone alone fills the model's backbone.

    Args:
        strict (bool): refuse a checkpoint that doesn't fill the model exactly, as testing and
            resuming must; fine-tuning takes the tensors that fit. Default: True.
        resume (bool): refuse a checkpoint that a run can't go on from. Default: False.
    """

    def __init__(self, strict: bool = True, resume: bool = False) -> None:
        self.strict = strict
        self.resume = resume

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adapts ``checkpoint['state_dict']`` to the runner's model.

        Raises:
            UserError: in strict mode, naming the tensors that don't fit; on resuming, what else
                is missing; otherwise, where nothing fits. The checkpoint's classes are the data
                set's in another order.
        """
        tensors = fit_to_model(checkpoint, runner.model, self.strict)
        split = "train" if self.resume or not self.strict else "test"
        classes = dataset_meta(runner.cfg, split).get("classes", ())
        if self.resume:
            check_resumable(runner, checkpoint)
        if self.strict:
            said = compare_with_checkpoint(classes, checkpoint)
        else:
            tensors, said = fill_partly(runner.model, tensors)
            stored = list(stored_meta(checkpoint).get("classes", ()))
            if said is None and stored and stored != list(classes):
                said = (
                    f"the heads start from its classes ({few(stored)}), the data set has "
                    f"{few(classes)}"
                )
            said = said and f"{runner.cfg.load_from}: {said}"
        if said:
            runner.logger.warning(said)
        checkpoint["state_dict"] = tensors
