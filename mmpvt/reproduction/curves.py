"""COCO's precision-recall curves and what follows from them, by class."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

try:
    from faster_coco_eval import COCO
    from faster_coco_eval import COCOeval_faster as COCOeval
except ImportError:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

SIZES = ("small", "medium", "large")
MAX_DETS = [100, 300, 1000]  # as MMDetection's metric takes them
AT_50, AT_75 = 0, 5  # of the thresholds 0.5, 0.55 … 0.95


@dataclass(frozen=True)
class Truth:
    """The annotations that detections are compared with.

    Attributes:
        coco: the annotation file.
        image_ids: images that count.
        category_ids: by label.
        classes: names, by label.
    """

    coco: COCO
    image_ids: list[int]
    category_ids: list[int]
    classes: list[str]


def read_truth(file: str, classes: Sequence[str]) -> Truth:
    """Reads an annotation file.

    Args:
        file (str): in COCO's format.
        classes (Sequence[str]): those that count, as the data set names them.

    Returns:
        Truth: all its images count.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(file)
    return Truth(coco, coco.getImgIds(), coco.getCatIds(catNms=list(classes)), list(classes))


def curves(truth: Truth, results: list[dict], kind: str) -> dict:
    """Precision over recall, and AP by class.

    Args:
        truth (Truth): what is there.
        results (list[dict]): detections in COCO's format.
        kind (str): ``'bbox'`` or ``'segm'``.

    Returns:
        dict: ``AP`` and the like, as unrounded shares; ``curves``, at IoU 0.50, 0.75 and the mean
        of all ten, the precision at recall 0, 0.01 … 1, a mean over classes; ``classes``, the
        class's name, ``AP`` and ``AP50`` (None without truth), and ``truths``, how many there are.
    """
    counts = Counter(
        a["category_id"]
        for a in truth.coco.loadAnns(truth.coco.getAnnIds(imgIds=truth.image_ids))
        if not a.get("iscrowd")
    )
    if not results:
        precision = np.zeros((10, 101, len(truth.category_ids), 4))
        for k, number in enumerate(truth.category_ids):
            precision[:, :, k] = 0 if counts[number] else -1
    else:
        precision = _precision(truth, results, kind)
    masked = np.ma.masked_equal(precision, -1)
    all_sizes = masked[..., 0]
    by_class = [
        dict(
            name=name,
            AP=_mean(all_sizes[:, :, k]),
            AP50=_mean(all_sizes[AT_50, :, k]),
            truths=counts[number],
        )
        for k, (name, number) in enumerate(zip(truth.classes, truth.category_ids, strict=True))
    ]
    lines = {"0.50": all_sizes[AT_50], "0.75": all_sizes[AT_75], "mean": all_sizes.mean(0)}
    return dict(
        AP=_mean(all_sizes),
        AP50=_mean(all_sizes[AT_50]),
        AP75=_mean(all_sizes[AT_75]),
        **{f"AP_{size}": _mean(masked[..., i]) for i, size in enumerate(SIZES, 1)},
        curves={
            name: [round(float(p), 4) for p in line.mean(1).filled(0)]
            for name, line in lines.items()
        },
        classes=by_class,
    )


def _precision(truth: Truth, results: list[dict], kind: str) -> np.ndarray:
    """By IoU threshold, recall, class and size of object: (10, 101, classes, 4)."""
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth.coco, truth.coco.loadRes(results), kind)
        evaluation.params.catIds = truth.category_ids
        evaluation.params.imgIds = truth.image_ids
        evaluation.params.maxDets = MAX_DETS
        evaluation.evaluate()
        evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"])[..., -1]
    return precision[:, :, np.argsort(np.argsort(truth.category_ids))]  # it has sorted the ids


def _mean(values: np.ma.MaskedArray) -> float | None:
    mean = values.mean()
    return None if mean is np.ma.masked else float(mean)
