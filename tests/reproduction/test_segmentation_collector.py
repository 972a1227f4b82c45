"""The report's IoU by class is that of the test."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmpvt.evaluation import IoUMetric
from mmpvt.reproduction.segmentation_collector import SegmentationCollector


@pytest.mark.parametrize("ignored", [0, 255])
def test_what_the_test_ignores_is_ignored(ignored: int, tmp_path):
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(3, (1, 20, 30), generator=generator)
    truth[0, 0] = 255
    truth[truth == 255] = ignored
    predicted = torch.randint(3, (1, 20, 30), generator=generator)
    sample = SegDataSample(metainfo=dict(img_path=str(tmp_path / "a.jpg")))
    sample.gt_sem_seg, sample.pred_sem_seg = PixelData(data=truth), PixelData(data=predicted)

    metric = IoUMetric(ignore_index=ignored)
    metric.dataset_meta = dict(classes=("ground", "road", "tree"))
    metric.process({}, [sample.to_dict()])
    scores = metric.compute_metrics(metric.results)

    dataset = SimpleNamespace(metainfo=metric.dataset_meta)
    runner = SimpleNamespace(
        test_dataloader=SimpleNamespace(dataset=dataset),
        test_evaluator=SimpleNamespace(metrics=[metric]),
    )
    collector = SegmentationCollector(runner, details=True)
    summary = collector.summarize([collector.collect(sample)], max_images=0)
    iou = [one["IoU"] for one in summary["classes"]]
    assert 100 * np.nanmean(iou) == pytest.approx(scores["mIoU"], abs=0.01)
    assert np.sum(summary["confusion"]["counts"]) == (truth != ignored).sum()
