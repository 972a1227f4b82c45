"""Pictures of predictions beside the truth, made as a model is evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch.nn import functional as F

from mmpvt.registry import HOOKS

SIDE = 480  # pixels: shorter side that a small image is drawn at, so that labels stay legible
CELL = (420, 1120)  # pixels: height and width of a pair of pictures on a sheet
COLUMNS = 2
GAP = 12  # pixels between the pairs
TITLE = 40  # pixels of a sheet's headline


@HOOKS.register_module()
class PicturesHook(Hook):
    """Writes a sheet of evenly spaced images, truth left and prediction right.

    After validation it is ``WORK_DIR/pictures/iter_N.jpg``, after a test
    ``WORK_DIR/pictures/test.jpg``. Drawing is the runner's visualizer's (MMDetection's or
    MMSegmentation's).

    Args:
        count (int): images on the sheet. Default: 6.
        score_thr (float): predictions below this score are not drawn. Default: 0.3.
        show_dir (str | None): a folder for pictures of every image, each a file. Default: None.
    """

    priority = "LOW"

    def __init__(self, count: int = 6, score_thr: float = 0.3, show_dir: str | None = None) -> None:
        self.count = count
        self.score_thr = score_thr
        self.show_dir = show_dir
        self._sheet: list[np.ndarray] = []
        self._visualizer = None

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
            picture = draw(self._own(runner.visualizer), sample, self.score_thr)
            if on_sheet and i == 0:
                self._sheet.append(picture)
            if self.show_dir is not None:
                target = Path(self.show_dir) / (Path(sample.img_path).stem + ".jpg")
                target.parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(target), picture[..., ::-1])

    def _own(self, visualizer):
        """A visualizer of the runner's kind that keeps nothing of what it draws."""
        if self._visualizer is None:
            self._visualizer = type(visualizer)(name="pictures")
            self._visualizer.dataset_meta = visualizer.dataset_meta
        return self._visualizer

    def _write(self, runner: Runner, name: str) -> None:
        if self._sheet:
            folder = Path(runner.work_dir) / "pictures"
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / f"{name}.jpg"
            cv2.imwrite(str(target), contact_sheet(self._sheet)[..., ::-1])
            runner.logger.info(f"pictures of predictions beside the truth: {target}")
        self._sheet = []


def draw(visualizer, sample: BaseDataElement, score_thr: float) -> np.ndarray:
    """Truth left, prediction right.

    Args:
        visualizer: MMDetection's or MMSegmentation's.
        sample (BaseDataElement): a data sample with truth and prediction, as evaluators get it.
        score_thr (float): instances below this score are left out.

    Returns:
        np.ndarray: RGB, (height, 2 * width, 3), uint8; the shorter side at least 480 pixels.
    """
    image = cv2.imread(sample.img_path)[..., ::-1]
    sample = sample.cpu().clone()
    if "ignored_instances" in sample:
        del sample.ignored_instances
    if "pred_instances" in sample:
        instances = sample.pred_instances
        sample.pred_instances = instances[instances.scores > score_thr]
    scale = SIDE / min(image.shape[:2])
    if scale > 1:
        image, sample = _enlarge(image, sample, scale)
    halves = []
    for truth in (True, False):
        visualizer.add_datasample(
            "picture", image, sample, draw_gt=truth, draw_pred=not truth, show=False
        )
        halves.append(visualizer.get_image())
    return np.concatenate(halves, axis=1)


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


def _paste(cell: np.ndarray, picture: np.ndarray) -> None:
    """As large as it fits, in the middle."""
    scale = min(cell.shape[0] / picture.shape[0], cell.shape[1] / picture.shape[1])
    height, width = round(picture.shape[0] * scale), round(picture.shape[1] * scale)
    top, left = (cell.shape[0] - height) // 2, (cell.shape[1] - width) // 2
    fitted = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    cell[top : top + height, left : left + width] = fitted


def _enlarge(image: np.ndarray, sample, scale: float) -> tuple[np.ndarray, BaseDataElement]:
    size = (round(image.shape[0] * scale), round(image.shape[1] * scale))
    image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC)
    for key in ("gt_instances", "pred_instances"):
        if key not in sample:
            continue
        instances = sample.get(key)
        instances.bboxes = instances.bboxes * scale
        if "masks" in instances:
            instances.masks = _resize_masks(instances.masks, size)
    for key in ("gt_sem_seg", "pred_sem_seg"):
        if key in sample:
            data = sample.get(key).data
            sample.get(key).data = F.interpolate(data[None].float(), size=size)[0].to(data.dtype)
    return image, sample


def _resize_masks(masks, size: tuple[int, int]):
    if not isinstance(masks, torch.Tensor | np.ndarray):
        return masks.resize(size)
    masks = torch.as_tensor(masks)
    if not len(masks):
        return BitmapMasks([], *size)
    return F.interpolate(masks[None].float(), size=size)[0].bool()
