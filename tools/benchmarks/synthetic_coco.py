"""Synthetic annotations in COCO's format, and synthetic detections for them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from pycocotools import mask as mask_api

HEIGHT, WIDTH = 480, 640  # pixels
CORNERS = 12  # of the polygon in a box


def make_truth(images: int, categories: int, masks: bool, seed: int = 0) -> dict:
    """Annotations: 7 objects an image on average, as COCO has, one in 50 a crowd.

    Args:
        images (int): how many.
        categories (int): how many; some are rare, as COCO's are.
        masks (bool): with polygons, crowds with run lengths.
        seed (int): of the draw. Default: 0.
    """
    rng = np.random.default_rng(seed)
    annotations = []
    frequency = rng.dirichlet(np.full(categories, 0.7))
    for image, count in enumerate(rng.poisson(7.3, images)):
        boxes = _boxes(rng, count)
        labels = rng.choice(categories, count, p=frequency)
        for label, (x, y, w, h) in zip(labels.tolist(), boxes.tolist(), strict=True):
            annotation = dict(
                id=len(annotations) + 1,
                image_id=10 * image + 3,
                category_id=3 * label + 1,
                bbox=[x, y, w, h],
                area=w * h * rng.uniform(0.5, 1),
                iscrowd=int(rng.random() < 0.02),
            )
            if masks:
                polygon = _polygon(x, y, w, h)
                annotation["segmentation"] = [polygon]
                if annotation["iscrowd"]:
                    rle = mask_api.frPyObjects([polygon], HEIGHT, WIDTH)[0]
                    annotation["segmentation"] = dict(rle, counts=rle["counts"].decode())
            annotations.append(annotation)
    return dict(
        images=[
            dict(id=10 * i + 3, height=HEIGHT, width=WIDTH, file_name="") for i in range(images)
        ],
        annotations=annotations,
        categories=[dict(id=3 * i + 1, name=f"class {i}") for i in range(categories)],
    )


def make_results(truth: dict, detections: int, masks: bool, seed: int = 1) -> Iterator[dict]:
    """Detections of each image: half of them near objects, the others random.

    Args:
        truth (dict): of :func:`make_truth`.
        detections (int): of an image.
        masks (bool): with masks, run-length encoded.
        seed (int): of the draw. Default: 1.
    """
    rng = np.random.default_rng(seed)
    objects: dict[int, list[dict]] = {image["id"]: [] for image in truth["images"]}
    for annotation in truth["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    categories = len(truth["categories"])
    for image, here in objects.items():
        boxes, labels = _boxes(rng, detections), rng.integers(0, categories, detections)
        if here and detections:  # half of all detections are near an object, most of its class
            near = rng.integers(0, len(here), detections // 2)
            close = np.array([here[i]["bbox"] for i in near])
            close += np.tile(close[:, 2:], 2) * rng.normal(0, 0.08, close.shape)
            boxes[: len(near)] = close.clip(min=0)
            right = rng.random(len(near)) < 0.8
            found = np.array([here[i]["category_id"] // 3 for i in near])
            labels[: len(near)] = np.where(right, found, labels[: len(near)])
        boxes = boxes.round(2).astype(np.float32)
        instances = dict(
            labels=torch.from_numpy(labels),
            scores=torch.from_numpy(rng.random(detections).astype(np.float32).round(3)),
            bboxes=torch.from_numpy(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)),
        )
        if masks:
            polygons = [_polygon(*box) for box in boxes.tolist()]
            instances["masks"] = mask_api.frPyObjects(polygons, HEIGHT, WIDTH) if polygons else []
        yield dict(img_id=image, ori_shape=(HEIGHT, WIDTH), pred_instances=instances)


def _boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 4) boxes within an image: left, top, width, height."""
    sizes = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
    corners = rng.uniform(0, 1, (count, 2)) * np.maximum([WIDTH, HEIGHT] - sizes, 1)
    return np.concatenate([corners, sizes], 1).round(2)


def _polygon(x: float, y: float, w: float, h: float) -> list[float]:
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    xs, ys = x + w * (1 + np.cos(angles)) / 2, y + h * (1 + np.sin(angles)) / 2
    return np.stack([xs, ys], 1).round(2).flatten().tolist()
