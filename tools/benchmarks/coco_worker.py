"""A process that evaluates synthetic results once, and measures time and memory."""

from __future__ import annotations

import io
import json
import logging
import resource
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import torch
from mmengine.logging import MMLogger

from benchmarks.synthetic_coco import make_results, make_truth
from mmpvt.evaluation.coco_metric import CocoMetric, MMDetCocoMetric

CATEGORIES = 80  # as COCO
IMPLEMENTATIONS = {
    "mmpvt": "mmpvt.CocoMetric with faster-coco-eval",
    "pycocotools": "mmpvt.CocoMetric with pycocotools",
    "mmdet": "MMDetection's CocoMetric (pycocotools)",
}


def evaluate(implementation: str, iou_type: str, images: int, detections: int) -> dict:
    """Scores ``images`` images with ``detections`` detections each.

    Args:
        implementation (str): one of ``IMPLEMENTATIONS``.
        iou_type (str): ``'bbox'`` or ``'segm'``.
        images (int): how many.
        detections (int): of each.

    Returns:
        dict: ``seconds`` of the evaluation, from the collected predictions to the scores; ``peak``
        of the whole process and ``before``, what it held before that, in bytes; ``stats``.
    """
    torch.set_num_threads(1)
    if implementation == "pycocotools":
        sys.modules["faster_coco_eval"] = None  # as if it were not installed
    truth = make_truth(images, CATEGORIES, iou_type == "segm")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "truth.json"
        path.write_text(json.dumps(truth))
        kind = MMDetCocoMetric if implementation == "mmdet" else CocoMetric
        metric = kind(str(path), metric=iou_type)
    metric.dataset_meta = dict(classes=[category["name"] for category in truth["categories"]])
    for result in make_results(truth, detections, iou_type == "segm"):
        metric.process({}, [result])
    before = _peak()
    start = time.perf_counter()
    scores = metric.evaluate(images)
    seconds = time.perf_counter() - start
    stats = metric.evaluations[iou_type].stats.tolist() if implementation != "mmdet" else None
    return dict(seconds=seconds, peak=_peak(), before=before, scores=scores, stats=stats)


def main(implementation: str, iou_type: str, images: int, detections: int) -> None:
    """Prints :func:`evaluate`'s result as JSON, and nothing else."""
    MMLogger.get_instance("benchmark", log_level=logging.ERROR)
    with redirect_stdout(io.StringIO()):
        result = evaluate(implementation, iou_type, images, detections)
    json.dump(result, sys.stdout)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
