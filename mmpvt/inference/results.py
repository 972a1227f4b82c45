"""Predictions as files: COCO's results format, label maps, pictures."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
from mmdet.datasets import CocoDataset
from mmengine.structures import BaseDataElement, InstanceData
from pycocotools import mask as coco_mask

from mmpvt.utils.outputs import CannotWriteError, Outputs
from mmpvt.visualization.drawing import colours

COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}  # ids up to 90 that no COCO category has

JPEG_LONGEST = 65_500  # pixels a side, libjpeg's limit


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


def label_map(sample: BaseDataElement) -> np.ndarray:
    """A segmenter's prediction: (height, width), the label of each pixel, uint8 or uint16."""
    labels = sample.pred_sem_seg.data.squeeze(0).numpy()
    return labels.astype(np.uint8 if labels.max() < 256 else np.uint16)


def colour_map(labels: np.ndarray, meta: dict) -> np.ndarray:
    """A label map in its classes' colours: RGB, uint8.

    Args:
        labels (np.ndarray): (height, width).
        meta (dict): ``classes`` and, perhaps, ``palette``.
    """
    count = max(len(meta.get("classes") or ()), int(labels.max()) + 1)
    table = colours(meta.get("palette"), count)
    table = [table[i % len(table)] for i in range(count)]
    return np.asarray(table, dtype=np.uint8)[labels]


def write_picture(
    out: Outputs, name: str, picture: np.ndarray, suffixes: Sequence[str] = (".jpg", ".png")
) -> Path:
    """Writes an RGB, uint8 picture, or a label map as it is.

    Args:
        out (Outputs): the folder.
        name (str): the file's in it, without a suffix.
        picture (np.ndarray): (height, width, 3) or (height, width).
        suffixes (Sequence[str]): of the formats to take, the first that can hold it: JPEG can't
            hold more than 65,500 pixels a side. Default: JPEG, then PNG.

    Returns:
        Path: the file.

    Raises:
        UserError: it can't be written; a ``CannotWriteError`` where that is this picture's fault.
    """
    pixels = picture[..., ::-1] if picture.ndim == 3 else picture
    for suffix in suffixes:
        if suffix == ".jpg" and max(picture.shape[:2]) > JPEG_LONGEST:
            continue  # OpenCV would find out by itself, but print about it
        with suppress(cv2.error):
            done, content = cv2.imencode(suffix, pixels)
            if done:
                return out.write(f"{name}{suffix}", content.tobytes())
    height, width = picture.shape[:2]
    raise CannotWriteError(
        f"{out.folder / name} can't be written: a picture of {width}x{height} pixels is too large "
        f"for {suffixes[-1]}"
    )


def _encode(mask: np.ndarray) -> dict:
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return dict(size=list(encoded["size"]), counts=encoded["counts"].decode())
