"""A segmenter's predictions, collected for IoU by class and a gallery of the worst images."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import torch
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mmpvt.evaluation.confusion import precision_and_recall
from mmpvt.evaluation.iou_metric import IoUMetric
from mmpvt.reproduction.gallery_images import encode_label_map, thumbnail
from mmpvt.utils.constants import IGNORE_LABEL
from mmpvt.visualization.drawing import colours

COUNTS = ("intersection", "union", "truth")  # pixels by class


class SegmentationCollector:
    """Collects what a report says of a segmenter.

    Args:
        runner (Runner): about to test it.
        details (bool): whether to find out what it confuses.
    """

    def __init__(self, runner: Runner, details: bool) -> None:
        self.details = details
        meta = runner.test_dataloader.dataset.metainfo
        self.classes = list(meta["classes"])
        chosen = colours(meta.get("palette"), len(self.classes))
        self.palette = np.zeros((256, 3), dtype=np.uint8)
        self.palette[: len(chosen)] = chosen
        metrics = runner.test_evaluator.metrics
        self.ignored = next(
            (metric.ignore_index for metric in metrics if isinstance(metric, IoUMetric)),
            IGNORE_LABEL,
        )

    def collect(self, sample: BaseDataElement) -> dict:
        """What is needed of an image's prediction: pixels by class, ``intersection``, ``union``
        and ``truth``, and both label maps as PNG files, transparent where the truth is ignored."""
        predicted = sample.pred_sem_seg.data.squeeze().cpu()
        truth = sample.gt_sem_seg.data.squeeze().cpu().to(predicted)
        intersection, union, _, area = IoUMetric.intersect_and_union(
            predicted, truth, len(self.classes), self.ignored
        )
        ignored = truth == self.ignored
        cells = np.zeros(0, dtype=int)
        if self.details:
            known = ~ignored & (truth < len(self.classes)) & (predicted < len(self.classes))
            cells = (truth.int() * len(self.classes) + predicted.int())[known].numpy()
        return dict(
            cells=np.unique(cells, return_counts=True),  # of the confusion matrix, and their pixels
            path=sample.metainfo.get("img_path"),
            skipped="skipped" in sample.metainfo,
            intersection=intersection.numpy(),
            union=union.numpy(),
            truth=area.numpy(),
            truth_map=self._encode(truth.masked_fill(ignored, IGNORE_LABEL)),
            prediction_map=self._encode(predicted.masked_fill(ignored, IGNORE_LABEL)),
        )

    def _encode(self, labels: torch.Tensor) -> bytes:
        return encode_label_map(labels.numpy().astype(np.uint8), self.palette)

    def summarize(self, images: list[dict], max_images: int) -> dict:
        """``classes``, each one's IoU (NaN where neither truth nor prediction has it) and share of
        all pixels, and a ``gallery``, the worst first; with details the ``confusion``, too;
        ``missing``, a sentence for each of these that can't be had."""
        images = [image for image in images if not image["skipped"]]
        if not images:
            missing = dict.fromkeys(("curves", "confusion", "gallery"), "No image was tested.")
            return dict(classes=[], missing=missing)
        none = np.zeros(len(self.classes))
        intersection, union, area = (sum((i[key] for i in images), none) for key in COUNTS)
        with np.errstate(invalid="ignore"):
            ious = intersection / union
        shares = area / max(1.0, area.sum())
        classes = [
            dict(name=name, IoU=float(iou), share=float(share))
            for name, iou, share in zip(self.classes, ious, shares, strict=True)
        ]
        order = sorted((i for i in images if i["truth"].any()), key=_mean_iou)
        content: dict = dict(classes=classes, gallery=[self._entry(i) for i in order[:max_images]])
        content["missing"] = {} if max_images else {"gallery": "No pictures were asked for."}
        if self.details:
            counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
            for image in images:
                cells, pixels = image["cells"]
                counts.flat[cells] += pixels
            content["confusion"] = dict(names=self.classes, counts=counts.tolist())
            for one, *values in zip(classes, *precision_and_recall(counts), strict=True):
                one["precision"], one["recall"] = map(float, values)
        return content

    def _entry(self, image: dict) -> dict:
        labels = np.flatnonzero(image["union"])
        ious = image["intersection"][labels] / image["union"][labels]
        total = image["truth"].sum()
        return dict(
            image=Path(image["path"]).name,
            jpeg=thumbnail(image["path"])[0],
            truth_map=base64.b64encode(image["truth_map"]).decode(),
            prediction_map=base64.b64encode(image["prediction_map"]).decode(),
            mean_iou=round(_mean_iou(image), 4),
            classes=[
                dict(
                    name=self.classes[label],
                    colour=f"#{self.palette[label].tobytes().hex()}",
                    iou=round(float(iou), 3),
                    share=round(float(image["truth"][label] / total), 4),
                )
                for iou, label in sorted(zip(ious, labels, strict=True), key=lambda pair: pair[0])
            ],
        )


def _mean_iou(image: dict) -> float:
    """Over the classes that the truth has."""
    present = image["truth"] > 0
    return float((image["intersection"][present] / image["union"][present]).mean())
