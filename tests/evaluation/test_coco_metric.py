"""The COCO metric: MMDetection's numbers, whatever computes them."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmengine.logging import MMLogger
from mmengine.registry import METRICS
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from helpers import ROOT
from mmpvt import UserError
from mmpvt.evaluation import CocoMetric
from mmpvt.evaluation.detection_arrays import ObjectArrays
from mmpvt.evaluation.matching import match
from mmpvt.evaluation.score_curves import score_curves

EXACT = 1e-9


@pytest.fixture
def synthetic(monkeypatch: pytest.MonkeyPatch):
    """The benchmark's synthetic data."""
    monkeypatch.syspath_prepend(ROOT / "tools")
    from benchmarks import synthetic_coco

    return synthetic_coco


@pytest.fixture(params=["faster-coco-eval", "pycocotools"])
def computed_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What computes the numbers."""
    if request.param == "pycocotools":
        monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    else:
        pytest.importorskip("faster_coco_eval")
    return request.param


def score(kind: type, truth: dict, results: list[dict], path: Path, **options) -> tuple:
    """A metric that has scored the results, and the scores."""
    file = path / "truth.json"
    file.write_text(json.dumps(truth))
    metric = kind(**{"ann_file": str(file), **options})
    metric.dataset_meta = dict(classes=tuple(c["name"] for c in truth["categories"]))
    for result in results:
        metric.process({}, [copy.deepcopy(result)])
    return metric, metric.evaluate(len(results))


def summary(truth: dict, results: list[dict], iou_type: str, **params) -> np.ndarray:
    """pycocotools' own, straight from its own format."""
    api = COCO()
    api.dataset = copy.deepcopy(truth)
    api.createIndex()
    found = []
    for result in results:
        instances = result["pred_instances"]
        scores = instances.get("mask_scores", instances["scores"])
        if iou_type == "bbox":
            scores = instances["scores"]
        labels = instances["labels"].tolist()
        for i, (label, score) in enumerate(zip(labels, scores.tolist(), strict=True)):
            left, top, right, bottom = instances["bboxes"][i].tolist()
            one = dict(
                image_id=result["img_id"],
                category_id=truth["categories"][label]["id"],
                score=score,
                bbox=[left, top, right - left, bottom - top],
            )
            if iou_type == "segm":
                del one["bbox"]
                one["segmentation"] = instances["masks"][i]
            found.append(one)
    evaluation = COCOeval(api, api.loadRes(found), iou_type)
    evaluation.params.maxDets = [100, 300, 1000]
    for name, value in params.items():
        setattr(evaluation.params, name, value)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


def assert_same(ours: COCOeval, theirs: COCOeval) -> None:
    for name in ("precision", "recall", "scores"):
        assert ours.eval[name].shape == theirs.eval[name].shape
        np.testing.assert_allclose(ours.eval[name], theirs.eval[name], rtol=0, atol=EXACT)
    np.testing.assert_allclose(ours.stats, theirs.stats, rtol=0, atol=EXACT)


def without_truth(truth: dict) -> dict:
    return dict(truth, annotations=[])


def marked_as_ignored(truth: dict) -> dict:
    """A flag that pycocotools overrides; and areas on the borders between sizes."""
    areas = (32**2, 96**2, 0, 1e5**2)
    return dict(
        truth,
        annotations=[
            dict(a, ignore=i % 2, area=areas[i % 5] if i % 5 < 4 else a["area"])
            for i, a in enumerate(copy.deepcopy(truth["annotations"]))
        ],
    )


TRUTHS: dict[str, Callable] = {
    "as made": lambda truth: truth,
    "no objects at all": without_truth,
    "flags and borders": marked_as_ignored,
    "all crowds": lambda t: dict(t, annotations=[dict(a, iscrowd=1) for a in t["annotations"]]),
    "categories in no order": lambda t: dict(t, categories=t["categories"][::-1]),
}


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("kind", TRUTHS)
def test_equals_pycocotools(kind: str, iou_type: str, computed_by: str, synthetic, tmp_path: Path):
    masks = iou_type == "segm"
    made = synthetic.make_truth(12, 6, masks)
    if masks and kind == "all crowds":
        made["annotations"] = [
            a for a in made["annotations"] if isinstance(a["segmentation"], dict)
        ]
    results = list(synthetic.make_results(made, 40, masks))
    truth = TRUTHS[kind](made)
    if kind == "categories in no order":  # labels follow the file's order
        for result in results:
            result["pred_instances"]["labels"] = 5 - result["pred_instances"]["labels"]
    metric, _ = score(CocoMetric, truth, results, tmp_path, metric=iou_type)
    assert_same(metric.evaluations[iou_type], summary(truth, results, iou_type))


