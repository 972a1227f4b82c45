"""Ctrl-C, SIGTERM and SIGHUP: the run is saved, and ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpvt.engine.hooks.checkpoints import save_interrupted
from mmpvt.errors import Interrupted
from mmpvt.registry import HOOKS
from mmpvt.utils.signals import handle, stop_signals
from mmpvt.utils.text import printable

DIRECT = (signal.SIGINT, signal.SIGTERM)  # a second one is meant
ALARM = getattr(signal, "SIGALRM", None)  # Windows has none
AGAIN = 0.01  # seconds after which a dropped exception is raised again


@HOOKS.register_module()
class InterruptHook(Hook):
    """Ends a run on Ctrl-C, SIGTERM or SIGHUP, whatever Python was doing at that moment.

    Training ends after the iteration, once it is saved; a validation whose metrics are being
    computed, and a test, at once; a second signal ends any at once, with the processes that it has
    started. An exception alone would not do: Python drops one that arrives within a destructor or
    a callback ("Exception ignored in …"), and the run would continue.

    Args:
        follows (bool): whether this run goes on where another of the process has ended: a signal
            that came in between ends it. Default: False.
    """

    priority = "LOWEST"  # after the schedules have moved on and a regular checkpoint is written

    def __init__(self, follows: bool = False) -> None:
        self.follows = follows
        self.asked = 0
        self.training = False
        self.computing: Runner | None = None  # a validation's metrics: of whichever length

    def before_run(self, runner: Runner) -> None:
        """Handles signals from here on."""
        if self.follows:
            raise_if_asked()
        for number in stop_signals():
            handle(number, self._note)
        self._report, sys.unraisablehook = sys.unraisablehook, self._on_dropped

    def before_train(self, runner: Runner) -> None:
        """From here on there is something to save."""
        self.training = True

    def after_train(self, runner: Runner) -> None:
        """It is saved."""
        self.training = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked and number not in DIRECT:  # the kernel and a shell each send a SIGHUP
            return
        before, self.asked = self.asked, number
        stop = Interrupted(number)
        # whatever is running may catch an exception, as MMEngine does around a config
        if before in DIRECT:
            with suppress(OSError):  # the terminal is closed
                os.write(sys.stderr.fileno(), f"{printable(stop)}\n".encode())
            with suppress(Exception):  # the interrupted code may be starting one
                for process in multiprocessing.active_children():
                    process.kill()
            os._exit(stop.code)
        if not self.training:
            raise stop
        if self.computing and is_main_process():  # the others wait for its scores
            runner = self.computing
            raise Interrupted(number, runner.iter, save_interrupted(runner, runner.iter))

    def _on_dropped(self, dropped: Any) -> None:
        """Python dropped an exception, as where a metric was starting a process: without another,
        the metrics would be computed to their end."""
        if self.computing and isinstance(dropped.exc_value, Interrupted) and ALARM:
            stop = dropped.exc_value
            signal.signal(ALARM, lambda *_: _raise(stop))
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
        else:
            self._report(dropped)

    def _after_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: object = None,
        outputs: Sequence | dict | None = None,
        mode: str = "train",
    ) -> None:
        """Saves, and ends the run, if asked.

        Raises:
            Interrupted: a signal came, to this process or another of the run's.
        """
        if self.training and mode == "val" and batch_idx + 1 == len(runner.val_dataloader):
            self.computing = runner
        number = self._asked_of_any() if self.training else self.asked
        if not number:
            return
        if not self.training:
            raise Interrupted(number)
        done = runner.iter + (mode == "train")  # MMEngine counts an iteration after its hooks
        raise Interrupted(number, done, save_interrupted(runner, done))

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """The metrics are computed."""
        self.computing = None

    def _asked_of_any(self) -> int:
        """The processes have to stop after the same iteration, or one would wait for the other."""
        if get_world_size() == 1:
            return self.asked
        number = torch.tensor(self.asked)
        all_reduce(number, "max")
        return int(number)


def _raise(error: BaseException) -> None:
    raise error


def raise_if_asked() -> None:
    """Ends what follows a run in its process, where Python dropped the exception of a signal.

    Raises:
        Interrupted: a signal came after the training, or in the test.
    """
    for number in stop_signals():
        hook = getattr(signal.getsignal(number), "__self__", None)
        if isinstance(hook, InterruptHook) and hook.asked and not hook.training:
            asked, hook.asked = hook.asked, 0
            raise Interrupted(asked)
