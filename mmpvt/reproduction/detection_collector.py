"""A detector's predictions, collected for curves, AP by class and a gallery of errors."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.datasets.api_wrappers import COCO
from mmdet.structures.mask import encode_mask_results, mask2bbox
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mmpvt.datasets.coco import is_valid_mask
from mmpvt.evaluation.coco_metric import CocoMetric
from mmpvt.evaluation.confusion import detection_confusion
from mmpvt.evaluation.detection_arrays import DetectionArrays, ObjectArrays
from mmpvt.evaluation.detection_errors import DetectionErrors, find_errors
from mmpvt.evaluation.matching import match
from mmpvt.evaluation.score_curves import ScoreCurve, score_curves
from mmpvt.reproduction.gallery_images import mask_polygons, thumbnail

MIN_SCORE = 0.3  # of detections that count as errors
LOWEST_SCORE = 0.02  # of detections that a report with details counts
MAX_MASKS = 100  # of an image's detections, the best
MAX_MARKS = 40  # objects, and detections, of an image in the gallery
SCORES = np.linspace(0, 1, 101)  # thresholds of curves over the score
MEASURES = ("precision", "recall", "F1")
MEAN = "mean of all classes"
SIZES = ("small", "medium", "large")


class DetectionCollector:
    """Collects what a report says of a detector.

    Args:
        runner (Runner): about to test it.
        details (bool): whether to find out what it confuses, and how the score's threshold counts.
    """

    def __init__(self, runner: Runner, details: bool) -> None:
        self.details = details
        self.metrics = runner.test_loop.evaluator.metrics
        self.metric = next((m for m in self.metrics if isinstance(m, CocoMetric)), None)

    def collect(self, sample: BaseDataElement) -> dict:
        """What the gallery needs of an image's prediction: ``bboxes`` (n, 4), left, top, right,
        bottom in pixels of the image file, ``scores``, ``labels``, and run-length encoded
        ``masks`` or None; none of these of a panoptic model."""
        image = dict(
            id=sample.metainfo.get("img_id"),
            path=sample.metainfo.get("img_path"),
            skipped="skipped" in sample.metainfo,
            size=sample.ori_shape[1::-1],
        )
        if "pred_instances" not in sample:
            return image
        instances = sample.pred_instances.cpu()
        instances = instances[instances.scores >= (LOWEST_SCORE if self.details else MIN_SCORE)]
        instances = instances[instances.scores.argsort(descending=True, stable=True)]
        boxes, masks = instances.bboxes, instances.get("masks")
        if isinstance(masks, torch.Tensor):
            if not boxes.any():  # of a model of masks alone
                boxes = mask2bbox(masks)
            masks = encode_mask_results(masks[:MAX_MASKS].numpy())
            masks += [None] * (len(instances) - len(masks))
        return dict(
            image,
            bboxes=boxes.numpy(),
            scores=instances.scores.numpy(),
            labels=instances.labels.numpy(),
            masks=masks,
        )

    def summarize(self, images: list[dict], max_images: int) -> dict:
        """``curves`` of ``bbox`` and perhaps ``segm``, and a ``gallery``, the worst first, and with
        details ``by_score``, ``confusion`` and ``min_score``; ``missing``, a sentence for each of
        these that can't be had."""
        metric: Any = self.metric  # there where nothing is missing
        images = [image for image in images if not image["skipped"]]
        if reason := self._why_nothing(images):
            return dict(
                missing=dict.fromkeys(("curves", "by_score", "confusion", "gallery"), reason)
            )
        missing: dict[str, str] = {}
        kinds = [kind for kind in metric.metrics if kind in ("bbox", "segm")]
        content: dict = dict(curves={kind: curves(metric, kind) for kind in kinds}, missing=missing)
        names = [metric.coco.cats[number]["name"] for number in metric.cat_ids]
        objects = ObjectArrays.collect(metric.coco, [one["id"] for one in images], metric.cat_ids)
        detections = DetectionArrays.collect(images, with_masks=False)
        min_score = MIN_SCORE
        result = next((metric.evaluations[k] for k in kinds if k in metric.evaluations), None)
        if result is None:
            missing["by_score"] = "The evaluator of the test scores proposals alone."
        elif self.details:
            own = ObjectArrays.collect(metric.coco, result.image_ids, metric.cat_ids)
            matches = match(own, result.detections)
            curves_by_class = score_curves(own, result.detections, matches, len(names))
            content["by_score"] = over_score(curves_by_class, names)
            if best := content["by_score"]["mean"]["best"]:
                min_score = max(LOWEST_SCORE, best["score"])
        if self.details:
            counts = detection_confusion(objects, detections, len(names), min_score)
            content["confusion"] = dict(names=[*names, "background"], counts=counts)
        content["min_score"] = min_score
        errors = find_errors(objects, detections, min_score)
        if not max_images:
            missing["gallery"] = "No pictures were asked for."
        if not len(objects.images):
            missing["false_negatives"] = "The images hold no objects."
        if not len(errors.detections.images):
            missing["false_positives"] = f"No detection has a score of at least {min_score:.2f}."
        content["gallery"] = [
            _entry(images[i], _marks(images[i], i, objects, errors, metric), names)
            for i in worst_first(objects, errors, len(images))[:max_images]
        ]
        return content

    def _why_nothing(self, images: list[dict]) -> str | None:
        if self.metric is None:
            names = ", ".join(type(metric).__name__ for metric in self.metrics)
            return f"This needs mmpvt.CocoMetric, and the evaluator of the test is {names}."
        if not images:
            return "No image was tested."
        if self.metric.coco is None:
            return "The evaluator of the test had no annotations."
        if any("bboxes" not in image for image in images):
            return "The model predicts no objects of their own."
        return None


