"""Precision-recall curves and AP by class, beside pycocotools' own, and what can't be had."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.evaluation import VOCMetric
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmpvt.evaluation import CocoMetric
from mmpvt.reproduction.detection_collector import DetectionCollector, curves

CLASSES = ["cat", "dog", "bird"]
NUMBERS = {"cat": 9, "dog": 4, "bird": 7}  # not in the order of the classes


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Two images."""
    rng = np.random.default_rng(0)
    annotations = []
    for image in (1, 2):
        for number in (9, 4, 9):
            x, y = rng.uniform(0, 60, 2).round(1).tolist()
            box = [x, y, 30.0, 40.0]
            annotations.append(
                dict(id=len(annotations) + 1, image_id=image, category_id=number, bbox=box)
                | dict(area=1200.0, iscrowd=0)
            )
    content = dict(
        info={},
        images=[dict(id=i, width=200, height=100, file_name=f"{i}.jpg") for i in (1, 2)],
        annotations=annotations,
        categories=[dict(id=NUMBERS[name], name=name) for name in CLASSES],
    )
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    return str(path)


def detections(file: str) -> list[dict]:
    rng = np.random.default_rng(1)
    return [
        dict(
            image_id=a["image_id"],
            category_id=int(rng.choice([a["category_id"], a["category_id"], 7])),
            bbox=(np.array(a["bbox"]) + rng.uniform(-6, 6, 4)).tolist(),
            score=float(rng.uniform(0.1, 1)),
        )
        for a in json.loads(Path(file).read_text())["annotations"] * 3
    ]


def evaluated(file: str, results: list[dict], **options: object) -> CocoMetric:
    metric = CocoMetric(ann_file=file, metric="bbox", **options)
    metric.dataset_meta = dict(classes=CLASSES)
    labels = {number: label for label, number in enumerate(NUMBERS.values())}
    for image in (1, 2):
        own = [result for result in results if result["image_id"] == image]
        boxes = torch.tensor([r["bbox"] for r in own], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = dict(
            bboxes=boxes,
            labels=torch.tensor([labels[r["category_id"]] for r in own], dtype=torch.long),
            scores=torch.tensor([r["score"] for r in own], dtype=torch.float64),
        )
        sample = dict(img_id=image, ori_shape=(100, 200), pred_instances=instances)
        metric.process({}, [sample])
    metric.evaluate(2)
    return metric


def test_equal_to_pycocotools(file: str):
    results = detections(file)
    found = curves(evaluated(file, results), "bbox")
    theirs = COCO(file)
    evaluation = COCOeval(theirs, theirs.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ours = [found[key] for key in ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")]
    expected = [value if value >= 0 else None for value in evaluation.stats[:6]]
    assert ours == pytest.approx(expected, abs=1e-9)
    by_class = {one["name"]: one for one in found["classes"]}
    assert [one["name"] for one in found["classes"]] == CLASSES
    assert by_class["bird"]["AP"] is None
    assert by_class["cat"]["objects"] == 4 and by_class["dog"]["objects"] == 2
    evaluation.params.catIds = [4]
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert by_class["dog"]["AP"] == pytest.approx(evaluation.stats[0], abs=1e-9)
    assert by_class["dog"]["AP50"] == pytest.approx(evaluation.stats[1], abs=1e-9)
    assert found["curves"]["0.50"][0] > 0 and len(found["curves"]["mean"]) == 101


def test_no_detection_at_all(file: str):
    found = curves(evaluated(file, []), "bbox")
    assert found["AP"] == 0 and found["classes"][2]["AP"] is None
    assert [one["objects"] for one in found["classes"]] == [4, 2, 0]


def test_other_thresholds(file: str):
    found = curves(evaluated(file, detections(file), iou_thrs=[0.3, 0.5]), "bbox")
    assert list(found["curves"]) == ["0.50", "mean"]
    assert found["AP75"] is None and found["AP50"] > 0


def collector(metric: object) -> DetectionCollector:
    loop = SimpleNamespace(evaluator=SimpleNamespace(metrics=[metric]))
    return DetectionCollector(SimpleNamespace(test_loop=loop), details=True)


def sample(number: int, **instances: torch.Tensor) -> DetDataSample:
    made = DetDataSample(metainfo=dict(img_id=number, img_path="a.jpg", ori_shape=(100, 200)))
    if instances:
        made.pred_instances = InstanceData(**instances)
    return made


NOTHING = dict(bboxes=torch.zeros(0, 4), scores=torch.zeros(0), labels=torch.zeros(0).long())


def test_what_is_missing_has_a_reason(file: str):
    metric = evaluated(file, [])
    found = collector(metric)
    content = found.summarize([found.collect(sample(i, **NOTHING)) for i in (1, 2)], 0)
    assert content["by_score"]["mean"]["best"] is None
    assert content["missing"] == dict(
        gallery="No pictures were asked for.",
        false_positives="No detection has a score of at least 0.30.",
    )
    assert content["confusion"]["counts"][:, -1].tolist() == [4, 2, 0, 0]

    other = collector(VOCMetric()).summarize([found.collect(sample(1, **NOTHING))], 9)
    assert list(other) == ["missing"]
    assert set(other["missing"]) == {"curves", "by_score", "confusion", "gallery"}
    assert "the test is VOCMetric" in other["missing"]["confusion"]
    for images, said in (
        ([], "No image was tested"),
        ([sample(1)], "no objects of their own"),  # of a panoptic model
    ):
        missing = found.summarize([found.collect(image) for image in images], 9)["missing"]
        assert all(said in reason for reason in missing.values())


def test_a_model_of_masks_alone_has_boxes(file: str):
    masks = torch.zeros(1, 100, 200, dtype=torch.bool)
    masks[0, 10:30, 50:120] = True
    instances = dict(NOTHING, bboxes=torch.zeros(1, 4), masks=masks)
    instances.update(scores=torch.tensor([0.9]), labels=torch.tensor([1]))
    metric = CocoMetric(ann_file=file, metric="segm")
    metric.dataset_meta = dict(classes=CLASSES)
    found = collector(metric)
    assert found.collect(sample(1, **instances))["bboxes"].tolist() == [[50, 10, 120, 30]]
    metric.process({}, [sample(1, **instances).to_dict()])
    content = json.loads(Path(file).read_text())
    content["annotations"] = [dict(content["annotations"][0], category_id=4, segmentation=[])]
    x, y, width, height = content["annotations"][0]["bbox"]
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    content["annotations"][0]["segmentation"] = [corners]
    metric._coco_api.dataset = content
    metric._coco_api.createIndex()
    metric.evaluate(1)
    assert metric.evaluations["segm"].detections.boxes.tolist() == [[50, 10, 70, 20]]
