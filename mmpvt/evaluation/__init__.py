"""Metrics: MMDetection's, at the full size of a data set."""

from mmpvt.evaluation.coco_metric import CocoMetric
from mmpvt.evaluation.coco_results import DumpDetResults

__all__ = ["CocoMetric", "DumpDetResults"]
