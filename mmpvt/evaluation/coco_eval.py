"""pycocotools' evaluation of boxes and masks, one category after the other."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from pycocotools.mask import iou

from mmpvt.evaluation.detection_arrays import DetectionArrays
from mmpvt.utils.files import collector_off

CATEGORY_AXES = {"precision": 2, "recall": 1, "scores": 2}  # of the arrays in COCOeval.eval


class CategorywiseCOCOeval(COCOeval):
    """Takes detections as arrays; parameters, results and summary are pycocotools'.

    Each category is evaluated by faster-coco-eval, the same algorithm in C++, where that is
    installed, and by pycocotools otherwise.

    Args:
        coco (COCO): pycocotools' API over the annotations.
        detections (DetectionArrays): of images of the annotations.
        image_ids (Sequence): by index of the detections' images.
        category_ids (Sequence): by label.
        iou_type (str): ``'bbox'`` or ``'segm'``.
    """

    def __init__(
        self,
        coco: COCO,
        detections: DetectionArrays,
        image_ids: Sequence,
        category_ids: Sequence,
        iou_type: str,
    ) -> None:
        super().__init__(coco, None, iou_type)
        self.detections = detections
        self.image_ids = image_ids
        self.category_ids = category_ids
        self.categories: list[dict[str, np.ndarray]] = []

    def evaluate(self) -> None:
        """Matches the detections with the annotations, a category at a time."""
        p = self.params
        p.imgIds = list(np.unique(p.imgIds))
        p.maxDets = sorted(p.maxDets)
        if p.useCats:
            p.catIds = list(np.unique(p.catIds))
        # faster-coco-eval takes int ids only: it gets indices of these lists
        images = {image: index for index, image in enumerate(p.imgIds)}
        categories = {category: index for index, category in enumerate(p.catIds)}
        new_image_ids = np.array([images.get(image, -1) for image in self.image_ids])
        new_category_ids = np.array([categories.get(c, -1) for c in self.category_ids])
        category_of = new_category_ids[self.detections.labels]
        used = np.flatnonzero((new_image_ids[self.detections.images] >= 0) & (category_of >= 0))
        truth = self._truth_by_category(images, categories)
        if p.useCats:
            used = used[np.argsort(category_of[used], kind="stable")]
            ends = np.searchsorted(category_of[used], np.arange(len(categories)), side="right")
            groups = [([k], indices) for k, indices in enumerate(np.split(used, ends[:-1]))]
        else:
            groups = [(list(range(len(categories))), used)]
        with collector_off():
            self.categories = [
                self._evaluate(
                    group,
                    [annotation for index in group for annotation in truth[index]],
                    self.detections.as_annotations(indices, new_image_ids, new_category_ids),
                )
                for group, indices in groups
            ]

    def accumulate(self) -> None:
        """Concatenates the categories' results, as ``eval``."""
        self.eval: dict[str, Any] = {
            name: np.concatenate([category[name] for category in self.categories], axis)
            for name, axis in CATEGORY_AXES.items()
        }
        self.eval.update(params=self.params, counts=[*self.eval["precision"].shape])
        self.categories = []

    def _truth_by_category(self, images: dict, categories: dict) -> dict[int, list[dict]]:
        truth = defaultdict(list)
        fresh = itertools.count(1)  # to the evaluators, a match with the id 0 or a string is none
        for image, index in images.items():
            for annotation in self.cocoGt.imgToAnns.get(image, ()):
                category = categories.get(annotation["category_id"])
                if category is None:
                    continue
                copy = {key: annotation[key] for key in ("bbox", "area")}
                copy.update(id=next(fresh), image_id=index, category_id=category)
                copy["iscrowd"] = int(annotation.get("iscrowd", 0))
                if self.params.iouType == "segm":
                    copy["segmentation"] = self.cocoGt.annToRLE(annotation)
                truth[category].append(copy)
        return truth

    def _evaluate(
        self, group: list[int], truth: list[dict], detections: list[dict]
    ) -> dict[str, np.ndarray]:
        """One category, or all as one."""
        p = self.params
        if not truth:  # pycocotools excludes such a category from every mean
            shape = len(p.iouThrs), len(p.recThrs), 1, len(p.areaRng), len(p.maxDets)
            shapes = {"precision": shape, "recall": (shape[0], *shape[2:]), "scores": shape}
            return {name: -np.ones(shape) for name, shape in shapes.items()}
        indices = sorted({annotation["image_id"] for annotation in (*truth, *detections)})
        images = [dict(self.cocoGt.imgs[p.imgIds[index]], id=index) for index in indices]
        with redirect_stdout(StringIO()):
            evaluation = _evaluator()(_api(images, truth), _api(images, detections), p.iouType)
            for name in ("useCats", "maxDets", "areaRng", "areaRngLbl", "iouThrs", "recThrs"):
                setattr(evaluation.params, name, getattr(p, name))
            evaluation.params.imgIds, evaluation.params.catIds = indices, group
            evaluation.evaluate()
            evaluation.accumulate()
        return {name: np.asarray(evaluation.eval[name]) for name in CATEGORY_AXES}


def _api(images: list[dict], annotations: list[dict]) -> COCO:
    api = COCO()
    api.dataset = dict(images=images, annotations=annotations, categories=[])
    api.createIndex()
    return api


def _evaluator() -> type:
    try:
        from faster_coco_eval import COCOeval_faster
    except ImportError:  # it is an extra
        return COCOeval

    class FasterEvaluator(COCOeval_faster):
        """Compares run-length encoded masks as they are.

        The original decodes and encodes each first, which takes longer than to compare it.
        """

        def _prepare(self) -> None:
            self.params.compute_rle = False
            super()._prepare()

        def computeIoU(self, imgId: int, catId: int) -> list | np.ndarray:
            """(detections, objects) IoUs in an image, the best detections first."""
            if self.params.iouType != "segm":
                return super().computeIoU(imgId, catId)
            objects, found = self.cocoGt.imgToAnns[imgId], self.cocoDt.imgToAnns[imgId]
            order = np.argsort([-detection["score"] for detection in found], kind="stable")
            return iou(
                [found[i]["segmentation"] for i in order[: self.params.maxDets[-1]]],
                [annotation["segmentation"] for annotation in objects],
                [annotation["iscrowd"] for annotation in objects],
            )

    return FasterEvaluator
