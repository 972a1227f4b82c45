"""A whole model's checkpoint: adapted where its layout is known, refused where it can't fit."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpvt.checkpoint.fitting import fill_partly, fit_to_model
from mmpvt.checkpoint.resume_check import check_resumable
from mmpvt.engine.class_names import compare_with_checkpoint, dataset_meta, stored_meta
from mmpvt.engine.start_from import start
from mmpvt.registry import HOOKS
from mmpvt.utils.text import few


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
        if not self.strict and runner.cfg.get("start_from"):
            source = runner.cfg.load_from
            checkpoint["state_dict"], notes = start(runner.cfg, checkpoint, runner.model, source)
            for note in notes:
                runner.logger.info(note)
            return
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