def over_score(curves: Sequence[ScoreCurve], names: Sequence[str]) -> dict:
    """``scores``, thresholds; ``classes`` and their ``mean``, each with precision, recall and F1 at
    them, and the ``best``, of the highest F1."""
    lines = np.array([curve.at(SCORES) for curve in curves])  # (classes, 3, thresholds)
    present = np.ma.masked_invalid(lines[[curve.objects > 0 for curve in curves]])
    mean = present.mean(axis=0).filled(np.nan) if len(present) else np.full(lines.shape[1:], np.nan)
    f1 = np.nan_to_num(mean[2])
    best = (SCORES[f1.argmax()], *mean[:, f1.argmax()]) if f1.any() else None
    bests = [curve.best if curve.best and curve.best.f1 else None for curve in curves]
    rows = [
        dict(name=name, **dict(zip(MEASURES, line.round(3), strict=True)))
        | dict(best=one and dict(zip(("score", *MEASURES), one, strict=True)))
        for name, line, one in zip([*names, MEAN], [*lines, mean], [*bests, best], strict=True)
    ]
    for row, curve in zip(rows, curves, strict=False):
        row["objects"] = curve.objects
    return dict(scores=SCORES.round(2), classes=rows[:-1], mean=rows[-1])


def worst_first(objects: ObjectArrays, errors: DetectionErrors, count: int) -> list[int]:
    """Ranks images by their errors: the worst false negative and false positive take turns.

    Args:
        objects (ObjectArrays): of the images.
        errors (DetectionErrors): how bad each object's and detection's error is.
        count (int): number of images.

    Returns:
        list[int]: indices of the images that have errors, the worst first.
    """
    rankings = []
    for arrays, severity in (
        (objects, errors.false_negatives),
        (errors.detections, errors.false_positives),
    ):
        worst = np.zeros(count)
        np.maximum.at(worst, arrays.images, severity)
        order = np.argsort(-worst, kind="stable")
        rankings.append(order[worst[order] > 0].tolist())
    turns = (i for pair in itertools.zip_longest(*rankings) for i in pair if i is not None)
    return list(dict.fromkeys(turns))


def _marks(
    image: dict, index: int, objects: ObjectArrays, errors: DetectionErrors, metric: CocoMetric
) -> dict:
    """An image's objects and detections, a dict each."""
    coco: COCO = metric.coco
    annotations = (
        one for one in coco.imgToAnns.get(image["id"], ()) if one["category_id"] in metric.cat_ids
    )
    has_masks = image["masks"] is not None
    truth = [
        dict(
            label=objects.labels[i],
            box=objects.boxes[i],
            mask=mask if has_masks and is_valid_mask(mask, *image["size"]) else None,
            kind=errors.object_kinds[i],
            iou=errors.object_ious[i],
            severity=errors.false_negatives[i],
        )
        for i, mask in zip(
            np.flatnonzero(objects.images == index),
            (one.get("segmentation") for one in annotations),
            strict=True,
        )
    ]
    detections = [
        dict(
            label=errors.detections.labels[i],
            box=errors.detections.boxes[i],
            mask=image["masks"][number] if has_masks else None,
            kind=errors.detection_kinds[i],
            iou=errors.detection_ious[i],
            severity=errors.false_positives[i],
            score=errors.detections.scores[i],
            true_label=errors.true_labels[i],
        )
        for number, i in enumerate(np.flatnonzero(errors.detections.images == index))
    ]
    return dict(truth=truth, detections=detections)


