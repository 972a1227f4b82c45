"""Predictions in COCO's results format."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmdet.datasets import CocoDataset
from mmengine.structures import BaseDataElement, InstanceData
from pycocotools import mask as coco_mask

COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # ids up to 90 that no COCO category has


def categories(classes: Sequence[str]) -> list[dict]:
    """Each class's name and number, as COCO's annotation files list them.

    Args:
        classes (Sequence[str]): by label.

    Returns:
        list[dict]: with ``id`` and ``name``, in the order of the labels. COCO's own 80 classes
        have COCO's numbers, others are counted from 1.
    """
    ids = range(1, len(classes) + 1)
    if tuple(classes) == CocoDataset.METAINFO["classes"]:
        ids = (number for number in range(1, 91) if number not in COCO_GAPS)
    return [dict(id=number, name=name) for number, name in zip(ids, classes, strict=True)]


def to_coco(
    sample: BaseDataElement, image_id: int, file_name: str, category_ids: Sequence[int]
) -> list[dict]:
    """A detector's prediction in COCO's results format.

    Args:
        sample (BaseDataElement): with ``pred_instances``.
        image_id (int): the image's number.
        file_name (str): the image's name.
        category_ids (Sequence[int]): numbers of the classes, by label.

    Returns:
        list[dict]: an instance each, with ``image_id``, ``file_name``, ``category_id``, ``bbox``
        (left, top, width and height in pixels), ``score`` and, where there are masks,
        ``segmentation`` (run-length encoded).
    """
    instances: InstanceData = sample.pred_instances
    boxes = getattr(instances.bboxes, "tensor", instances.bboxes).tolist()
    results = []
    for i, (box, score, label) in enumerate(
        zip(boxes, instances.scores.tolist(), instances.labels.tolist(), strict=True)
    ):
        left, top, right, bottom = box
        result = dict(
            image_id=image_id,
            file_name=file_name,
            category_id=category_ids[label] if label < len(category_ids) else label + 1,
            bbox=[left, top, right - left, bottom - top],
            score=score,
        )
        if "masks" in instances:
            result["segmentation"] = _encode(np.asarray(instances.masks[i]))
        results.append(result)
    return results


def _encode(mask: np.ndarray) -> dict:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(size=list(encoded["size"]), counts=encoded["counts"].decode())
