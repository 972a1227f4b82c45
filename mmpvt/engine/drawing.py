"""Boxes, masks and label maps drawn over an image, with labels that can be read."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData

SIDE = 480  # pixels: a smaller image is enlarged until its shorter side has as many
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.5
MASK_WEIGHT, MAP_WEIGHT = 0.45, 0.6  # of the colour laid over an instance, over a label map
LABELLED = 0.01  # share of an image that a class of a label map takes to be named
IGNORED = 255  # label of pixels that count for no class


def draw_sample(
    image: np.ndarray, sample: BaseDataElement, meta: dict, truth: bool, score_thr: float
) -> np.ndarray:
    """A data sample's truth or prediction over its image.

    Args:
        image (np.ndarray): RGB, (height, width, 3), uint8.
        sample (BaseDataElement): MMDetection's or MMSegmentation's, in the image's pixels.
        meta (dict): the data set's ``classes`` and, perhaps, ``palette``.
        truth (bool): the truth, rather than the prediction.
        score_thr (float): predicted instances below this score are left out.

    Returns:
        np.ndarray: RGB, uint8, the shorter side at least 480 pixels.
    """
    scale = max(1.0, SIDE / min(image.shape[:2]))
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    part = "gt" if truth else "pred"
    classes = list(meta.get("classes") or ())
    palette = colours(meta.get("palette"), len(classes))
    if f"{part}_sem_seg" in sample:
        labels = sample.get(f"{part}_sem_seg").data.squeeze(0).cpu().numpy()
        canvas = draw_map(canvas, labels, classes, palette)
    if f"{part}_instances" in sample:
        instances = sample.get(f"{part}_instances").cpu()
        if "scores" in instances:
            instances = instances[instances.scores > score_thr]
        canvas = draw_instances(canvas, instances, scale, classes, palette)
    return canvas


def draw_instances(
    canvas: np.ndarray,
    instances: InstanceData,
    scale: float,
    classes: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
) -> np.ndarray:
    """Masks, boxes and labels, the largest first.

    Args:
        canvas (np.ndarray): RGB, uint8.
        instances (InstanceData): ``bboxes`` (n, 4) in pixels, ``labels`` (n,) and perhaps
            ``scores`` (n,) and ``masks`` (n, height, width).
        scale (float): canvas pixels a pixel of the boxes.
        classes, palette: by label.

    Returns:
        np.ndarray: RGB, uint8.
    """
    canvas = np.ascontiguousarray(canvas)
    boxes = torch.as_tensor(getattr(instances.bboxes, "tensor", instances.bboxes)).float() * scale
    corners = boxes.round().int().tolist()
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    masks = _to_array(instances.masks) if "masks" in instances else None
    order = areas.argsort(descending=True).tolist()
    for i in order:
        colour = palette[int(instances.labels[i]) % len(palette)]
        if masks is not None:
            mask = cv2.resize(masks[i].astype(np.uint8), canvas.shape[1::-1]) > 0
            canvas[mask] = _blend(canvas[mask], colour, MASK_WEIGHT)
        left, top, right, bottom = corners[i]
        cv2.rectangle(canvas, (left, top), (right, bottom), colour, 2, cv2.LINE_AA)
    for i in order:
        label = int(instances.labels[i])
        text = classes[label] if label < len(classes) else str(label)
        if "scores" in instances:
            text += f" {float(instances.scores[i]):.2f}"
        draw_label(canvas, text, corners[i][:2], palette[label % len(palette)])
    return canvas


def draw_map(
    canvas: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[tuple[int, int, int]],
) -> np.ndarray:
    """A label map laid over an image, its larger classes named.

    Args:
        canvas (np.ndarray): RGB, uint8.
        labels (np.ndarray): (height, width), the label of each pixel; 255 for none.
        classes, palette: by label.

    Returns:
        np.ndarray: RGB, uint8.
    """
    labels = cv2.resize(
        labels.astype(np.uint8), canvas.shape[1::-1], interpolation=cv2.INTER_NEAREST
    )
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(palette)] = palette[:256]
    shown = labels != IGNORED
    canvas = canvas.copy()
    canvas[shown] = _blend(canvas[shown], table[labels[shown]], MAP_WEIGHT)
    for label in np.unique(labels[shown]):
        region = (labels == label).astype(np.uint8)
        if region.mean() < LABELLED or label >= len(classes):
            continue
        inside = cv2.distanceTransform(np.pad(region, 1), cv2.DIST_L2, 3)
        y, x = np.unravel_index(inside.argmax(), inside.shape)
        draw_label(canvas, classes[label], (int(x), int(y)), palette[label], centred=True)
    return canvas


def draw_label(
    canvas: np.ndarray,
    text: str,
    place: Sequence[int],
    colour: tuple[int, int, int],
    centred: bool = False,
) -> None:
    """A text on a ground of its class's colour, kept within the picture.

    Args:
        canvas (np.ndarray): RGB, uint8; changed.
        text (str): what to write.
        place (Sequence[int]): x and y of its lower left corner, or of its middle.
        colour (tuple[int, int, int]): of the ground, RGB; the text is black or white.
        centred (bool): whether ``place`` is the middle. Default: False.
    """
    (width, height), below = cv2.getTextSize(text, FONT, FONT_SCALE, 1)
    width, height = width + 6, height + below + 4
    x, y = place
    if centred:
        x, y = x - width // 2, y + height // 2
    x = max(0, min(x, canvas.shape[1] - width))
    y = max(height, min(y, canvas.shape[0]))
    cv2.rectangle(canvas, (x, y - height), (x + width, y), colour, cv2.FILLED)
    ink = (0, 0, 0) if np.dot(colour, (0.299, 0.587, 0.114)) > 140 else (255, 255, 255)
    cv2.putText(canvas, text, (x + 3, y - below), FONT, FONT_SCALE, ink, 1, cv2.LINE_AA)


def colours(palette: object, count: int) -> list[tuple[int, int, int]]:
    """A colour for each class: the data set's, or hues far from their neighbours'."""
    if isinstance(palette, list | tuple) and palette and not isinstance(palette[0], int):
        return [tuple(int(value) for value in colour) for colour in palette]
    hues = (0.618034 * i % 1 for i in range(max(1, count)))
    return [
        tuple(round(255 * value) for value in colorsys.hsv_to_rgb(hue, 0.65, 0.95)) for hue in hues
    ]


def _blend(pixels: np.ndarray, colour: object, weight: float) -> np.ndarray:
    return ((1 - weight) * pixels + weight * np.asarray(colour)).astype(np.uint8)


def _to_array(masks: object) -> np.ndarray:
    return masks.to_ndarray() if hasattr(masks, "to_ndarray") else torch.as_tensor(masks).numpy()
