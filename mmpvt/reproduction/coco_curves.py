"""Precision-recall curves and AP by class, from what the COCO metric has computed."""

from __future__ import annotations

from collections import Counter

import numpy as np
from mmdet.datasets.api_wrappers import COCO

from mmpvt.evaluation.coco_metric import CocoMetric

SIZES = ("small", "medium", "large")
THRESHOLDS = np.linspace(0.5, 0.95, 10)


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
    result = metric.evaluations.get(kind)
    if result is None:  # nothing was detected, and MMDetection's metric doesn't evaluate
        ids, thresholds = metric.cat_ids, THRESHOLDS
        precision = np.zeros((len(thresholds), 101, len(ids), 4))
        precision[:, :, [not counts[number] for number in ids]] = -1
    else:
        ids, thresholds = list(result.params.catIds), result.params.iouThrs
        precision = result.eval["precision"][..., -1]
    precision = np.ma.masked_equal(precision, -1)  # pycocotools' mark of what has no objects
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
