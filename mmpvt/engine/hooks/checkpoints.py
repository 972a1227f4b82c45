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
from mmpvt.checkpoint.resume_check import (
    KEPT,
    VALIDATED,
    changed_schedules,
    changed_settings,
    check_resumable,
    without_functions,
)
from mmpvt.checkpoint.saving import (
    INTERRUPTED,
    POINTER,
    atomic_backend_args,
    newest_checkpoint,
)
from mmpvt.engine.class_names import (
    class_differences,
    compare_with_checkpoint,
    compares_with_text,
    dataset_meta,
    stored_meta,
)
from mmpvt.engine.start_from import start
from mmpvt.errors import OutputError
from mmpvt.registry import HOOKS
from mmpvt.utils.atomic import atomic_write, remove_parts
from mmpvt.utils.text import few

MAIN_METRICS = ("segm_mAP", "bbox_mAP", "segm_AP", "bbox_AP", "mAP", "PQ", "mIoU", "mDice")


def main_metric(metrics: dict[str, float]) -> str | None:
    """The name of the score that tells which of two models is better; None where there is none.

    Of a model with masks it is theirs; of metrics not known here, the first that is better for
    being greater.
    """
    by_name = {key.rpartition("/")[2]: key for key in reversed(metrics)}
    known = [by_name[name] for name in MAIN_METRICS if name in by_name]
    parts = [part.lower() for part in MMEngineCheckpointHook._default_greater_keys]
    others = (key for key in metrics if any(part in key.lower() for part in parts))
    return next(iter(known), None) or next(others, None)


