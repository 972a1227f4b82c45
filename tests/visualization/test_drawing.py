"""Boxes, masks and label maps are drawn where they are."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import BaseDataElement, InstanceData, PixelData

from mmpvt.visualization.drawing import LONGEST, SIDE, colours, draw_label, draw_sample

META = dict(classes=("cat", "dog"), palette=[(255, 0, 0), (0, 0, 255)])
GREY = np.full((60, 80, 3), 128, dtype=np.uint8)
SCALE = SIDE / 60


def near(canvas: np.ndarray, x: float, y: float) -> np.ndarray:
    return canvas[round(y * SCALE), round(x * SCALE)].astype(int)


def instances(**fields) -> InstanceData:
    return InstanceData(
        bboxes=torch.tensor([[10.0, 10, 40, 40]]), labels=torch.tensor([1]), **fields
    )


def test_boxes_are_drawn_where_they_are_in_their_class_colour():
    sample = BaseDataElement(gt_instances=instances())
    canvas = draw_sample(GREY, sample, META, truth=True, score_thr=0.4)
    assert canvas.shape == (480, 640, 3)
    assert (near(canvas, 10, 25) == (0, 0, 255)).all()  # the left edge
    assert (near(canvas, 25, 25) == 128).all()  # within
    assert (near(canvas, 60, 25) == 128).all()  # without


def test_a_test_without_annotations_draws_no_truth():
    sample = BaseDataElement(gt_instances=InstanceData())  # of PackDetInputs
    assert (draw_sample(GREY, sample, META, truth=True, score_thr=0.4) == 128).all()


def test_scores_below_the_threshold_are_left_out():
    for score, drawn in ((0.3, False), (0.5, True)):
        sample = BaseDataElement(pred_instances=instances(scores=torch.tensor([score])))
        canvas = draw_sample(GREY, sample, META, truth=False, score_thr=0.4)
        assert (canvas != 128).any() == drawn


@pytest.mark.parametrize("kind", ["truth", "prediction"])
def test_masks(kind: str):
    mask = np.zeros((1, 60, 80), dtype=np.uint8)
    mask[:, 20:30, 20:30] = 1
    if kind == "truth":
        sample = BaseDataElement(gt_instances=instances(masks=BitmapMasks(mask, 60, 80)))
    else:
        predicted = instances(masks=torch.from_numpy(mask).bool(), scores=torch.ones(1))
        sample = BaseDataElement(pred_instances=predicted)
    canvas = draw_sample(GREY, sample, META, truth=kind == "truth", score_thr=0.4)
    inside, outside = near(canvas, 25, 25), near(canvas, 35, 35)
    assert inside[2] > 160 and inside[0] < 100
    assert (outside == 128).all()


def test_label_maps():
    labels = torch.full((1, 60, 80), 255)
    labels[:, :, :40] = 0
    sample = BaseDataElement(gt_sem_seg=PixelData(data=labels))
    canvas = draw_sample(GREY, sample, META, truth=True, score_thr=0.4)
    assert near(canvas, 5, 5)[0] > 190  # cat
    assert (near(canvas, 70, 30) == 128).all()  # no class


def test_label_maps_of_more_classes_than_a_byte_counts():
    labels = torch.full((1, 60, 80), 256)
    sample = BaseDataElement(pred_sem_seg=PixelData(data=labels))
    meta = dict(classes=["cat"] * 257, palette=[(0, 0, 255)] * 256 + [(255, 0, 0)])
    canvas = draw_sample(GREY, sample, meta, truth=False, score_thr=0.4)
    assert (near(canvas, 5, 5) == near(canvas, 75, 55)).all() and near(canvas, 5, 5)[0] > 190


def test_labels_stay_within_the_picture():
    for place in ((-50, -50), (900, 900)):
        canvas = np.zeros((50, 200, 3), dtype=np.uint8)
        draw_label(canvas, "cat 0.95", place, (255, 255, 255))
        assert (canvas.max(axis=2) == 255).sum() > 500


@pytest.mark.parametrize(("height", "width"), [(480, 480), (1080, 1920), (480, 90)])
@pytest.mark.parametrize("name", ["w" * 90, "i" * 3000])
def test_long_names_leave_their_scores_in_sight(name: str, height: int, width: int):
    canvases, taken = [], []
    for ending in (" 0.95", " 0.11"):
        canvases.append(np.full((height, width, 3), 128, np.uint8))
        place = (100, 200)
        draw_label(canvases[-1], name, place, (255, 255, 255), taken=taken, ending=ending)
        assert taken.pop()[2] <= width
    differing = (canvases[0] != canvases[1]).any(axis=(0, 2)).nonzero()[0]
    assert differing.max() - differing.min() < 60 * max(1, height / 480)  # the score's digits
    canvas = np.full((480, 3, 3), 128, np.uint8)
    draw_label(canvas, name, (0, 200), (255, 255, 255), ending=" 0.95")  # nothing fits


def test_names_that_are_read_from_right_to_left(monkeypatch: pytest.MonkeyPatch):
    drawn = []
    monkeypatch.setattr(cv2, "putText", lambda canvas, text, *_: drawn.append(text))
    for name in ("\u05d0\u05d1 \u05d2 2", "cat"):
        draw_label(np.zeros((480, 640, 3), np.uint8), name, (0, 0), (0, 0, 0), ending=" 0.95")
    assert drawn == ["\u05d2 \u05d1\u05d0 2 0.95", "cat 0.95"]


def test_labels_keep_off_each_other():
    canvas = np.zeros((480, 640, 3), dtype=np.uint8)
    taken = []
    for _ in range(8):
        draw_label(canvas, "cat 0.95", (100, 200), (255, 255, 255), taken=taken)
    covered = np.zeros(canvas.shape[:2], dtype=int)
    for left, top, right, bottom in taken:
        covered[top:bottom, left:right] += 1
    assert len(taken) == 8 and covered.max() == 1


def test_labels_grow_with_the_picture():
    heights = []
    for scale in (1, 5):
        taken = []
        canvas = np.zeros((480 * scale, 640 * scale, 3), dtype=np.uint8)
        draw_label(canvas, "cat", (100, 100), (255, 255, 255), taken=taken)
        heights.append(taken[0][3] - taken[0][1])
    assert 4 < heights[1] / heights[0] < 6


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1), (40, 5000)])
def test_slim_images_are_not_blown_up(size: tuple[int, int]):
    sample = BaseDataElement(pred_instances=instances(scores=torch.tensor([0.9])))
    image = np.zeros((*size, 3), dtype=np.uint8)
    canvas = draw_sample(image, sample, META, truth=False, score_thr=0.4)
    assert max(canvas.shape) <= max(LONGEST, *size)


def test_empty_samples():
    empty = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long(), scores=torch.zeros(0)
    )
    sample = BaseDataElement(pred_instances=empty)
    assert (draw_sample(GREY, sample, META, truth=False, score_thr=0.4) == 128).all()


def test_colours_of_classes_without_a_palette():
    assert len(set(colours(None, 80))) == 80
    assert len(colours(None, 0)) == 1
