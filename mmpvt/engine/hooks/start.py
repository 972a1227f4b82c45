"""The moment from which a run keeps what was written for it."""

from __future__ import annotations

from contextlib import ExitStack

from mmengine.hooks import Hook
from mmengine.runner import Runner


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
