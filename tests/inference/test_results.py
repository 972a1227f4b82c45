"""Predictions as files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from pycocotools import mask as coco_mask

from helpers import need
from mmpvt import UserError
from mmpvt.inference import results
from mmpvt.utils.outputs import CannotWriteError, Outputs


def test_coco_keeps_its_numbers(coco_mini: Path):
    """COCO's classes have the numbers of its annotation files, which leave some out."""
    import json

    file = need(coco_mini / "annotations" / "instances_val2017.json")
    theirs = json.loads(file.read_text())["categories"]
    ours = results.categories(CocoDataset.METAINFO["classes"])
    assert ours == [dict(id=category["id"], name=category["name"]) for category in theirs]
    assert results.categories(["a", "b"]) == [dict(id=1, name="a"), dict(id=2, name="b")]


def test_instances():
    masks = torch.zeros(1, 20, 30, dtype=torch.bool)
    masks[:, 5:9, 10:14] = True
    instances = InstanceData(
        bboxes=torch.tensor([[10.0, 5, 14, 9]]),
        scores=torch.tensor([0.5]),
        labels=torch.tensor([1]),
        masks=masks,
    )
    (found,) = results.to_coco(DetDataSample(pred_instances=instances), 7, "a/b.jpg", [1, 3])
    assert found["bbox"] == [10, 5, 4, 4] and found["score"] == 0.5
    assert (found["image_id"], found["file_name"], found["category_id"]) == (7, "a/b.jpg", 3)
    assert (coco_mask.decode(found["segmentation"]) == masks[0].numpy()).all()


@pytest.mark.parametrize(("highest", "kind"), [(149, np.uint8), (300, np.uint16)])
def test_label_maps(highest: int, kind: type, tmp_path: Path):
    labels = torch.arange(20).repeat(1, 10, 1) * highest // 19
    found = results.label_map(SegDataSample(pred_sem_seg=PixelData(data=labels)))
    assert found.dtype == kind and found.max() == highest
    results.write_picture(Outputs(tmp_path), "new/a", found, [".png"])
    read = cv2.imread(str(tmp_path / "new" / "a.png"), cv2.IMREAD_UNCHANGED)
    assert read.dtype == kind and (read == found).all()
    assert results.colour_map(found, {}).shape == (10, 20, 3)


def test_pictures_that_cannot_be_written(tmp_path: Path):
    out = Outputs(tmp_path / "out")
    with pytest.raises(CannotWriteError, match="a can't be written: a picture of 70000x1 pixels"):
        results.write_picture(out, "a", np.zeros((1, 70_000, 3), np.uint8), [".jpg"])
    written = results.write_picture(out, "a", np.zeros((1, 70_000, 3), np.uint8))
    assert written == tmp_path / "out" / "a.png" and written.stat().st_size
    (tmp_path / "out" / "file").touch()
    with pytest.raises(UserError, match=r"a\.jpg can't be written"):
        results.write_picture(out, "file/a", np.zeros((9, 9, 3), np.uint8))
