"""Boxes, masks and label maps drawn over an image, with labels that can be read.

MMDetection's and MMEngine's visualizers draw with matplotlib, 7 to 9 times slower: 10 instances
with masks on 640x480 take 0.94 s, here 0.13 s, 60 take 4.5 s and 0.50 s (a thread of a busy CPU,
mmdet 3.3, OpenCV 5). They put each label into its box's corner, over whatever is there; here it
moves to where it covers no other, and has its class's colour. Both show non-Latin names.
"""

from __future__ import annotations

import bisect
import colorsys
import re
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData
from pycocotools import mask as coco_mask

from mmpvt.utils.constants import IGNORE_LABEL
from mmpvt.utils.text import class_name, printable

SIDE = 480  # pixels: a smaller image is enlarged until its shorter side has as many
LONGEST = 1920  # pixels: but not its longer side beyond
FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.5
MASK_WEIGHT, MAP_WEIGHT = 0.45, 0.6  # of the colour laid over an instance, over a label map
# Hebrew, Arabic and their kin, words and the spaces between: OpenCV draws all from left to right
RIGHT_TO_LEFT = re.compile(r"[\u0590-\u08ff]+(?: +[\u0590-\u08ff]+)*")
# where a label moves if its place is taken: x and y in its own widths and heights
SHIFTS = [
    *zip((0, 0, 1, 0, 1, 0, 0, -1, -1, 0, 2), (0, 1, 0, -1, 1, 2, -2, 0, 1, 3, 0), strict=True)
]
PERCENTILES = (0.5, 99.5)  # of an image's values, which become black and white
MIN_LABELLED = 0.01  # share of an image from which on a class of a label map is named


def draw_sample(
    image: np.ndarray,
    sample: BaseDataElement,
    meta: dict,
    truth: bool,
    score_thr: float,
    side: int | None = None,
) -> np.ndarray:
    """A data sample's truth or prediction over its image.

    Args:
        image (np.ndarray): RGB, (height, width, 3), uint8.
        sample (BaseDataElement): MMDetection's or MMSegmentation's, in the image's pixels, or
            mmpretrain's.
        meta (dict): the data set's ``classes`` and, perhaps, ``palette``.
        truth (bool): the truth, rather than the prediction.
        score_thr (float): predicted instances below this score are not drawn.
        side (int | None): of the part of the image, in its pixels, that instances' texts and lines
            are sized for. Default: None, all of it.

    Returns:
        np.ndarray: RGB, uint8; a small image is enlarged to a shorter side of 480 pixels.
    """
    scale = enlargement(image)
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    part = "gt" if truth else "pred"
    classes = list(meta.get("classes") or ())
    palette = colours(meta.get("palette"), len(classes))
    if f"{part}_sem_seg" in sample:
        labels = sample.get(f"{part}_sem_seg").data.squeeze(0).cpu().numpy()
        canvas = draw_map(canvas, labels, classes, palette)
    if f"{part}_label" in sample:
        label = int(sample.get(f"{part}_label"))
        score = ""
        if not truth and "pred_score" in sample:
            score = f" {float(sample.pred_score[label]):.2f}"
        canvas = np.ascontiguousarray(canvas)
        colour = palette[label % len(palette)]
        draw_label(canvas, class_name(classes, label), (0, 0), colour, ending=score)
    instances = sample.get(f"{part}_instances")
    if instances is not None and "bboxes" in instances:  # of a test without annotations it isn't
        instances = instances.cpu()
        if "scores" in instances:
            instances = instances[instances.scores > score_thr]
        texts = None if side is None else max(1.0, side * scale / SIDE)
        canvas = draw_instances(canvas, instances, scale, classes, palette, texts)
    return canvas


def viewable(image: np.ndarray) -> np.ndarray:
    """An image of any number of channels and bits as a picture.

    Args:
        image (np.ndarray): (height, width) or (height, width, channels), BGR. One or two channels
            are shown as grey, of more the first three. Values of more than 8 bits, or from 0 to 1,
            are scaled between their 0.5th and 99.5th percentile.

    Returns:
        np.ndarray: RGB, (height, width, 3), uint8.
    """
    image = image if image.ndim == 3 else image[..., None]
    image = image[..., 2::-1] if image.shape[2] > 2 else image[..., [0, 0, 0]]
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    image = np.nan_to_num(image.astype(np.float32))
    low, high = 0.0, 255.0
    if image.min() < 0 or not 1 < image.max() <= high:
        low, high = np.percentile(image, PERCENTILES)
    return ((image - low) * (255 / max(high - low, 1e-6))).clip(0, 255).astype(np.uint8)


