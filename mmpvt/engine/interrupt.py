"""Ctrl-C ends a run, whatever Python was doing at that moment."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import FrameType

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpvt.registry import HOOKS


@HOOKS.register_module()
class InterruptHook(Hook):
    """Raises ``KeyboardInterrupt`` again after the iteration, if it was lost.

    Python drops one that arrives within a destructor or a callback ("Exception ignored in …"),
    and the run would go on.
    """

    def __init__(self) -> None:
        self.asked = False

    def before_run(self, runner: Runner) -> None:
        """Takes note of Ctrl-C from here on."""
        signal.signal(signal.SIGINT, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        raise KeyboardInterrupt

    def _after_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: object = None,
        outputs: Sequence | dict | None = None,
        mode: str = "train",
    ) -> None:
        """Raises what was lost."""
        if self.asked:
            raise KeyboardInterrupt
