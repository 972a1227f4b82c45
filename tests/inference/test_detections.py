"""Predictions as supervision's Detections, and what supervision does with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from mmseg.structures import SegDataSample
from pycocotools import mask as coco_mask

import mmpvt

supervision = pytest.importorskip("supervision")

SHAPE = (40, 60)
CLASSES = ["car", "dog"]


def detected(count: int, masks: str = "") -> DetDataSample:
    boxes = torch.tensor([[5.0, 5, 25, 35], [30, 10, 55, 30]])[:count]
    instances = InstanceData(
        bboxes=boxes,
        scores=torch.tensor([0.9, 0.4])[:count],
        labels=torch.tensor([1, 2])[:count],
    )
    if masks:
        its = torch.zeros(count, *SHAPE, dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(its, boxes.int().tolist(), strict=True):
            mask[top:bottom, left:right] = True
        instances.masks = its
        if masks == "rle":
            instances.masks = [coco_mask.encode(np.asfortranarray(m.byte().numpy())) for m in its]
    sample = DetDataSample(metainfo=dict(ori_shape=SHAPE))
    sample.pred_instances = instances
    return sample


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("masks", ["", "tensor", "rle"])
def test_instances(count: int, masks: str):
    found = mmpvt.sample_to_detections(detected(count, masks), CLASSES)
    assert len(found) == count and found.xyxy.shape == (count, 4)
    assert (found.mask is None) == (not masks)
    assert found.data["class_name"].tolist() == ["dog", "2"][:count]  # a label without a name
    if count and masks:
        assert found.mask.sum((1, 2)).tolist() == [600, 500]
        assert (supervision.mask_to_xyxy(found.mask)[:, :2] == found.xyxy[:, :2]).all()


def test_what_supervision_makes_of_them():
    """An annotator draws, a zone counts, NMS and a filter take them."""
    found = mmpvt.sample_to_detections(detected(2, "tensor"), CLASSES)
    black = np.zeros((*SHAPE, 3), np.uint8)
    drawn = supervision.MaskAnnotator().annotate(black.copy(), found)
    assert (drawn.any(2) == found.mask.any(0)).all()
    assert supervision.LabelAnnotator().annotate(black.copy(), found).any()
    zone = supervision.PolygonZone(np.array([[0, 0], [28, 0], [28, 39], [0, 39]]))
    assert zone.trigger(found).tolist() == [True, False]
    assert len(found[found.confidence > 0.5]) == len(found.with_nms(0.5)) - 1 == 1


def test_label_maps():
    sample = SegDataSample()
    labels = torch.zeros(1, *SHAPE, dtype=torch.long)
    labels[0, 10:20, 30:50] = 1
    sample.pred_sem_seg = PixelData(data=labels)
    found = mmpvt.sample_to_detections(sample, CLASSES)
    assert found.class_id.tolist() == [0, 1] and found.confidence is None
    assert found.mask.sum() == labels.numel() and found.mask[1].sum() == 200
    assert found.xyxy[1].tolist() == [30, 10, 49, 19]


def test_a_class_is_none():
    with pytest.raises(mmpvt.UserError, match="no boxes and no masks"):
        mmpvt.sample_to_detections(BaseDataElement())
