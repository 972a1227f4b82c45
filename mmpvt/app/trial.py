"""What the page does with an image: predict, draw, list, show a position's attention."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData

from mmpvt.engine.pipeline import read_image
from mmpvt.errors import UserError, without_folder
from mmpvt.evaluation.coco_results import coco_categories
from mmpvt.inference.attention import visualize_attention
from mmpvt.inference.predictor import Predictor
from mmpvt.inference.video import VideoOptions, predict_video
from mmpvt.utils.constants import MAX_PAGE_PIXELS
from mmpvt.utils.text import class_name
from mmpvt.visualization.drawing import enlargement
from mmpvt.visualization.saving import label_map

MAX_SIDE = 2000  # pixels: longer images are resized, as masks of their size would fill the memory
SECONDS, RATE = 10.0, 5.0  # of a video; frames a second
MAX_FRAME = 9_000_000  # pixels; 4K has 8.3 million
MIN_SCORE = 0.05  # of instances that are kept
MAX_ROWS = 100  # of a table
TOP = 5  # classes of an image
MIN_SHARE = 0.001  # of the pixels: rarer classes aren't listed


@dataclass
class Trial:
    """An image and what the model says of it.

    Attributes:
        image: as the config has it loaded: (height, width, 3), uint8, BGR, say.
        sample: the prediction, without instances below 0.05.
        name: the file's.
        shape: height and width of the file's image, which may be larger.
        times: seconds that each part took.
    """

    image: np.ndarray
    sample: BaseDataElement
    name: str
    shape: tuple[int, int]
    times: dict[str, float] = field(default_factory=dict)


@dataclass
class Clip:
    """A video and what the model says of it.

    Attributes:
        path: the video with what was found drawn.
        rows: of each class the highest score and in how many frames it is; of a segmenter, its
            percentage of all pixels.
        times: seconds that all of it took, and a frame.
        missing: seconds that the file says it has and hasn't.
    """

    path: Path
    rows: list[list]
    times: dict[str, float]
    missing: float


def run(predictor: Predictor, path: str) -> Trial:
    """Predicts on an uploaded file; a UserError names it without its folder."""
    name = Path(path).name
    start = time.perf_counter()
    with without_folder(path, name):
        image = read_image(path, predictor.pipeline.reader, MAX_PAGE_PIXELS)
    shape = (image.shape[0], image.shape[1])
    image = shrink(image)
    data = predictor.pipeline.prepare(image, name)
    prepared = time.perf_counter()
    (sample,) = predictor.predict([data])
    done = time.perf_counter()
    if "pred_instances" in sample:
        sample.pred_instances = sample.pred_instances[sample.pred_instances.scores > MIN_SCORE]
    times = {"prepare": prepared - start, "model": done - prepared}
    return Trial(image, sample, name, shape, times)


def run_clip(predictor: Predictor, path: str, score: float) -> Clip:
    """Predicts on the first ten seconds of an uploaded video, five frames of each.

    Args:
        predictor (Predictor): the model.
        path (str): the file.
        score (float): instances below are neither drawn nor listed.

    Raises:
        UserError: it can't be read; it names the file without its folder.
    """
    start = time.perf_counter()
    out = Path(tempfile.mkdtemp(dir=os.environ.get("GRADIO_TEMP_DIR")))
    options = VideoOptions(score, RATE, seconds=SECONDS, max_pixels=MAX_FRAME)
    with without_folder(path, Path(path).name):
        summary = predict_video(predictor, path, out, options)
    assert summary.video is not None and summary.lines is not None
    lines = [json.loads(line) for line in summary.lines.read_bytes().splitlines()]
    seconds = time.perf_counter() - start
    times = dict(clip=seconds, frame=seconds / summary.frames)
    return Clip(summary.video, _clip_rows(predictor, lines, score), times, summary.missing)


def _clip_rows(predictor: Predictor, lines: list[dict], score: float) -> list[list]:
    if not predictor.classifies and not predictor.finds_instances:
        shares: Counter[str] = Counter()
        for line in lines:
            shares.update(line["classes"])
        ranked = ((name, share / len(lines)) for name, share in shares.most_common())
        return [[name, f"{100 * share:.1f}"] for name, share in ranked if share >= MIN_SHARE]
    frames: Counter[str] = Counter()
    best: dict[str, float] = {}
    labels = {entry["id"]: i for i, entry in enumerate(coco_categories(predictor.classes))}
    for line in lines:
        found = [(line["class"], line["score"])] if predictor.classifies else []
        for one in line.get("instances", ()):
            if one["score"] > score:
                label = labels.get(one["category_id"], one["category_id"] - 1)
                found.append((class_name(predictor.classes, label), one["score"]))
        frames.update({name for name, _ in found})
        for name, value in found:
            best[name] = max(value, best.get(name, 0.0))
    return [
        [name, f"{best[name]:.2f}", f"{count} of {len(lines)} frames"][
            : 2 + (not predictor.classifies)
        ]
        for name, count in frames.most_common()
    ]


def shrink(image: np.ndarray) -> np.ndarray:
    """An image of at most 2,000 pixels a side."""
    scale = MAX_SIDE / max(image.shape[:2])
    if scale >= 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def draw(predictor: Predictor, trial: Trial, score: float) -> np.ndarray:
    """The prediction over the image, RGB; how long it took goes to ``trial.times``."""
    start = time.perf_counter()
    picture = predictor.draw(trial.image, trial.sample, score)
    trial.times["draw"] = time.perf_counter() - start
    return picture


def rows(predictor: Predictor, trial: Trial, score: float) -> list[list]:
    """The prediction as a table: class, score and box (left, top, right, bottom, in pixels of the
    file) of each instance above ``score``, class and percentage of the pixels, or class and score
    of an image's likeliest classes; the largest first."""
    classes = predictor.classes
    if "pred_label" in trial.sample:
        scores, labels = trial.sample.pred_score.topk(min(TOP, len(trial.sample.pred_score)))
        pairs = zip(labels.tolist(), scores.tolist(), strict=True)
        return [[class_name(classes, label), f"{value:.2f}"] for label, value in pairs]
    if "pred_instances" not in trial.sample:
        labels, counts = np.unique(label_map(trial.sample), return_counts=True)
        shares = sorted(zip(counts / counts.sum(), labels, strict=True), reverse=True)
        return [
            [class_name(classes, int(label)), f"{100 * share:.1f}"]
            for share, label in shares
            if share >= MIN_SHARE
        ]
    found: InstanceData = trial.sample.pred_instances
    found = found[found.scores > score]
    scale = [old / new for old, new in zip(trial.shape, trial.image.shape[:2], strict=True)]
    boxes = getattr(found.bboxes, "tensor", found.bboxes) * torch.tensor(2 * scale[::-1])
    listed = []
    for i in found.scores.argsort(descending=True).tolist()[:MAX_ROWS]:
        box = ", ".join(str(round(value)) for value in boxes[i].tolist())
        listed.append([class_name(classes, int(found.labels[i])), f"{found.scores[i]:.2f}", box])
    return listed


def attention(predictor: Predictor, trial: Trial, click: object) -> np.ndarray:
    """Heat maps of a position's attention, a column a stage: RGB.

    Args:
        predictor (Predictor): the model.
        trial (Trial): of an image.
        click (list[float]): x and y in pixels of the picture that :func:`draw` gives; it comes
            from the browser, so it may be anything.

    Raises:
        UserError: the model's backbone is no PVT, or the click isn't in the picture.
    """
    height, width = trial.image.shape[:2]
    scale = enlargement(trial.image)
    match click:
        case [int() | float() as x, int() | float() as y] if (
            0 <= x <= width * scale and 0 <= y <= height * scale
        ):
            pass
        case _:
            raise UserError("the click has no position in the picture: click into the result again")
    place = (min(int(y / scale), height - 1), min(int(x / scale), width - 1))
    return visualize_attention(predictor, trial.image, place).picture()
