"""A detector's predictions, collected for AP by class and a gallery of errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmdet.structures.mask import encode_mask_results
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mmpvt.evaluation.coco_metric import CocoMetric
from mmpvt.reproduction.coco_curves import curves
from mmpvt.reproduction.detection_errors import MIN_SCORE, find_errors, worst_first
from mmpvt.reproduction.gallery_images import mask_polygons, thumbnail

MAX_MARKS = 40  # objects, and detections, of an image in the gallery


class DetectionCollector:
    """Collects what a report says of a detector, which ``runner`` is about to test."""

    def __init__(self, runner: Runner) -> None:
        metrics = runner.test_loop.evaluator.metrics
        self.metric = next((m for m in metrics if isinstance(m, CocoMetric)), None)

    def collect(self, sample: BaseDataElement) -> dict:
        """What the gallery needs of an image's prediction: ``boxes`` (n, 4), left, top, right,
        bottom in pixels of the image file, ``scores``, ``labels``, and run-length encoded
        ``masks`` or None."""
        instances = sample.pred_instances.cpu()
        instances = instances[instances.scores >= MIN_SCORE]
        masks = instances.get("masks")
        if hasattr(masks, "numpy"):
            masks = encode_mask_results(masks.numpy())
        return dict(
            id=sample.metainfo.get("img_id"),
            path=sample.metainfo.get("img_path"),
            skipped="skipped" in sample.metainfo,
            size=sample.ori_shape[1::-1],
            boxes=instances.bboxes.numpy(),
            scores=instances.scores.numpy(),
            labels=instances.labels.numpy(),
            masks=masks,
        )

    def summarize(self, images: list[dict], max_images: int) -> dict:
        """``curves`` of ``bbox`` and perhaps ``segm``, and a ``gallery``, the worst first; nothing
        without a COCO metric."""
        metric = self.metric
        if metric is None or metric.coco is None:
            return {}
        kinds = [kind for kind in metric.metrics if kind in ("bbox", "segm")]
        return dict(
            curves={kind: curves(metric, kind) for kind in kinds},
            gallery=_gallery(images, max_images, metric.coco, metric.cat_ids),
        )


def _gallery(
    images: list[dict], max_images: int, coco: COCO, category_ids: Sequence[int]
) -> list[dict]:
    labels = {number: label for label, number in enumerate(category_ids)}
    by_id = {image["id"]: image for image in images if not image["skipped"]}
    errors = {}
    for number, image in by_id.items():
        annotations = [
            dict(annotation, label=labels[annotation["category_id"]])
            for annotation in coco.imgToAnns.get(number, ())
            if annotation["category_id"] in labels
        ]
        errors[number] = find_errors(image, annotations)
    names = [coco.cats[number]["name"] for number in category_ids]
    worst = worst_first(errors)[:max_images]
    return [_entry(by_id[number], errors[number], names) for number in worst]


def _entry(image: dict, errors: dict, names: list[str]) -> dict:
    jpeg, scale = thumbnail(image["path"])
    marks = {
        side: [
            _mark(mark, scale, names, image["size"])
            for mark in sorted(errors[side], key=lambda mark: -mark["severity"])[:MAX_MARKS]
        ]
        for side in ("truth", "detections")
    }
    return dict(
        image=Path(image["path"]).name,
        width=round(image["size"][0] * scale),
        height=round(image["size"][1] * scale),
        jpeg=jpeg,
        false_negative=errors["false_negative"],
        false_positive=errors["false_positive"],
        **marks,
    )


def _mark(mark: dict, scale: float, names: list[str], size: tuple[int, int]) -> dict:
    """An object or detection as the page draws it."""
    drawn = dict(
        name=names[mark["label"]],
        box=np.round(np.asarray(mark["box"]) * scale, 1).tolist(),
        kind=mark["kind"],
        iou=round(mark["iou"], 2),
    )
    if "score" in mark:
        drawn["score"] = round(mark["score"], 3)
    if mark.get("true_label") is not None:
        drawn["true_class"] = names[mark["true_label"]]
    if mark["mask"] is not None:
        drawn["polygons"] = mask_polygons(mark["mask"], size, scale)
    return drawn
