"""The table of Pascal VOC's APs names the data set's classes."""

from __future__ import annotations

import numpy as np
import pytest
from mmdet.datasets import VOCDataset
from mmdet.evaluation.metrics import voc_metric

from mmpvt.evaluation import VOCMetric

OWN = tuple(f"own {label}" for label in range(21))


@pytest.mark.parametrize(
    ("classes", "named"), [(OWN, OWN), (VOCDataset.METAINFO["classes"], "voc")]
)
def test_classes_in_a_folder_named_as_vocs(
    classes: tuple, named: object, monkeypatch: pytest.MonkeyPatch
):
    told = {}
    monkeypatch.setattr(voc_metric, "eval_map", lambda *_, **kwargs: (told.update(kwargs) or 1, 0))
    metric = VOCMetric(eval_mode="11points")
    metric.dataset_meta = dict(classes=classes, dataset_type="VOC2007")
    metric.compute_metrics([({}, [np.zeros((0, 5))])])
    assert told["dataset"] == named