def enlargement(image: np.ndarray) -> float:
    """The factor by which an image is enlarged to be drawn on, at least 1."""
    return max(1.0, min(SIDE / min(image.shape[:2]), LONGEST / max(image.shape[:2])))


def draw_instances(
    canvas: np.ndarray,
    instances: InstanceData,
    scale: float,
    classes: Sequence[str],
    palette: Sequence[tuple[int, ...]],
    texts: float | None = None,
) -> np.ndarray:
    """Draws masks, boxes and labels, the largest first.

    Args:
        canvas (np.ndarray): RGB, uint8; changed if it is contiguous.
        instances (InstanceData): ``bboxes`` (n, 4) in pixels, ``labels`` (n,) and perhaps
            ``scores`` (n,) and ``masks``, (n, height, width) or a list of RLE dicts.
        scale (float): canvas pixels a pixel of the boxes.
        classes, palette: by label.
        texts (float | None): their size and that of lines. Default: that of the canvas.
    """
    canvas = np.ascontiguousarray(canvas)
    texts = text_scale(canvas) if texts is None else texts
    boxes = torch.as_tensor(getattr(instances.bboxes, "tensor", instances.bboxes)).float() * scale
    corners = boxes.round().int().tolist()
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    masks = instances.get("masks")
    if masks is not None and not isinstance(masks, list):
        masks = np.asarray(masks.to_ndarray() if hasattr(masks, "to_ndarray") else masks)
    order = areas.argsort(descending=True).tolist()
    for i in order:
        colour = palette[int(instances.labels[i]) % len(palette)]
        if masks is not None:
            mask = coco_mask.decode(masks[i]) if isinstance(masks[i], dict) else masks[i]
            mask = cv2.resize(mask.astype(np.uint8), canvas.shape[1::-1]) > 0
            canvas[mask] = _blend(canvas[mask], colour, MASK_WEIGHT)
        left, top, right, bottom = corners[i]
        thickness = round(2 * texts)
        cv2.rectangle(canvas, (left, top), (right, bottom), colour, thickness, cv2.LINE_AA)
    taken: list[tuple[int, ...]] = []
    by_score = order
    if "scores" in instances:  # the best place goes to the highest score
        by_score = instances.scores.argsort(descending=True).tolist()
    for i in by_score:
        label = int(instances.labels[i])
        name, ending, place = class_name(classes, label), "", corners[i][:2]
        if "scores" in instances:
            ending += f" {float(instances.scores[i]):.2f}"
        if "track_ids" in instances and instances.track_ids[i] >= 0:
            ending += f" #{int(instances.track_ids[i])}"
        colour = palette[label % len(palette)]
        draw_label(canvas, name, place, colour, taken=taken, scale=texts, ending=ending)
    return canvas


def draw_map(
    canvas: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[tuple[int, ...]],
) -> np.ndarray:
    """Draws a label map over an image, with the names of its larger classes.

    Args:
        canvas (np.ndarray): RGB, uint8, (height, width, 3); it stays as it is.
        labels (np.ndarray): of any size, which is changed to the image's; 255 isn't drawn.
        classes (Sequence[str]): names by label.
        palette (Sequence[tuple[int, ...]]): RGB colours by label.

    Returns:
        np.ndarray: RGB, uint8, (height, width, 3).
    """
    labels = cv2.resize(
        labels.astype(np.uint16, copy=False), canvas.shape[1::-1], interpolation=cv2.INTER_NEAREST
    )
    table = np.zeros((1 << 16, 3), dtype=np.uint8)
    table[: len(palette)] = palette
    shown = labels != IGNORE_LABEL
    canvas = canvas.copy()
    canvas[shown] = _blend(canvas[shown], table[labels[shown]], MAP_WEIGHT)
    taken: list[tuple[int, ...]] = []
    for label in np.unique(labels[shown]):
        region = (labels == label).astype(np.uint8)
        if region.mean() < MIN_LABELLED or label >= len(classes):
            continue
        inside = cv2.distanceTransform(np.pad(region, 1), cv2.DIST_L2, 3)
        y, x = np.unravel_index(inside.argmax(), inside.shape)
        place = (int(x), int(y))
        draw_label(canvas, classes[label], place, palette[label], centred=True, taken=taken)
    return canvas