OPTIONS: dict[str, dict] = {
    "boxes and masks": dict(metric=["bbox", "segm"]),
    "by class": dict(metric=["bbox"], classwise=True),
    "some numbers": dict(metric="bbox", metric_items=["mAP_l", "AR@1000", "AR_s@1000"]),
    "proposals": dict(metric=["proposal", "bbox"]),
    "some proposals": dict(metric="proposal", metric_items=["AR@100", "mAP_50"]),
    "few detections count": dict(
        metric="bbox", proposal_nums=(3, 5, 20), metric_items=["mAP_50", "mAP_s", "AR@100"]
    ),
    "out of order": dict(metric="bbox", proposal_nums=(100, 1, 10)),
    "other thresholds": dict(metric="bbox", iou_thrs=np.array([0.3, 0.5, 0.6, 0.7, 0.75, 0.8])),
    "another prefix": dict(metric="bbox", prefix="val"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_gives_what_mmdet_gives(name: str, computed_by: str, synthetic, tmp_path: Path):
    options = OPTIONS[name]
    masks = "segm" in options["metric"]
    truth = synthetic.make_truth(6, 5, masks)
    results = list(synthetic.make_results(truth, 30, masks))
    for value in results[2]["pred_instances"], results[4]["pred_instances"]:
        value.update({key: tensor[:0] for key, tensor in value.items()})
    for result in results if masks else ():
        result["pred_instances"]["mask_scores"] = result["pred_instances"]["scores"] ** 2
    _, ours = score(CocoMetric, truth, results, tmp_path, **options)
    _, theirs = score(MMDetCocoMetric, truth, results, tmp_path, **options)
    assert list(ours) == list(theirs)
    np.testing.assert_array_equal(list(ours.values()), list(theirs.values()))


def test_truth_that_comes_with_the_images(computed_by: str, synthetic, tmp_path: Path):
    truth = synthetic.make_truth(4, 3, masks=False)
    results = list(synthetic.make_results(truth, 20, masks=False))
    for result in results:
        here = [a for a in truth["annotations"] if a["image_id"] == result["img_id"]]
        result["instances"] = [
            dict(
                bbox=[x, y, x + w, y + h],
                bbox_label=a["category_id"] // 3,
                ignore_flag=a["iscrowd"],
            )
            for a in here
            for x, y, w, h in [a["bbox"]]
        ]
    _, ours = score(CocoMetric, truth, results, tmp_path, ann_file=None)
    _, theirs = score(MMDetCocoMetric, truth, results, tmp_path, ann_file=None)
    assert ours == theirs and ours["coco/bbox_mAP"] > 0


def test_nothing_was_detected(computed_by: str, synthetic, tmp_path: Path):
    """A score all the same, by which the best checkpoint is chosen."""
    truth = synthetic.make_truth(2, 3, masks=True)
    results = list(synthetic.make_results(truth, 0, masks=True))
    _, ours = score(CocoMetric, truth, results, tmp_path, metric=["bbox", "segm", "proposal"])
    assert ours["coco/bbox_mAP"] == ours["coco/segm_mAP_50"] == ours["coco/AR@100"] == 0


def test_some_images_only(synthetic, tmp_path: Path):
    """As where others can't be used: their truth and detections count for nothing."""
    truth = synthetic.make_truth(6, 3, masks=False)
    results = list(synthetic.make_results(truth, 20, masks=False))
    scores = []
    for kind in (CocoMetric, MMDetCocoMetric):
        metric, _ = score(kind, truth, results, tmp_path)
        metric.img_ids = [13, 33, 43]
        for result in results:
            metric.process({}, [copy.deepcopy(result)])
        scores.append(metric.evaluate(6))
    assert scores[0] == scores[1]


@pytest.mark.parametrize("format_only", [False, True])
def test_files_for_the_server(format_only: bool, synthetic, tmp_path: Path):
    truth = synthetic.make_truth(3, 3, masks=True)
    results = list(synthetic.make_results(truth, 10, masks=True))
    options = dict(metric=["bbox", "segm"], format_only=format_only)
    for kind, name in ((CocoMetric, "ours"), (MMDetCocoMetric, "theirs")):
        (tmp_path / name).mkdir()
        prefix = str(tmp_path / name / "results")
        _, scores = score(kind, truth, results, tmp_path, outfile_prefix=prefix, **options)
        assert bool(scores) != format_only
    written = {path.name: path.read_bytes() for path in (tmp_path / "ours").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "theirs").iterdir()}
    assert set(written) == {"results.bbox.json", "results.segm.json"}


def test_mistakes(synthetic, tmp_path: Path):
    truth = synthetic.make_truth(2, 3, masks=False)
    results = list(synthetic.make_results(truth, 10, masks=False))
    with pytest.raises(UserError, match="the model predicts none"):
        score(CocoMetric, truth, results, tmp_path, metric="segm")
    with pytest.raises(UserError, match=r"'mAP_90' is none of mAP, mAP_50"):
        score(CocoMetric, truth, results, tmp_path, metric_items=["mAP_90"])
    with pytest.raises(UserError, match=r"proposal_nums takes 3 numbers .* not \(100,\)"):
        CocoMetric(proposal_nums=(100,))
    results[0]["img_id"] = 77
    with pytest.raises(UserError, match="1 image was tested that the annotations don't hold"):
        score(CocoMetric, truth, results, tmp_path)


def test_more_objects_of_a_class_than_map_counts(
    computed_by: str, synthetic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    truth = synthetic.make_truth(1, 3, masks=False)
    (result,) = synthetic.make_results(truth, 5, masks=False)
    places = [(x, y) for x in range(0, 150, 10) for y in range(0, 100, 10)]
    one = dict(image_id=result["img_id"], category_id=truth["categories"][1]["id"], iscrowd=0)
    truth["annotations"] = [
        dict(one, id=i, bbox=[x, y, 8, 8], area=64) for i, (x, y) in enumerate(places, 1)
    ]
    boxes = torch.tensor([[x, y, x + 8, y + 8] for x, y in places]).float()
    found = dict(bboxes=boxes, scores=torch.ones(150), labels=torch.ones(150).long())
    warnings: list[str] = []
    monkeypatch.setattr(MMLogger.get_current_instance(), "warning", warnings.append)
    for nums, least, most in (((100, 300, 1000), 0.6, 0.7), ((150, 300, 1000), 1, 1)):
        _, scores = score(
            CocoMetric, truth, [dict(result, pred_instances=found)], tmp_path, proposal_nums=nums
        )
        assert least <= scores["coco/bbox_mAP"] <= most and scores["coco/bbox_mAP_50"] == 1
    (warning,) = warnings
    assert "1 image has more objects of one (150 at most)" in warning
    truth["categories"][1]["name"] = "of no class of the model"
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    metric = CocoMetric(ann_file=str(tmp_path / "truth.json"))
    metric.dataset_meta = dict(classes=(truth["categories"][0]["name"],))
    found["labels"] = torch.zeros(150).long()
    metric.process({}, [dict(result, pred_instances=found)])
    metric.evaluate(1)
    assert len(warnings) == 1


def test_masks_are_kept_behind_each_other(synthetic):
    truth = synthetic.make_truth(1, 3, masks=True)
    (result,) = synthetic.make_results(truth, 300, masks=True)
    metric = CocoMetric(metric="segm")
    metric.process({}, [dict(result, instances=[])])
    (((_, kept),)) = pickle.loads(pickle.dumps(metric.results))
    assert isinstance(kept["masks"].counts, bytes)
    assert kept["masks"].unpack() == result["pred_instances"]["masks"]


def test_detections_are_kept_for_what_else_is_asked_of_them(synthetic, tmp_path: Path):
    truth = synthetic.make_truth(12, 6, masks=False)
    results = list(synthetic.make_results(truth, 40, masks=False))
    metric, _ = score(CocoMetric, truth, results, tmp_path)
    result = pickle.loads(pickle.dumps(metric.evaluations["bbox"]))
    objects = ObjectArrays.collect(metric.coco, result.image_ids, metric.cat_ids)
    assert len(objects.labels) == len(truth["annotations"]) and (objects.shares < 1).all()
    matches = match(objects, result.detections)
    curves = score_curves(objects, result.detections, matches, len(metric.cat_ids))
    recalls = [curve.recall[-1] if curve.objects else -1 for curve in curves]
    assert recalls == result.eval["recall"][0, :, 0, -1].tolist() and max(recalls) > 0.5


@pytest.mark.full
def test_real_truth(coco_mini: Path, synthetic, tmp_path: Path):
    """Real polygons and crowds; what is found is the truth of a neighbour's image, and its own."""
    pytest.importorskip("faster_coco_eval")
    truth = json.loads((coco_mini / "annotations" / "instances_val2017.json").read_text())
    api = COCO(str(coco_mini / "annotations" / "instances_val2017.json"))
    labels = {category["id"]: i for i, category in enumerate(truth["categories"])}
    rng = np.random.default_rng(0)
    results = []
    images = truth["images"]
    for image, shown in zip(images, [*images[1:], images[0]], strict=True):
        here = [a for i in (image, shown) for a in api.imgToAnns[i["id"]]]
        boxes = torch.tensor([a["bbox"] for a in here]).reshape(-1, 4)
        boxes += boxes[:, 2:].tile(2) * torch.from_numpy(rng.normal(0, 0.05, boxes.shape)).float()
        size = image["height"], image["width"]
        masks = [np.zeros(size, np.uint8) for _ in here]
        for annotation, mask in zip(here, masks, strict=True):
            whole = api.annToMask(annotation)[: size[0], : size[1]]
            mask[: whole.shape[0], : whole.shape[1]] = np.roll(whole, rng.integers(-5, 6), 1)
        instances = dict(
            bboxes=torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
            labels=torch.tensor([labels[a["category_id"]] for a in here], dtype=torch.long),
            scores=torch.from_numpy(rng.random(len(here)).round(2)).float(),
            masks=[synthetic.mask_api.encode(np.asfortranarray(mask)) for mask in masks],
        )
        results.append(dict(img_id=image["id"], ori_shape=size, pred_instances=instances))
    metric, _ = score(CocoMetric, truth, results, tmp_path, metric=["bbox", "segm"])
    for iou_type in ("bbox", "segm"):
        assert_same(metric.evaluations[iou_type], summary(truth, results, iou_type))
        assert metric.evaluations[iou_type].stats[0] > 0.1


def test_configs_name_it():
    metric = METRICS.build(dict(type="mmpvt.CocoMetric"))
    assert isinstance(metric, CocoMetric) and isinstance(metric, MMDetCocoMetric)


def test_names_of_categories_in_no_order(synthetic, tmp_path: Path):
    truth = synthetic.make_truth(6, 5, masks=False)
    results = list(synthetic.make_results(truth, 20, masks=False))
    _, expected = score(CocoMetric, truth, results, tmp_path, classwise=True)
    truth["categories"].reverse()
    for result in results:
        result["pred_instances"]["labels"] = 4 - result["pred_instances"]["labels"]
    _, found = score(CocoMetric, truth, results, tmp_path, classwise=True)
    assert found == expected and len(set(expected.values())) > 5


def test_thresholds_as_a_config_holds_them(computed_by: str, synthetic, tmp_path: Path):
    truth = synthetic.make_truth(6, 5, masks=False)
    results = list(synthetic.make_results(truth, 20, masks=False))
    _, expected = score(CocoMetric, truth, results, tmp_path, iou_thrs=np.array([0.5, 0.75]))
    _, found = score(CocoMetric, truth, results, tmp_path, iou_thrs=[0.5, 0.75])
    assert found == expected and found["coco/bbox_mAP_50"] > 0
    _, found = score(CocoMetric, truth, results, tmp_path, iou_thrs=0.5, classwise=True)
    assert found["coco/bbox_mAP_50"] == expected["coco/bbox_mAP_50"]


@pytest.mark.parametrize(
    "make_id", [lambda i: i, lambda i: -i, lambda i: 2**53 + i, str, "a{}".format]
)
def test_ids_of_annotations_do_not_matter(
    make_id: Callable, computed_by: str, synthetic, tmp_path: Path
):
    """pycocotools takes a match with the id 0 for none."""
    truth = synthetic.make_truth(2, 1, masks=False)
    results = list(synthetic.make_results(truth, 20, masks=False))
    _, expected = score(CocoMetric, truth, results, tmp_path)
    for i, annotation in enumerate(truth["annotations"]):
        annotation["id"] = make_id(i)
    _, found = score(CocoMetric, truth, results, tmp_path)
    assert found == expected and found["coco/bbox_mAP"] > 0


@pytest.mark.parametrize("spoiled", ["scores", "bboxes"])
def test_numbers_that_are_none(spoiled: str, synthetic, tmp_path: Path):
    """A model that has diverged still gets its score."""
    truth = synthetic.make_truth(3, 3, masks=False)
    results = list(synthetic.make_results(truth, 20, masks=False))
    for result in results:
        result["pred_instances"][spoiled][::2] = float("nan")
        result["pred_instances"]["bboxes"][1::4] = float("inf")
    _, ours = score(CocoMetric, truth, results, tmp_path)
    assert 0 < ours["coco/bbox_mAP"] < 1
    if spoiled == "scores":  # to pycocotools, a box of no numbers is any object's
        _, theirs = score(MMDetCocoMetric, truth, results, tmp_path)
        assert ours == theirs
