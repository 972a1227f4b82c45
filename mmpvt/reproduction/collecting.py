"""What a report says of a model beyond its scores, gathered while ``tools/test.py`` tests it."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata

import torch
from mmengine.dist import collect_results, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

import mmpvt
from mmpvt.errors import UserError
from mmpvt.models.complexity import build_without_memory, count
from mmpvt.registry import HOOKS
from mmpvt.reproduction.detection import Detections
from mmpvt.reproduction.records import to_json
from mmpvt.reproduction.segmentation import LabelMaps
from mmpvt.utils.atomic import atomic_write

WARM_UP = 3  # batches that are not timed, where there are twice as many
PACKAGES = ("torch", "mmengine", "mmcv", "mmcv-lite", "mmdet", "mmsegmentation", "numpy")


@HOOKS.register_module()
class ReproductionHook(Hook):
    """Writes a JSON file of curves, pictures, speed and memory when a test is through.

    Args:
        out (str): the file.
        pictures (int): at most as many are in it. Default: 24.
        parent (int | None): the process that wants it; without that one, the test ends. Default:
            None.
    """

    priority = "LOWEST"  # after what leaves out images

    def __init__(self, out: str, pictures: int = 24, parent: int | None = None) -> None:
        self.out = out
        self.pictures = pictures
        self.parent = parent
        self.images: list[dict] = []
        self.memory: dict = {}

    def before_test(self, runner: Runner) -> None:
        """Starts to measure."""
        self.clock = Clock(runner.model.test_step)
        runner.model.test_step = self.clock
        kind = LabelMaps if runner.cfg.get("default_scope") == "mmseg" else Detections
        self.kind = kind(runner)
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: Sequence | None = None
    ) -> None:
        """Keeps what is needed of a batch's predictions.

        Raises:
            UserError: nobody waits for the result any more.
        """
        if self.parent is not None and os.getppid() != self.parent:
            raise UserError("the process that wanted this test is gone")
        self.images += [self.kind.keep(sample) for sample in outputs]
        if batch_idx + 1 == len(runner.test_dataloader):
            self.memory = _peak_memory()

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Brings all processes' predictions together, and writes the file."""
        del runner.model.test_step  # the instance's: the class's is back
        images = collect_results(self.images, len(runner.test_dataloader.dataset), "cpu")
        if not is_main_process():
            return
        parts = _count(runner)
        content = dict(
            metrics=metrics,
            images=len(images),
            left_out=sum(image["left_out"] for image in images),
            parameters=sum(p.numel() for p in runner.model.parameters()),
            gflops=parts and sum(part.macs for part in parts) / 1e9,
            images_per_second=self.clock.images_per_second,
            processes=get_world_size(),
            memory=self.memory,
            versions=versions(),
            **self.kind.summary(images, self.pictures),
        )
        atomic_write(self.out, to_json(content))


class Clock:
    """A model's ``test_step``, timed: from the batch as it was loaded to its predictions.

    Args:
        step (Callable): the model's.
    """

    def __init__(self, step: Callable) -> None:
        self.step = step
        self.laps: list[tuple[float, int]] = []

    def __call__(self, batch: dict) -> Sequence:
        """A batch's predictions."""
        _synchronize()
        start = time.perf_counter()
        outputs = self.step(batch)
        _synchronize()
        self.laps.append((time.perf_counter() - start, len(outputs)))
        return outputs

    @property
    def images_per_second(self) -> float | None:
        """Of one process; None where there was no image."""
        laps = self.laps[WARM_UP if len(self.laps) >= 2 * WARM_UP else 0 :]
        return sum(size for _, size in laps) / sum(lap for lap, _ in laps) if laps else None


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak_memory() -> dict:
    """Of this process: the GPU's, where there is one."""
    if torch.cuda.is_available():
        return dict(of="GPU", MiB=torch.cuda.max_memory_allocated() / 2**20)
    import resource  # Windows has none, and training imports this module

    unit = 1 if sys.platform == "darwin" else 2**10
    return dict(of="RAM", MiB=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)


def _count(runner: Runner) -> list | None:
    try:
        return count(build_without_memory(runner.cfg))
    except Exception as error:  # of whatever model: its scores stand
        runner.logger.warning(f"GFLOPs can't be counted: {error}")
        return None


def versions() -> dict[str, str]:
    """Of what a result depends on, by name."""
    found = dict(mmpvt=mmpvt.__version__, python=platform.python_version())
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        found["CUDA"] = torch.version.cuda
        found["device"] = torch.cuda.get_device_name()
    else:
        found["device"] = f"CPU ({platform.machine()}), threads: {torch.get_num_threads()}"
    return found