@HOOKS.register_module()
class CheckpointHook(MMEngineCheckpointHook):
    """MMEngine's hook, which deletes the oldest checkpoint before it writes the newest.

    Here it is deleted afterwards. Where a checkpoint can't be written (a full disk), that is
    logged, the older ones stay, and training continues.

    Args:
        max_keep_ckpts (int): checkpoints kept, or -1 for all. Default: -1.
        save_best (str | list[str] | None): names of metrics whose best checkpoints are kept, too;
            ``'main'`` for that of :func:`main_metric`. Default: None.
        rule (str | list[str] | None): MMEngine's, for the former. Default: None.
        **kwargs: of MMEngine's ``CheckpointHook``.
    """

    def __init__(
        self,
        max_keep_ckpts: int = -1,
        save_best: str | list[str] | None = None,
        rule: str | list[str] | None = None,
        **kwargs,
    ) -> None:
        by_main = save_best == "main"
        save_best, rule = ("auto", "greater") if by_main else (save_best, rule)
        super().__init__(save_best=save_best, rule=rule, **kwargs)
        self.by_main = by_main
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
        """Ends the run, with a checkpoint where it ends early.

        Raises:
            OutputError: the last checkpoint couldn't be written.
        """
        if getattr(runner.train_loop, "stop_training", False):
            self._save_validated(runner)
        if self._failure:
            older = newest_checkpoint(self.out_dir)
            hub = runner.message_hub
            names = [hub.get_info(key) for key in hub.runtime_info if key.startswith("best_ckpt")]
            best = few([Path(name).name for name in names if name])
            raise OutputError(
                f"the run is over, but its last checkpoint could not be written to {self.out_dir} "
                f"({self._failure.strerror}){f'; the best model is in {best}' if best else ''}",
                where=self.out_dir,
                hint=f"make room, then {f'resume from {older.name}' if older else 'train again'}",
            )
        super().after_train(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Leaves out what no checkpoint may hold."""
        schedules = checkpoint.get("param_schedulers", [])
        for states in schedules.values() if isinstance(schedules, dict) else [schedules]:
            states[:] = map(without_functions, states)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float]) -> None:
        """Notes that this iteration is validated, and saves the best checkpoint."""
        runner.message_hub.update_info(VALIDATED, runner.iter)
        super().after_val_epoch(runner, metrics)

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
        """MMEngine's deletes the former best before it writes the new one, fails on a validation
        that lacks the metric, and saves regular checkpoints between the interval's."""
        if not self.save_best:
            return
        if self.by_main or "auto" in self.key_indicators:
            name = main_metric(metrics) if self.by_main else next(iter(metrics))
            self._init_rule(self.rules, [name or "auto"])
        single, is_saved = len(self.key_indicators) == 1, False
        for name, rule in zip(self.key_indicators, self.rules, strict=True):
            score = metrics.get(name)
            if score is None:
                runner.logger.warning("this validation has no score to choose the best checkpoint")
            elif self._save_if_best(runner, name, score, rule, "" if single else f"_{name}"):
                is_saved = True
        if is_saved and self._saved_iteration == runner.iter:  # it doesn't know of the new best
            self._save_validated(runner)

    def _save_if_best(
        self, runner: Runner, name: str, score: float, rule: str, suffix: str
    ) -> bool:
        keys = f"best_score{suffix}", f"best_ckpt{suffix}"
        best = runner.message_hub.get_info(keys[0], self.init_value_map[rule])
        former = runner.message_hub.get_info(keys[1])
        if not self.is_better_than[name](score, best):
            return False
        file = self.filename_tmpl.format(runner.epoch if self.by_epoch else runner.iter)
        file = f"best_{name}_{file}".replace("/", "_")
        path = self.file_backend.join_path(self.out_dir, file)
        runner.message_hub.update_info(keys[0], float(score))
        runner.message_hub.update_info(keys[1], path)
        try:
            runner.save_checkpoint(
                self.out_dir,
                file,
                self.file_client_args,
                save_optimizer=False,
                save_param_scheduler=False,
                meta=dict(epoch=runner.epoch, iter=runner.iter),
                by_epoch=False,
                backend_args=self.backend_args,
            )
        except OSError as error:
            runner.logger.error(f"the best checkpoint could not be written ({error.strerror})")
            for key, value in zip(keys, (best, former), strict=True):
                runner.message_hub.update_info(key, value)
            return False
        runner.logger.info(f"the best checkpoint so far, {name} {score:.4f}, is saved to {file}")
        if former and former != path and is_main_process() and self.file_backend.isfile(former):
            self.file_backend.remove(former)
        if suffix:
            self.best_ckpt_path_dict[name] = path
        else:
            self.best_ckpt_path = path
        return True

    def _save_validated(self, runner: Runner) -> None:
        step = runner.epoch if self.by_epoch else runner.iter
        self._save_checkpoint_with_step(runner, step, dict(epoch=runner.epoch, iter=runner.iter))


def save_interrupted(runner: Runner, done: int) -> str | None:
    """Saves a run that ends between two regular checkpoints, after ``done`` iterations.

    Returns:
        str | None: the file to resume from; None where it couldn't be written, or the run saves
        none.
    """
    hooks = (hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    hook = next(hooks, None)
    return hook and hook.save_interrupted(runner, runner.epoch, done)


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

    A checkpoint that holds a backbone alone fills the model's backbone. Where the config has
    ``start_from``, rows of classes are taken by name (:mod:`mmpvt.engine.start_from`).

    Args:
        strict (bool): refuse a checkpoint that doesn't fill the model exactly, as testing and
            resuming must; fine-tuning takes the tensors that fit. Default: True.
        resume (bool): refuse a checkpoint that a run can't go on from. Default: False.
    """

    priority = "VERY_HIGH"  # before averaged weights are taken from the checkpoint

    def __init__(self, strict: bool = True, resume: bool = False) -> None:
        self.strict = strict
        self.resume = resume

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adapts ``checkpoint['state_dict']`` to the runner's model.

        Raises:
            UserError: in strict mode, naming the tensors that don't fit; on resuming, what else
                is missing; otherwise, where nothing fits. In strict mode, a class of the
                checkpoint's has another index in the data set.
        """
        if not self.strict and runner.cfg.get("start_from"):
            source = runner.cfg.load_from
            checkpoint["state_dict"], notes = start(runner.cfg, checkpoint, runner.model, source)
            for note in notes:
                runner.logger.info(note)
            return
        tensors = fit_to_model(checkpoint, runner.model, self.strict)
        split = "train" if self.resume or not self.strict else "test"
        classes = dataset_meta(runner.cfg, split).get("classes", ())
        if compares_with_text(runner.cfg.model):  # its labels are the data set's
            classes = ()
        if self.resume:
            check_resumable(runner, checkpoint)
            if changed := changed_schedules(runner, checkpoint):
                runner.logger.warning(
                    "learning rates go on as in the checkpoint's run: the config's schedules have "
                    f"another {few(changed)}"
                )
            if changed := changed_settings(runner, checkpoint):
                runner.logger.warning(
                    f"the optimizer goes on as in the checkpoint's run: {'; '.join(changed)}; to "
                    "train on with the config's, set its load_from to the checkpoint, and start a "
                    "run without resuming"
                )
        if self.strict:
            said = compare_with_checkpoint(classes, checkpoint)
        else:
            tensors, said = fill_partly(runner.model, tensors)
            stored = list(stored_meta(checkpoint).get("classes", ()))
            if said is None and stored and classes and stored != list(classes):
                said = f"the heads start from its classes: {class_differences(stored, classes)}"
            said = said and f"{runner.cfg.load_from}: {said}"
        if said:
            runner.logger.warning(said)
        checkpoint["state_dict"] = tensors
