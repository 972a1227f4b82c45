"""A test's detections in few arrays, instead of a dict a box."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools.mask import area

AT_ONCE = 255  # pycocotools 2.0.11 counts the masks of a list in a byte


@dataclass(frozen=True)
class Masks:
    """Run-length encoded masks, behind each other.

    Attributes:
        sizes (np.ndarray): (masks, 2), height and width of each, in pixels.
        lengths (np.ndarray): (masks,), bytes of each.
        counts (bytes): COCO's compressed run lengths of all.
    """

    sizes: np.ndarray
    lengths: np.ndarray
    counts: bytes

    @classmethod
    def pack(cls, masks: Sequence[dict]) -> Masks:
        """From COCO's form, a dict a mask."""
        counts = [_as_bytes(mask["counts"]) for mask in masks]
        return cls(
            sizes=np.array([mask["size"] for mask in masks], np.int32).reshape(-1, 2),
            lengths=np.array([len(count) for count in counts], np.int32),
            counts=b"".join(counts),
        )

    @classmethod
    def join(cls, parts: Sequence[Masks]) -> Masks:
        """One after the other."""
        return cls(
            sizes=np.concatenate([part.sizes for part in parts]),
            lengths=np.concatenate([part.lengths for part in parts]),
            counts=b"".join(part.counts for part in parts),
        )

    def unpack(self, which: np.ndarray | slice = slice(None)) -> list[dict]:
        """Those at the given places, in COCO's form, a dict a mask."""
        ends = np.cumsum(self.lengths, dtype=np.int64)
        starts = ends - self.lengths
        return [
            {"size": size, "counts": self.counts[start:end]}
            for size, start, end in zip(
                self.sizes[which].tolist(),
                starts[which].tolist(),
                ends[which].tolist(),
                strict=True,
            )
        ]


@dataclass(frozen=True)
class Detections:
    """Of any number of images, one element of each array a detection.

    Attributes:
        images (np.ndarray): which image, counted from 0.
        labels (np.ndarray): which class, counted from 0.
        scores (np.ndarray): of the boxes, or of the masks.
        boxes (np.ndarray): (detections, 4), left, top, width, height, in pixels, float64.
        masks (Masks | None): where masks are compared.
    """

    images: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    masks: Masks | None

    @classmethod
    def collect(cls, results: Sequence[dict], with_masks: bool) -> Detections:
        """From what :class:`mmpvt.evaluation.CocoMetric` keeps of each image.

        Args:
            results (Sequence[dict]): of the images, in the order they are counted in.
            with_masks (bool): takes the masks, and their scores.
        """
        score = "mask_scores" if with_masks else "scores"
        boxes = np.concatenate([result["bboxes"].reshape(-1, 4) for result in results])
        boxes = boxes.astype(np.float64)
        with np.errstate(invalid="ignore"):  # infinite ones, of a model that diverged
            boxes[:, 2:] -= boxes[:, :2]
        scores = np.concatenate([result.get(score, result["scores"]) for result in results])
        scores[np.isnan(scores)] = -np.inf  # come last, as in pycocotools
        return cls(
            images=np.repeat(
                np.arange(len(results)), [len(result["labels"]) for result in results]
            ),
            labels=np.concatenate([result["labels"] for result in results]),
            scores=scores,
            boxes=boxes,
            masks=Masks.join([result["masks"] for result in results]) if with_masks else None,
        )

    def as_annotations(
        self, which: np.ndarray, image_ids: np.ndarray, category_ids: np.ndarray
    ) -> list[dict]:
        """Those at the given places as COCO's API holds results, numbered from 1.

        Args:
            which (np.ndarray): places.
            image_ids (np.ndarray): of each image.
            category_ids (np.ndarray): of each class.
        """
        columns = (
            image_ids[self.images[which]],
            category_ids[self.labels[which]],
            self.scores[which],
            self.boxes[which],
        )
        annotations = [
            {
                "id": number,
                "image_id": image,
                "category_id": category,
                "score": score,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": 0,
            }
            for number, (image, category, score, box) in enumerate(
                zip(*(column.tolist() for column in columns), strict=True), start=1
            )
        ]
        if self.masks is not None:
            masks = self.masks.unpack(which)
            for annotation, mask, pixels in zip(annotations, masks, _areas(masks), strict=True):
                annotation.update(segmentation=mask, area=pixels)
        return annotations


def _areas(masks: list[dict]) -> Iterator[float]:
    for start in range(0, len(masks), AT_ONCE):
        yield from area(masks[start : start + AT_ONCE]).astype(float).tolist()


def _as_bytes(counts: str | bytes) -> bytes:
    return counts.encode() if isinstance(counts, str) else counts
