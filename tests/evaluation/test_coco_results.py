"""Predictions in COCO's results format, and as a pickle file."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask

from helpers import need
from mmpvt.evaluation import coco_results
from mmpvt.registry import METRICS


def test_coco_keeps_its_ids(coco_mini: Path):
    """COCO's classes have the ids of its annotation files, which leave some out."""
    import json

    file = need(coco_mini / "annotations" / "instances_val2017.json")
    theirs = json.loads(file.read_text())["categories"]
    ours = coco_results.coco_categories(CocoDataset.METAINFO["classes"])
    assert ours == [dict(id=category["id"], name=category["name"]) for category in theirs]
    assert coco_results.coco_categories(["a", "b"]) == [dict(id=1, name="a"), dict(id=2, name="b")]


def test_instances():
    masks = torch.zeros(1, 20, 30, dtype=torch.bool)
    masks[:, 5:9, 10:14] = True
    instances = InstanceData(
        bboxes=torch.tensor([[10.0, 5, 14, 9]]),
        scores=torch.tensor([0.5]),
        labels=torch.tensor([1]),
        masks=masks,
    )
    (found,) = coco_results.to_coco(DetDataSample(pred_instances=instances), 7, "a/b.jpg", [1, 3])
    assert found["bbox"] == [10, 5, 4, 4] and found["score"] == 0.5
    assert (found["image_id"], found["file_name"], found["category_id"]) == (7, "a/b.jpg", 3)
    assert (coco_mask.decode(found["segmentation"]) == masks[0].numpy()).all()


def test_pickle_file_of_masks_in_tiles():
    """RLE, as tiles give them, beside those of an image that isn't cut."""
    masks = torch.zeros(1, 20, 30, dtype=torch.bool)
    masks[:, 5:9, 10:14] = True
    rle = [coco_mask.encode(masks[0].numpy().astype("uint8", order="F"))]
    metric = METRICS.build(dict(type="DumpDetResults", out_file_path="results.pkl"))
    samples = [dict(img_id=i, pred_instances=dict(masks=m)) for i, m in enumerate((rle, masks))]
    metric.process({}, samples)
    assert [result["pred_instances"]["masks"] for result in metric.results] == [rle, rle]
    assert samples[0]["pred_instances"]["masks"] is rle


def test_pickle_file_is_written_intact_or_not_at_all(tmp_path: Path):
    out = tmp_path / "results.pkl"
    metric = METRICS.build(dict(type="DumpDetResults", out_file_path=str(out)))
    assert metric.compute_metrics([{"img_id": 1}]) == {}
    with pytest.raises((AttributeError, pickle.PicklingError)):
        metric.compute_metrics([{"img_id": 2}, lambda: None])
    assert pickle.loads(out.read_bytes()) == [{"img_id": 1}]
    assert [path.name for path in tmp_path.iterdir()] == ["results.pkl"]
