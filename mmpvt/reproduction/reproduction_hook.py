"""Writes what a report says of a model, beside its scores, while ``tools/test.py`` tests it."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import torch
from mmengine.dist import collect_results, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmpvt.errors import LaunchError
from mmpvt.models.complexity import build_without_memory, count
from mmpvt.registry import HOOKS
from mmpvt.reproduction.classification_collector import ClassificationCollector
from mmpvt.reproduction.detection_collector import DetectionCollector
from mmpvt.reproduction.result_store import to_json
from mmpvt.reproduction.segmentation_collector import SegmentationCollector
from mmpvt.utils.atomic import atomic_write
from mmpvt.version import __version__

WARM_UP = 3  # batches that are not timed, of at least twice as many
PROGRESS_INTERVAL = 5.0  # seconds
PACKAGES = (
    *("torch", "mmengine", "mmcv", "mmcv-lite", "mmdet", "mmsegmentation", "mmpretrain", "numpy"),
)


@HOOKS.register_module()
class ReproductionHook(Hook):
    """Collects the metrics, curves, gallery, speed and memory of a test, and writes them as JSON.

    A config that needs it imports it: ``custom_imports=dict(imports=[…])`` with this module.

    Args:
        out (str | None): the file. Default: None; ``content`` holds it after the test.
        progress (str | None): a file that says how far the test is: ``batch``, ``batches``,
            ``eta``. Default: None.
        max_images (int): of the gallery. Default: 24.
        parent (int | None): id of the process that reads the file; the test ends without it.
            Default: None.
        details (bool): whether to find out what the model confuses, and how the score's threshold
            counts. Default: False.
    """

    priority = "LOWEST"  # the last before the model runs, and after what skips images

    def __init__(
        self,
        out: str | None = None,
        progress: str | None = None,
        max_images: int = 24,
        parent: int | None = None,
        details: bool = False,
    ) -> None:
        self.out, self.progress = out, progress
        self.max_images = max_images
        self.parent = parent
        self.details = details
        self.content: dict = {}
        self.images: list[dict] = []
        self.batches: list[tuple[float, int]] = []  # seconds, and images
        self.memory: dict = {}

    def before_test(self, runner: Runner) -> None:
        """Starts to measure."""
        collectors = dict(mmseg=SegmentationCollector, mmpretrain=ClassificationCollector)
        collector: Any = collectors.get(runner.cfg.get("default_scope"), DetectionCollector)
        self.collector = collector(runner, self.details)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self.timer = model.register_forward_hook(self._stop_timer)
        self.began = self.said = time.monotonic()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def before_test_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        """Starts the timer, with the batch loaded."""
        _synchronize()
        self.start = time.perf_counter()

    def _stop_timer(self, model: nn.Module, inputs: tuple, outputs: Sequence) -> None:
        _synchronize()
        self.batches.append((time.perf_counter() - self.start, len(outputs)))

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: Sequence | None = None
    ) -> None:
        """Keeps what is needed of a batch's predictions.

        Raises:
            LaunchError: nobody waits for the result any more.
        """
        if self.parent is not None and os.getppid() != self.parent:
            raise LaunchError("the process that wanted this test is gone")
        self.images += [self.collector.collect(sample) for sample in outputs or ()]
        now, done, total = time.monotonic(), batch_idx + 1, len(runner.test_dataloader)
        if done == total:
            self.memory = _peak_memory()
        if self.progress and is_main_process() and now - self.said > PROGRESS_INTERVAL:
            self.said = now
            eta = (now - self.began) / done * (total - done)
            atomic_write(self.progress, to_json(dict(batch=done, batches=total, eta=round(eta))))

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Brings all processes' predictions together, and writes the file."""
        self.timer.remove()
        images = collect_results(self.images, len(runner.test_dataloader.dataset), "cpu")
        if not is_main_process():
            return
        timed = self.batches[WARM_UP if len(self.batches) >= 2 * WARM_UP else 0 :]
        seconds = sum(lap for lap, _ in timed)
        parts = _count(runner)
        self.content = dict(
            metrics=metrics,
            images=len(images),
            skipped=sum(image["skipped"] for image in images),
            parameters=sum(p.numel() for p in runner.model.parameters()),
            gflops=parts and sum(part.macs for part in parts) / 1e9,
            images_per_second=sum(size for _, size in timed) / seconds if timed else None,
            processes=get_world_size(),
            memory=self.memory,
            versions=versions(),
            **self.collector.summarize(images, self.max_images),
        )
        if self.out:
            atomic_write(self.out, to_json(self.content))


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak_memory() -> dict:
    """Of this process: the GPU's, where there is one."""
    if torch.cuda.is_available():
        return dict(of="GPU", MiB=torch.cuda.max_memory_allocated() / 2**20)
    try:
        import resource
    except ImportError:  # Windows
        return dict(of="not measured")
    unit = 1 if sys.platform == "darwin" else 2**10
    return dict(of="RAM", MiB=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20)


def _count(runner: Runner) -> list | None:
    try:
        return count(build_without_memory(runner.cfg))
    except Exception as error:  # of any model: its scores are valid nevertheless
        runner.logger.warning(f"GFLOPs can't be counted: {error}")
        return None


def versions() -> dict[str, str]:
    """Of what a result depends on, by name."""
    found = dict(mmpvt=__version__, python=platform.python_version())
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        found["CUDA"] = torch.version.cuda or f"ROCm {torch.version.hip}"
        found["device"] = torch.cuda.get_device_name()
    else:
        found["device"] = f"CPU ({platform.machine()}), threads: {torch.get_num_threads()}"
    return found
