"""Predictions as files, made as a model is evaluated: beside the truth, and as label maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mmpvt.datasets.loading import LoadImageFromFile
from mmpvt.datasets.pipelines import is_image_loader
from mmpvt.errors import UserError
from mmpvt.registry import HOOKS
from mmpvt.utils.outputs import CannotWriteError, Outputs, fitting
from mmpvt.utils.text import encodable, printable
from mmpvt.visualization.drawing import draw_sample, viewable
from mmpvt.visualization.saving import write_picture
from mmpvt.visualization.sheets import contact_sheet


@HOOKS.register_module()
class PicturesHook(Hook):
    """Writes a sheet of evenly spaced images, truth left and prediction right.

    After validation it is ``WORK_DIR/pictures/iter_N.jpg``, after a test
    ``WORK_DIR/pictures/test.jpg``.

    Args:
        count (int): images on the sheet. Default: 6.
        score_thr (float): predictions below this score are not drawn. Default: 0.4.
        show_dir (str | None): a folder for pictures of every image, each a file: a new or empty
            one, or an earlier run's. Default: None.
    """

    priority = "LOW"

    def __init__(self, count: int = 6, score_thr: float = 0.4, show_dir: str | None = None) -> None:
        self.count = count
        self.score_thr = score_thr
        self.show_dir = None if show_dir is None else Outputs(show_dir, "show_dir")
        self._names = Names()
        self._sheet: list[np.ndarray] = []

    def _after_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None, mode: str = "train"
    ) -> None:
        """Draws a batch's images that are among the sheet's, or all for ``show_dir``."""
        if mode == "train" or not is_main_process():
            return
        loader = getattr(runner, f"{mode}_dataloader")
        step = max(1, len(loader) // self.count)
        on_sheet = batch_idx % step == 0 and len(self._sheet) < self.count
        for i, sample in enumerate(outputs):
            if self.show_dir is None and not (on_sheet and i == 0):
                continue
            if "skipped" in sample.metainfo:
                continue  # there is no image to draw on
            path = sample.img_path if isinstance(sample.img_path, str) else sample.img_path[0]
            try:
                picture = self._pair(sample, loader.dataset)
                if on_sheet and i == 0:
                    self._sheet.append(picture)
                if self.show_dir is not None:
                    write_picture(self.show_dir, self._names.of(encodable(path)), picture)
            except (CannotWriteError, cv2.error, MemoryError) as error:
                reason = str(error) if isinstance(error, UserError) else "can't be drawn"
                runner.logger.warning(f"no picture of {printable(path)}: {reason}")

    def _after_epoch(self, runner: Runner, mode: str = "train") -> None:
        """Writes the sheet."""
        name = "test" if mode == "test" else f"iter_{runner.iter}"
        if self._sheet:
            try:
                out = Outputs(runner.work_dir, "work_dir")
                target = write_picture(out, f"pictures/{name}", contact_sheet(self._sheet))
                said = printable(target)
                runner.logger.info(f"pictures of predictions beside the truth: {said}")
            except UserError as error:
                runner.logger.warning(str(error))
        self._sheet = []

    def _pair(self, sample: BaseDataElement, dataset: Any) -> np.ndarray:
        """Truth left, prediction right: (height, 2 * width, 3), RGB, uint8."""
        image = viewable(_image_reader(dataset)(dict(img_path=sample.img_path))["img"])
        halves = (
            draw_sample(image, sample, dataset.metainfo, truth, self.score_thr)
            for truth in (True, False)
        )
        return np.concatenate(list(halves), axis=1)


@HOOKS.register_module()
class LabelMapsHook(Hook):
    """Writes a PNG file of each tested image's predicted labels.

    MMSegmentation's ``IoUMetric`` would too, but replaces whatever has the file's name: another
    image's label map, a user's file.

    Args:
        out (str): the folder.
    """

    def __init__(self, out: str) -> None:
        self.out = Outputs(out)
        self.names: dict[str, str] = {}

    def before_test_epoch(self, runner: Runner) -> None:
        """Names all images' files, so that the processes of a run don't take the same."""
        names, dataset = Names(), runner.test_dataloader.dataset
        paths = (dataset.get_data_info(i)["img_path"] for i in range(len(dataset)))
        self.names = {path: names.of(encodable(path)) for path in dict.fromkeys(paths)}

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: Sequence | None = None
    ) -> None:
        """Writes a batch's."""
        for sample in outputs or ():
            if "skipped" in sample.metainfo:
                continue  # there was no image
            labels = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
            if sample.get("reduce_zero_label"):
                labels = labels + 1  # in ADE20K's files 0 is no class
            labels = labels.astype(np.uint8 if labels.max() < 256 else np.uint16)
            try:
                write_picture(self.out, self.names[sample.img_path], labels, [".png"])
            except CannotWriteError as error:
                said = printable(sample.img_path)
                runner.logger.warning(f"no label map of {said}: {error}")


def _image_reader(dataset: Any) -> Callable[[dict], dict]:
    """The transform that a data set's images are loaded by, else one that gives three channels."""
    while not hasattr(dataset, "pipeline") and hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    while not hasattr(dataset, "pipeline") and getattr(dataset, "datasets", None):
        dataset = dataset.datasets[0]
    transforms = getattr(getattr(dataset, "pipeline", None), "transforms", ())
    loading = (t for t in transforms if is_image_loader(type(t).__name__))
    return next(loading, LoadImageFromFile())


class Names:
    """Names for results of images, by the images' own, no two alike."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def of(self, path: str) -> str:
        """An image's, without a suffix."""
        stem = Path(path).stem
        name, number = fitting(stem), 1
        while name.casefold() in self._taken:
            number += 1
            name = fitting(stem, f"_{number}")
        self._taken.add(name.casefold())
        return name
