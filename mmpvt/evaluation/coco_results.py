"""Predictions as files: in COCO's results format, with its category ids, or as a pickle file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.evaluation import DumpDetResults as MMDetDumpDetResults
from mmdet.structures.mask import encode_mask_results
from mmengine.fileio import dump
from mmengine.logging import print_log
from mmengine.structures import BaseDataElement

from mmpvt.registry import METRICS
from mmpvt.utils.atomic import atomic_write

COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # ids up to 90 that no COCO category has


def coco_categories(classes: Sequence[str]) -> list[dict]:
    """Each class's name and id, as COCO's annotation files list them.

    Args:
        classes (Sequence[str]): by label.

    Returns:
        list[dict]: with ``id`` and ``name``, in the order of the labels. COCO's own 80 classes
        have COCO's ids, others are counted from 1.
    """
    ids: Iterable[int] = range(1, len(classes) + 1)
    if tuple(classes) == CocoDataset.METAINFO["classes"]:
        ids = (number for number in range(1, 91) if number not in COCO_GAPS)
    return [dict(id=number, name=name) for number, name in zip(ids, classes, strict=True)]


def to_coco(
    sample: BaseDataElement, image_id: int, file_name: str, category_ids: Sequence[int]
) -> list[dict]:
    """A detector's prediction in COCO's results format.

    Args:
        sample (BaseDataElement): with ``pred_instances``.
        image_id (int): the image's id.
        file_name (str): the image's name.
        category_ids (Sequence[int]): by label.

    Returns:
        list[dict]: an instance each, with ``image_id``, ``file_name``, ``category_id``, ``bbox``
        (left, top, width and height in pixels), ``score`` and, where there are masks,
        ``segmentation`` (compressed RLE).
    """
    instances = sample.pred_instances
    boxes = getattr(instances.bboxes, "tensor", instances.bboxes).tolist()
    masks = instances.get("masks")
    if masks is not None and not isinstance(masks, list):  # RLE already, where it was tiled
        masks = encode_mask_results(np.asarray(masks))
    results = []
    for i, (left, top, right, bottom) in enumerate(boxes):
        label = int(instances.labels[i])
        result = dict(
            image_id=image_id,
            file_name=file_name,
            category_id=category_ids[label] if label < len(category_ids) else label + 1,
            bbox=[left, top, right - left, bottom - top],
            score=float(instances.scores[i]),
        )
        if masks is not None:
            size, counts = masks[i]["size"], masks[i]["counts"].decode()
            result["segmentation"] = dict(size=list(size), counts=counts)
        results.append(result)
    return results


@METRICS.register_module()
class DumpDetResults(MMDetDumpDetResults):
    """MMDetection's, but the file is written intact or not at all, and masks may be RLE already."""

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keeps the predictions of a batch."""
        encoded = {}  # masks of images that were tiled
        samples = list(data_samples)
        for i, sample in enumerate(samples):
            instances = dict(sample.get("pred_instances", {}))
            if isinstance(instances.get("masks"), list):
                encoded[i] = instances.pop("masks")
                samples[i] = dict(sample, pred_instances=instances)
        first = len(self.results)
        super().process(data_batch, samples)
        for i, masks in encoded.items():
            self.results[first + i]["pred_instances"]["masks"] = masks

    def compute_metrics(self, results: list) -> dict:
        """Writes the file."""
        atomic_write(self.out_file_path, dump(results, file_format="pkl"))
        print_log(f"results are saved to {self.out_file_path}", logger="current")
        return {}