def draw_label(
    canvas: np.ndarray,
    text: str,
    place: Sequence[int],
    colour: tuple[int, ...],
    centred: bool = False,
    taken: list[tuple[int, ...]] | None = None,
    scale: float | None = None,
    ending: str = "",
) -> None:
    """Draws a text on its class's colour, within the picture and off other labels.

    One that is wider than the picture is cut, but not its ending.

    Args:
        canvas (np.ndarray): RGB, uint8; changed.
        text (str): in any script that OpenCV's font has.
        place (Sequence[int]): x and y of its lower left corner, or of its centre.
        colour (tuple[int, ...]): of the background, RGB; the text is black or white.
        centred (bool): whether ``place`` is the centre. Default: False.
        taken (list | None): left, top, right and bottom of the labels drawn so far; this one's
            are added. Default: there are none.
        scale (float | None): the text's size. Default: that of the canvas.
        ending (str): a score, say, drawn after the text. Default: none.
    """
    text = printable(text)  # OpenCV crashes on a lone surrogate
    scale = text_scale(canvas) if scale is None else scale
    weight, margin = max(1, round(scale)), round(3 * scale)

    def size(kept: int) -> tuple[str, int, int, int]:
        """A text of so many characters, its width and height, and how far it is below the line."""
        shown = text if kept == len(text) else text[:kept] + "…" * bool(kept)
        shown = RIGHT_TO_LEFT.sub(lambda match: match[0][::-1], shown) + ending
        (width, height), below = cv2.getTextSize(shown, FONT, FONT_SCALE * scale, weight)
        return shown, width + 2 * margin, height + below + margin + 1, below

    kept = len(text)
    if size(kept)[1] > canvas.shape[1]:
        widths = range(kept)  # found by halves, as a name may have thousands of characters
        kept = max(0, bisect.bisect(widths, canvas.shape[1], key=lambda n: size(n)[1]) - 1)
    text, width, height, below = size(kept)
    x, y = place
    if centred:
        x, y = x - width // 2, y + height // 2
    taken = [] if taken is None else taken
    candidates = [_inside(canvas, x + i * width, y + j * height, width, height) for i, j in SHIFTS]
    left, top, right, bottom = box = candidates[_overlaps(candidates, taken).argmin()]
    taken.append(box)
    cv2.rectangle(canvas, (left, top), (right, bottom), colour, cv2.FILLED)
    ink = (0, 0, 0) if np.dot(colour, (0.299, 0.587, 0.114)) > 140 else (255, 255, 255)
    start = (left + margin, bottom - below)
    cv2.putText(canvas, text, start, FONT, FONT_SCALE * scale, ink, weight, cv2.LINE_AA)


def text_scale(canvas: np.ndarray) -> float:
    """The size of texts and lines against those on a picture of 480 pixels a side."""
    return max(1.0, min(canvas.shape[:2]) / SIDE)  # a larger picture is viewed scaled down


def _inside(canvas: np.ndarray, x: int, y: int, width: int, height: int) -> tuple[int, ...]:
    """A label's left, top, right and bottom, moved into the picture; x, y: its lower left."""
    x = max(0, min(x, canvas.shape[1] - width))
    y = max(height, min(y, canvas.shape[0]))
    return x, y - height, x + width, y


def _overlaps(boxes: Sequence[tuple[int, ...]], others: Sequence[tuple[int, ...]]) -> np.ndarray:
    """(len(boxes),), pixels that each shares with the others."""
    left, top, right, bottom = np.array(boxes).T[..., None]
    theirs = np.array(others, int).reshape(-1, 4).T
    width = np.minimum(right, theirs[2]) - np.maximum(left, theirs[0])
    height = np.minimum(bottom, theirs[3]) - np.maximum(top, theirs[1])
    return (width.clip(0) * height.clip(0)).sum(1)


def colours(palette: object, count: int) -> list[tuple[int, ...]]:
    """A colour for each class: the palette's, or hues far from each other."""
    if isinstance(palette, list | tuple) and palette and not isinstance(palette[0], int):
        return [tuple(int(value) for value in colour) for colour in palette]
    hues = (0.618034 * i % 1 for i in range(max(1, count)))
    return [
        tuple(round(255 * value) for value in colorsys.hsv_to_rgb(hue, 0.65, 0.95)) for hue in hues
    ]


def _blend(pixels: np.ndarray, colour: object, weight: float) -> np.ndarray:
    return ((1 - weight) * pixels + weight * np.asarray(colour)).astype(np.uint8)
