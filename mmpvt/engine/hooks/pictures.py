"""Pictures of predictions beside the truth, made as a model is evaluated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch.utils.data import Dataset

from mmpvt.datasets.loading import LoadImageFromFile
from mmpvt.datasets.pipelines import is_image_loader
from mmpvt.errors import UserError
from mmpvt.inference.results import write_picture
from mmpvt.registry import HOOKS
from mmpvt.utils.outputs import CannotWriteError, Outputs, fitting
from mmpvt.utils.text import encodable, printable
from mmpvt.visualization.drawing import draw_sample, viewable

CELL = (420, 1120)  # pixels: height and width of a pair of pictures on a sheet
COLUMNS = 2
GAP = 12  # pixels between the pairs
TITLE = 40  # pixels of a sheet's headline, and of a name under a picture
GRID_CELL = (300, 400)  # pixels: height and width of a single picture in a grid
GRID_COLUMNS = 4
NAME_LENGTH = 44  # characters that fit under it


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

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: Sequence | None = None
    ) -> None:
        """Draws a batch's images that are among the sheet's."""
        self._draw(runner, runner.val_dataloader, batch_idx, outputs)

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: Sequence | None = None
    ) -> None:
        """Draws a batch's images that are among the sheet's, or all for ``show_dir``."""
        self._draw(runner, runner.test_dataloader, batch_idx, outputs)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Writes the sheet."""
        self._write(runner, f"iter_{runner.iter}")

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Writes the sheet."""
        self._write(runner, "test")

    def _draw(self, runner: Runner, loader, batch_idx: int, outputs: Sequence) -> None:
        if not is_main_process():
            return
        batches = len(loader)
        step = max(1, batches // self.count)
        on_sheet = batch_idx % step == 0 and len(self._sheet) < self.count
        for i, sample in enumerate(outputs):
            if self.show_dir is None and not (on_sheet and i == 0):
                continue
            if "left_out" in sample.metainfo:
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

    def _pair(self, sample: BaseDataElement, dataset: Dataset) -> np.ndarray:
        """Truth left, prediction right: RGB, (height, 2 * width, 3), uint8."""
        image = viewable(_image_reader(dataset)(dict(img_path=sample.img_path))["img"])
        halves = (
            draw_sample(image, sample, dataset.metainfo, truth, self.score_thr)
            for truth in (True, False)
        )
        return np.concatenate(list(halves), axis=1)

    def _write(self, runner: Runner, name: str) -> None:
        if self._sheet:
            try:
                out = Outputs(runner.work_dir, "work_dir")
                target = write_picture(out, f"pictures/{name}", contact_sheet(self._sheet))
                said = printable(target)
                runner.logger.info(f"pictures of predictions beside the truth: {said}")
            except UserError as error:
                runner.logger.warning(str(error))
        self._sheet = []


def _image_reader(dataset: Dataset) -> Callable[[dict], dict]:
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


def contact_sheet(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures in cells of one size, two a row, under a headline.

    Args:
        pictures (Sequence[np.ndarray]): RGB, truth left and prediction right.

    Returns:
        np.ndarray: RGB, uint8.
    """
    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    height, width = CELL
    size = (TITLE + rows * (height + GAP), columns * (width + GAP) + GAP, 3)
    sheet = np.full(size, 255, dtype=np.uint8)
    for i, picture in enumerate(pictures):
        left = GAP + i % columns * (width + GAP)
        top = TITLE + i // columns * (height + GAP)
        cell = sheet[top : top + height, left : left + width]
        cell[:] = 235
        for half, x in zip(np.array_split(picture, 2, axis=1), (0, width // 2), strict=True):
            _paste(cell[:, x : x + width // 2 - 2], half)
        if i < columns:
            for title, x in (("truth", left), ("prediction", left + width // 2)):
                place = (x, TITLE - 12)
                cv2.putText(sheet, title, place, cv2.FONT_HERSHEY_SIMPLEX, 0.8, (40, 40, 40), 2, 16)
    return sheet


def grid(pictures: Sequence[np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Pictures in cells of one size, four a row, each above its name.

    Args:
        pictures (Sequence[np.ndarray]): RGB, uint8.
        names (Sequence[str]): of each; the end of a long one is shown.

    Returns:
        np.ndarray: RGB, uint8.
    """
    columns = min(GRID_COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    height, width = GRID_CELL
    size = (rows * (height + TITLE) + GAP, columns * (width + GAP) + GAP, 3)
    sheet = np.full(size, 255, dtype=np.uint8)
    for i, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        left, top = GAP + i % columns * (width + GAP), GAP + i // columns * (height + TITLE)
        cell = sheet[top : top + height, left : left + width]
        cell[:] = 235
        _paste(cell, picture)
        name = printable(name)  # OpenCV crashes on a lone surrogate
        shown = name if len(name) <= NAME_LENGTH else "..." + name[-NAME_LENGTH:]
        place = (left, top + height + TITLE // 2)
        cv2.putText(sheet, shown, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (60, 60, 60), 1, 16)
    return sheet


def _paste(cell: np.ndarray, picture: np.ndarray) -> None:
    """As large as it fits, in the middle."""
    scale = min(cell.shape[0] / picture.shape[0], cell.shape[1] / picture.shape[1])
    height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
    top, left = (cell.shape[0] - height) // 2, (cell.shape[1] - width) // 2
    fitted = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    cell[top : top + height, left : left + width] = fitted
