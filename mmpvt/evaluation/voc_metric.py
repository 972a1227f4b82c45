"""MMDetection's metric of Pascal VOC's scores, for classes of the user's own."""

from __future__ import annotations

from typing import Any

from mmdet.datasets import VOCDataset
from mmdet.evaluation import VOCMetric as MMDetVOCMetric

from mmpvt.registry import METRICS


@METRICS.register_module()
class VOCMetric(MMDetVOCMetric):
    """Takes the arguments of MMDetection's, and gives its scores.

    MMDetection's table has VOC's twenty names for the classes of any data in a folder VOC2007 or
    VOC2012, and can't name more.
    """

    dataset_meta: Any  # MMEngine's property

    def compute_metrics(self, results: list) -> dict:
        """The scores, with the data set's names in the table of classes."""
        if tuple(self.dataset_meta["classes"]) != VOCDataset.METAINFO["classes"]:
            self.dataset_meta = {**self.dataset_meta, "dataset_type": None}
        return super().compute_metrics(results)
