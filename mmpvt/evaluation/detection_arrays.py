"""The detections and objects of a whole test in a few arrays, instead of a dict a box.

faster-coco-eval and pycocotools take a dict for each detection: 0.24 of the memory is used where
only the detections of one category are in that form at a time (``docs/evaluation.md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO
from pycocotools.mask import area, toBbox

AREA_BATCH = 255  # pycocotools 2.0.11 counts the masks of a list in a byte


@dataclass(frozen=True)
class RLEArray:
    """Run-length encoded masks, concatenated.

    Attributes:
        sizes (np.ndarray): (masks, 2), height and width of each, in pixels.
        lengths (np.ndarray): (masks,), bytes of each.
        counts (bytes): COCO's compressed run lengths of all.
    """

    sizes: np.ndarray
    lengths: np.ndarray
    counts: bytes

    @classmethod
    def pack(cls, masks: Sequence[dict]) -> RLEArray:
        """From COCO's format, a dict a mask."""
        counts = [mask["counts"] for mask in masks]
        counts = [count.encode() if isinstance(count, str) else count for count in counts]
        return cls(
            sizes=np.array([mask["size"] for mask in masks], np.int32).reshape(-1, 2),
            lengths=np.array([len(count) for count in counts], np.int32),
            counts=b"".join(counts),
        )

    @classmethod
    def concatenate(cls, arrays: Sequence[RLEArray]) -> RLEArray:
        return cls(
            sizes=np.concatenate([array.sizes for array in arrays]),
            lengths=np.concatenate([array.lengths for array in arrays]),
            counts=b"".join(array.counts for array in arrays),
        )

    def unpack(self, indices: np.ndarray | slice = slice(None)) -> list[dict]:
        """The masks at these indices in COCO's format, a dict a mask."""
        ends = np.cumsum(self.lengths, dtype=np.int64)
        spans = np.stack([ends - self.lengths, ends], axis=1)[indices].tolist()
        return [
            {"size": size, "counts": self.counts[start:end]}
            for size, (start, end) in zip(self.sizes[indices].tolist(), spans, strict=True)
        ]


@dataclass(frozen=True)
class DetectionArrays:
    """Detections of any number of images, one element of each array a detection.

    Attributes:
        images (np.ndarray): (detections,), index of the image.
        labels (np.ndarray): (detections,), index of the class.
        scores (np.ndarray): (detections,), of the boxes, or of the masks.
        boxes (np.ndarray): (detections, 4), left, top, width, height, in pixels, float64.
        masks (RLEArray | None): where masks are evaluated.
    """

    images: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    masks: RLEArray | None

    @classmethod
    def collect(cls, results: Sequence[dict], with_masks: bool) -> DetectionArrays:
        """From the results of each image that :class:`mmpvt.evaluation.CocoMetric` keeps."""
        score = "mask_scores" if with_masks else "scores"
        boxes = np.concatenate([result["bboxes"].reshape(-1, 4) for result in results])
        boxes = boxes.astype(np.float64)
        with np.errstate(invalid="ignore"):  # Inf, of a model that diverged
            boxes[:, 2:] -= boxes[:, :2]
        masks = RLEArray.concatenate([r["masks"] for r in results]) if with_masks else None
        if masks is not None and not boxes.any():  # of a model of masks alone
            boxes = np.array([toBbox(mask) for mask in masks.unpack()], float).reshape(-1, 4)
        scores = np.concatenate([result.get(score, result["scores"]) for result in results])
        scores[np.isnan(scores)] = -np.inf  # sorted last, as in pycocotools
        counts = [len(result["labels"]) for result in results]
        return cls(
            images=np.repeat(np.arange(len(results)), counts),
            labels=np.concatenate([result["labels"] for result in results]),
            scores=scores,
            boxes=boxes,
            masks=masks,
        )

    def select(self, chosen: np.ndarray) -> DetectionArrays:
        """Some of the detections, without masks.

        Args:
            chosen (np.ndarray): indices, or (detections,), bool.
        """
        return DetectionArrays(
            images=self.images[chosen],
            labels=self.labels[chosen],
            scores=self.scores[chosen],
            boxes=self.boxes[chosen],
            masks=None,
        )

    def as_annotations(
        self, indices: np.ndarray, image_ids: np.ndarray, category_ids: np.ndarray
    ) -> list[dict]:
        """The detections at these indices as COCO's API holds results, with ids from 1.

        ``image_ids`` are by index of the image, ``category_ids`` by label.
        """
        columns = (
            image_ids[self.images[indices]],
            category_ids[self.labels[indices]],
            self.scores[indices],
            self.boxes[indices],
        )
        annotations = [
            dict(
                id=number,
                image_id=image,
                category_id=category,
                score=score,
                bbox=box,
                area=box[2] * box[3],
                iscrowd=0,
            )
            for number, (image, category, score, box) in enumerate(
                zip(*(column.tolist() for column in columns), strict=True), start=1
            )
        ]
        masks = self.masks.unpack(indices) if self.masks is not None else []
        for start in range(0, len(masks), AREA_BATCH):
            batch = masks[start : start + AREA_BATCH]
            for i, (mask, pixels) in enumerate(zip(batch, area(batch).tolist(), strict=True)):
                annotations[start + i].update(segmentation=mask, area=float(pixels))
        return annotations


@dataclass(frozen=True)
class ObjectArrays:
    """The annotated objects of any number of images, one element of each array an object.

    Attributes:
        images (np.ndarray): (objects,), index of the image.
        labels (np.ndarray): (objects,), index of the class.
        boxes (np.ndarray): (objects, 4), left, top, width, height, in pixels, float64.
        crowd (np.ndarray): (objects,), bool: a region of many, which no score counts.
        shares (np.ndarray): (objects,), the object's area as a share of its image's.
    """

    images: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray
    shares: np.ndarray

    @classmethod
    def collect(cls, coco: COCO, image_ids: Sequence, category_ids: Sequence) -> ObjectArrays:
        """From COCO's annotations.

        Args:
            coco (COCO): pycocotools' API over the annotations.
            image_ids (Sequence): by index of the image.
            category_ids (Sequence): by label; objects of other categories are skipped.
        """
        labels = {category: label for label, category in enumerate(category_ids)}
        found = [
            (index, labels[one["category_id"]], one, coco.imgs[image])
            for index, image in enumerate(image_ids)
            for one in coco.imgToAnns.get(image, ())
            if one["category_id"] in labels
        ]
        sizes = [image["width"] * image["height"] for *_, image in found]
        areas = [one.get("area", one["bbox"][2] * one["bbox"][3]) for _, _, one, _ in found]
        return cls(
            images=np.array([index for index, *_ in found], np.int64),
            labels=np.array([label for _, label, *_ in found], np.int64),
            boxes=np.array([one["bbox"] for _, _, one, _ in found], float).reshape(-1, 4),
            crowd=np.array([bool(one.get("iscrowd")) for _, _, one, _ in found], bool),
            shares=np.array(areas, float) / np.array(sizes, float),
        )
