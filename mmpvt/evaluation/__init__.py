"""Metrics: MMDetection's and MMSegmentation's, at the full size of a data set."""

from mmpvt.evaluation.coco_metric import CocoMetric
from mmpvt.evaluation.coco_results import DumpDetResults
from mmpvt.evaluation.iou_metric import IoUMetric
from mmpvt.evaluation.voc_metric import VOCMetric

__all__ = ["CocoMetric", "DumpDetResults", "IoUMetric", "VOCMetric"]