def _entry(image: dict, found: dict, names: list[str]) -> dict:
    jpeg, scale = thumbnail(image["path"])
    marks = {
        side: [
            _mark(mark, scale, names, image["size"])
            for mark in sorted(found[side], key=lambda mark: -mark["severity"])[:MAX_MARKS]
        ]
        for side in ("truth", "detections")
    }
    return dict(
        image=Path(image["path"]).name,
        width=round(image["size"][0] * scale),
        height=round(image["size"][1] * scale),
        jpeg=jpeg,
        false_negative=_worst(marks["truth"]),
        false_positive=_worst(marks["detections"]),
        **marks,
    )


def _worst(marks: list[dict]) -> float:
    return max((mark["severity"] for mark in marks), default=0.0)


def _mark(mark: dict, scale: float, names: list[str], size: tuple[int, int]) -> dict:
    """An object or detection as the page draws it."""
    drawn = dict(
        name=names[mark["label"]],
        box=np.round(np.asarray(mark["box"]) * scale, 1).tolist(),
        kind=str(mark["kind"]),
        iou=round(float(mark["iou"]), 2),
        severity=round(float(mark["severity"]), 4),
    )
    if "score" in mark:
        drawn["score"] = round(float(mark["score"]), 3)
    if mark["kind"] == "classification":
        drawn["true_class"] = names[mark["true_label"]]
    if mark["mask"] is not None:
        drawn["polygons"] = mask_polygons(mark["mask"], size, scale)
    return drawn


def curves(metric: CocoMetric, kind: str) -> dict:
    """Precision over recall, and AP by class.

    Args:
        metric (CocoMetric): after its evaluation.
        kind (str): ``'bbox'`` or ``'segm'``.

    Returns:
        dict: ``AP``, ``AP50``, ``AP75``, ``AP_small`` and so on, unrounded, as shares of 1;
        ``curves``, the precision at recall 0, 0.01 … 1, averaged over classes, at IoU ``'0.50'``,
        ``'0.75'`` and averaged over all (``'mean'``); ``classes``, each class's ``name``, ``AP``
        and ``AP50`` (None without objects) and ``objects``, how many there are.
    """
    coco: COCO = metric.coco  # there after an evaluation
    counts = Counter(
        annotation["category_id"]
        for image in metric.img_ids
        for annotation in coco.imgToAnns.get(image, ())
        if not annotation.get("iscrowd")
    )
    result = metric.evaluations[kind]
    ids, thresholds = list(result.params.catIds), result.params.iouThrs
    # pycocotools' mark of what has no objects
    precision = np.ma.masked_equal(result.eval["precision"][..., -1], -1)
    by_iou = {name: np.isclose(thresholds, float(name)) for name in ("0.50", "0.75")}
    all_sizes = precision[..., 0]
    lines = {name: all_sizes[at].mean(0) for name, at in by_iou.items() if at.any()}
    classes = []
    for number in metric.cat_ids:
        own = all_sizes[:, :, ids.index(number)]
        ap50 = _mean(own[by_iou["0.50"]])
        name = coco.cats[number]["name"]
        classes.append(dict(name=name, AP=_mean(own), AP50=ap50, objects=counts[number]))
    return dict(
        AP=_mean(all_sizes),
        AP50=_mean(all_sizes[by_iou["0.50"]]),
        AP75=_mean(all_sizes[by_iou["0.75"]]),
        **{f"AP_{size}": _mean(precision[..., i]) for i, size in enumerate(SIZES, 1)},
        curves={
            name: [round(float(p), 4) for p in line.mean(1).filled(0)]
            for name, line in {**lines, "mean": all_sizes.mean(0)}.items()
        },
        classes=classes,
    )


def _mean(precision: np.ma.MaskedArray) -> float | None:
    mean = precision.mean()
    return None if mean is np.ma.masked else float(mean)
