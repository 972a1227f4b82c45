"""Metrics: MMDetection's, at the full size of a data set."""

from mmpvt.evaluation.coco_metric import CocoMetric

__all__ = ["CocoMetric"]
