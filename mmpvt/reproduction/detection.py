"""A detector's predictions: kept as they come, then turned into curves and a gallery."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.structures.mask import encode_mask_results
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mmpvt.reproduction.curves import Truth, curves, read_truth
from mmpvt.reproduction.mistakes import find_mistakes, worst_first
from mmpvt.reproduction.outlines import outline
from mmpvt.reproduction.pictures import picture

SHOWN = 40  # objects of an image at most, in the gallery


class Detections:
    """What a report says of a detector.

    Args:
        runner (Runner): about to test it.
    """

    def __init__(self, runner: Runner) -> None:
        self.dataset = runner.test_dataloader.dataset
        evaluators = runner.cfg.test_evaluator
        evaluators = evaluators if isinstance(evaluators, list) else [evaluators]
        self.evaluator = next((e for e in evaluators if "CocoMetric" in str(e["type"])), None)

    def keep(self, sample: BaseDataElement) -> dict:
        """What is needed of an image's prediction.

        Args:
            sample (BaseDataElement): MMDetection's, with ``pred_instances``.

        Returns:
            dict: arrays ``boxes`` (n, 4), left, top, right, bottom in pixels of the image as it is
            on the disk, ``scores`` (n,), ``labels`` (n,); ``masks``, run-length encoded, or None.
        """
        found = sample.pred_instances.cpu()
        masks = found.get("masks")
        if hasattr(masks, "numpy"):
            masks = encode_mask_results(masks.numpy())
        return dict(
            id=sample.metainfo.get("img_id"),
            path=sample.metainfo.get("img_path"),
            left_out="skipped" in sample.metainfo,
            size=sample.ori_shape[1::-1],
            boxes=found.bboxes.numpy(),
            scores=found.scores.numpy(),
            mask_scores=found.get("mask_scores", found.scores).numpy(),
            labels=found.labels.numpy(),
            masks=masks,
        )

    def summary(self, images: list[dict], pictures: int) -> dict:
        """Curves and a gallery.

        Args:
            images (list[dict]): what :meth:`keep` gave, of all images.
            pictures (int): at most as many in the gallery.

        Returns:
            dict: ``curves`` by kind, ``bbox`` and, where masks were evaluated, ``segm``;
            ``gallery``, the worst first; empty for a data set that is not in COCO's format.
        """
        if self.evaluator is None or not isinstance(self.dataset, CocoDataset):
            return {}
        file = self.evaluator.get("ann_file")
        truth = read_truth(file or self.dataset.ann_file, self.dataset.metainfo["classes"])
        images = [image for image in images if not image["left_out"]]
        seen = {image["id"] for image in images}
        if file is None or len(seen) < len(self.dataset):  # as the evaluator counts
            truth = Truth(truth.coco, sorted(seen), truth.category_ids, truth.classes)
        kinds = self.evaluator.get("metric", "bbox")
        kinds = [kinds] if isinstance(kinds, str) else kinds
        return dict(
            curves={
                kind: curves(truth, _results(images, truth, kind), kind)
                for kind in kinds
                if kind in ("bbox", "segm")
            },
            gallery=_gallery(images, truth, pictures),
        )


def _results(images: list[dict], truth: Truth, kind: str) -> list[dict]:
    """In COCO's format."""
    results = []
    for image in images:
        boxes = image["boxes"].astype(float)
        boxes[:, 2:] -= boxes[:, :2]
        scores = image["scores"] if kind == "bbox" else image["mask_scores"]
        for i, label in enumerate(image["labels"].tolist()):
            result = dict(
                image_id=image["id"],
                category_id=truth.category_ids[label],
                score=float(scores[i]),
            )
            if kind == "bbox":
                result["bbox"] = boxes[i].tolist()
            else:
                result["segmentation"] = image["masks"][i]
            results.append(result)
    return results


def _gallery(images: list[dict], truth: Truth, pictures: int) -> list[dict]:
    """Images with mistakes, the worst first, each with its truth and detections drawn to scale."""
    labels = {number: label for label, number in enumerate(truth.category_ids)}
    found = {}
    for image in images:
        annotations = [
            dict(a, label=labels[a["category_id"]])
            for a in truth.coco.imgToAnns.get(image["id"], ())
            if a["category_id"] in labels
        ]
        found[image["id"]] = find_mistakes(image, annotations)
    by_id = {image["id"]: image for image in images}
    return [
        _entry(by_id[number], found[number], truth.classes)
        for number in worst_first(found)[:pictures]
    ]


def _entry(image: dict, marks: dict, classes: list[str]) -> dict:
    jpeg, scale = picture(image["path"])
    for objects in (marks["truth"], marks["found"]):
        objects.sort(key=lambda mark: -mark["severity"])
        del objects[SHOWN:]
    return dict(
        image=Path(image["path"]).name,
        width=round(image["size"][0] * scale),
        height=round(image["size"][1] * scale),
        jpeg=jpeg,
        miss=marks["miss"],
        alarm=marks["alarm"],
        truth=[_drawn(mark, scale, classes, image["size"]) for mark in marks["truth"]],
        found=[_drawn(mark, scale, classes, image["size"]) for mark in marks["found"]],
    )


def _drawn(mark: dict, scale: float, classes: list[str], size: tuple[int, int]) -> dict:
    drawn = dict(
        name=classes[mark["label"]],
        box=np.round(np.asarray(mark["box"]) * scale, 1).tolist(),
        kind=mark["kind"],
        iou=round(mark["iou"], 2),
    )
    if "score" in mark:
        drawn["score"] = round(mark["score"], 3)
    if mark.get("instead") is not None:
        drawn["instead"] = classes[mark["instead"]]
    if mark["mask"] is not None:
        drawn["outline"] = outline(mark["mask"], size, scale)
    return drawn
