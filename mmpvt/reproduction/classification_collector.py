"""A classifier's predictions, collected for recall by class and a gallery of the worst images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mmpvt.evaluation.confusion import precision_and_recall
from mmpvt.reproduction.gallery_images import thumbnail

SHOWN = 3  # classes that an image is taken for


class ClassificationCollector:
    """Collects what a report says of a classifier.

    Args:
        runner (Runner): about to test it.
        details (bool): whether to find out what it confuses.
    """

    def __init__(self, runner: Runner, details: bool) -> None:
        self.details = details
        self.classes = list(runner.test_dataloader.dataset.metainfo["classes"])

    def collect(self, sample: BaseDataElement) -> dict:
        """What is needed of an image's prediction: ``truth`` and ``predicted`` labels, the score
        of the truth, and the highest scores."""
        scores = sample.pred_score.cpu()
        top, labels = scores.topk(min(SHOWN, len(scores)))
        truth = int(sample.gt_label)
        return dict(
            path=sample.metainfo.get("img_path"),
            skipped="skipped" in sample.metainfo,
            truth=truth,
            predicted=int(labels[0]),
            score=float(scores[truth]),
            top=list(zip(labels.tolist(), top.tolist(), strict=True)),
        )

    def summarize(self, images: list[dict], max_images: int) -> dict:
        """``classes``, each one's recall, precision and share of the images, and a ``gallery`` of
        images taken for another class, the lowest score of the truth first; with details the
        ``confusion``, too."""
        images = [image for image in images if not image["skipped"]]
        truth, predicted = (
            np.array([image[key] for image in images], int) for key in ("truth", "predicted")
        )
        size = len(self.classes)
        counts = np.bincount(truth * size + predicted, minlength=size**2).reshape(size, size)
        precision, recall = precision_and_recall(counts)
        shares = counts.sum(1) / max(1, counts.sum())
        rows = zip(self.classes, recall, precision, shares, strict=True)
        keys = ("name", "recall", "precision", "share")
        content: dict = dict(
            classified=True,
            classes=[
                dict(zip(keys, (name, *map(float, values)), strict=True)) for name, *values in rows
            ],
        )
        wrong = [image for image in images if image["truth"] != image["predicted"]]
        wrong.sort(key=lambda image: image["score"])
        content["gallery"] = [self._entry(image) for image in wrong[:max_images]]
        if self.details:
            content["confusion"] = dict(names=self.classes, counts=counts.tolist())
        return content

    def _entry(self, image: dict) -> dict:
        return dict(
            image=Path(image["path"]).name,
            jpeg=thumbnail(image["path"])[0],
            class_=self.classes[image["truth"]],
            taken_for=[[self.classes[label], round(score, 4)] for label, score in image["top"]],
        )
