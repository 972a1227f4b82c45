"""pycocotools' evaluation of boxes and masks, computed by faster-coco-eval.

Both are the official algorithm. faster-coco-eval's runs in C++, but takes a dict for each
detection, as pycocotools does: here one category is evaluated after the other, so that only one's
detections are in that form at a time.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from pycocotools.coco import COCO as Truth
from pycocotools.cocoeval import COCOeval
from pycocotools.mask import iou

from mmpvt.evaluation.detections import Detections
from mmpvt.utils.files import collector_off

AXES = {"precision": 2, "recall": 1, "scores": 2}  # where each array counts categories


class FasterCOCOeval(COCOeval):
    """Takes detections as arrays; parameters, results and summary are pycocotools'.

    Args:
        truth (Truth): pycocotools' API over the annotations.
        detections (Detections): of images of the truth.
        image_ids (Sequence): of each image that the detections count.
        category_ids (Sequence): of each class that the detections count.
        iou_type (str): ``'bbox'`` or ``'segm'``.
    """

    def __init__(
        self,
        truth: Truth,
        detections: Detections,
        image_ids: Sequence,
        category_ids: Sequence,
        iou_type: str,
    ) -> None:
        super().__init__(truth, None, iou_type)
        self.detections = detections
        self.image_ids = image_ids
        self.category_ids = category_ids
        self.parts: list[dict[str, np.ndarray]] = []

    def evaluate(self) -> None:
        """Matches the detections with the truth, a category at a time."""
        p = self.params
        p.imgIds = list(np.unique(p.imgIds))
        p.maxDets = sorted(p.maxDets)
        if p.useCats:
            p.catIds = list(np.unique(p.catIds))
        # ids may be anything: faster-coco-eval's are places in these lists
        images = {image: place for place, image in enumerate(p.imgIds)}
        categories = {category: place for place, category in enumerate(p.catIds)}
        image_places = np.array([images.get(image, -1) for image in self.image_ids])
        category_places = np.array([categories.get(c, -1) for c in self.category_ids])
        of_image = image_places[self.detections.images]
        of_category = category_places[self.detections.labels]
        used = np.flatnonzero((of_image >= 0) & (of_category >= 0))
        truth = self._truth_by_category(images, categories)
        if p.useCats:
            used = used[np.argsort(of_category[used], kind="stable")]
            ends = np.searchsorted(of_category[used], np.arange(len(categories)), side="right")
            groups = [([k], which) for k, which in enumerate(np.split(used, ends[:-1]))]
        else:
            groups = [(list(range(len(categories))), used)]
        with collector_off():
            self.parts = [
                self._evaluate(
                    group,
                    [annotation for place in group for annotation in truth[place]],
                    self.detections.as_annotations(which, image_places, category_places),
                )
                for group, which in groups
            ]

    def accumulate(self) -> None:
        """Puts the categories' results together, as ``eval``."""
        self.eval = {
            name: np.concatenate([part[name] for part in self.parts], axis)
            for name, axis in AXES.items()
        }
        self.eval.update(params=self.params, counts=[*self.eval["precision"].shape])
        self.parts = []

    def _truth_by_category(self, images: dict, categories: dict) -> dict[int, list[dict]]:
        truth = defaultdict(list)
        for image, place in images.items():
            for annotation in self.cocoGt.imgToAnns.get(image, ()):
                category = categories.get(annotation["category_id"])
                if category is None:
                    continue
                copy = {key: annotation[key] for key in ("id", "bbox", "area")}
                copy.update(image_id=place, category_id=category)
                copy["iscrowd"] = int(annotation.get("iscrowd", 0))
                if self.params.iouType == "segm":
                    copy["segmentation"] = self.cocoGt.annToRLE(annotation)
                truth[category].append(copy)
        return truth

    def _evaluate(
        self, group: list[int], truth: list[dict], detections: list[dict]
    ) -> dict[str, np.ndarray]:
        p = self.params
        if not truth:  # no such category: pycocotools leaves it out of every mean
            shape = len(p.iouThrs), len(p.recThrs), 1, len(p.areaRng), len(p.maxDets)
            shapes = {"precision": shape, "recall": (shape[0], *shape[2:]), "scores": shape}
            return {name: -np.ones(shape) for name, shape in shapes.items()}
        places = sorted({annotation["image_id"] for annotation in (*truth, *detections)})
        images = [dict(id=place) for place in places]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an annotation's id of 0, which pycocotools takes
            sides = [
                COCO(dict(images=images, annotations=side, categories=[dict(id=k) for k in group]))
                for side in (truth, detections)
            ]
        evaluation = _Group(*sides, p.iouType)
        for name in ("useCats", "maxDets", "areaRng", "areaRngLbl", "iouThrs", "recThrs"):
            setattr(evaluation.params, name, getattr(p, name))
        evaluation.params.imgIds, evaluation.params.catIds = places, group
        evaluation.evaluate()
        evaluation.accumulate()
        return {name: np.asarray(evaluation.eval[name]) for name in AXES}


class _Group(COCOeval_faster):
    """Of one category, or of all as one; compares masks as they come.

    The original decodes and encodes each first, which takes longer than to compare it.
    """

    def __init__(self, truth: COCO, detections: COCO, iou_type: str) -> None:
        super().__init__(truth, detections, iou_type)
        self.params.compute_rle = False

    def computeIoU(self, imgId: int, catId: int) -> list | np.ndarray:
        """(detections, objects) overlaps in an image, the best detections first."""
        if self.params.iouType != "segm":
            return super().computeIoU(imgId, catId)
        truth, found = self.cocoGt.imgToAnns[imgId], self.cocoDt.imgToAnns[imgId]
        order = np.argsort([-detection["score"] for detection in found], kind="stable")
        return iou(
            [found[place]["segmentation"] for place in order[: self.params.maxDets[-1]]],
            [annotation["segmentation"] for annotation in truth],
            [annotation["iscrowd"] for annotation in truth],
        )
