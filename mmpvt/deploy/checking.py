"""Whether an exported file finds what PyTorch does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from mmpvt.datasets.shapes_drawing import draw_scene
from mmpvt.deploy.sizes import read_loading, test_pipeline
from mmpvt.errors import UserError
from mmpvt.models.data_preprocessor import input_channels
from mmpvt.utils.text import encodable

LEAST_SCORE = 0.05  # of the detections that are compared
BOX, SCORE = 0.5, 1e-3  # pixels and score that results in float32 may deviate by
UNLIKE = 1e-3  # share of pixels or detections that may be unlike: those on the edge of a threshold
DRAWN = (480, 640)  # pixels of the image drawn where none is given


@dataclass
class Deviation:
    """How far two results of an image, or of several, are apart.

    Attributes:
        compared (int): PyTorch's detections, or pixels of its label map.
        unlike (int): of those, without a like in the file's results; pixels of another label.
        box (float): largest distance of a box's side, in pixels.
        score (float): largest difference of a score.
        mask (float): largest share of a mask's pixels that differ.
        unit (str): what is compared.
    """

    compared: int = 0
    unlike: int = 0
    box: float = 0.0
    score: float = 0.0
    mask: float = 0.0
    unit: str = "detections"

    @property
    def is_small(self) -> bool:
        """Whether results in float32 may deviate so far."""
        return self.unlike <= self.compared * UNLIKE and self.box <= BOX and self.score <= SCORE

    def include(self, other: Deviation) -> None:
        """Adds another image's."""
        self.unit = other.unit
        self.compared += other.compared
        self.unlike += other.unlike
        for name in ("box", "score", "mask"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))

    def __str__(self) -> str:
        if self.unit == "pixels":
            return f"{self.unlike} of {self.compared} pixels have another label"
        mask = f", masks by {self.mask:.3%} of their pixels" if self.mask else ""
        return (
            f"{self.unlike} of {self.compared} detections over {LEAST_SCORE} are missing; the "
            f"others deviate by at most {self.box:.4f} pixels, scores by {self.score:.1e}{mask}"
        )


def predict(model: nn.Module, config: Config, image: np.ndarray) -> dict[str, np.ndarray]:
    """What PyTorch finds in an image, by the names of an exported file's outputs.

    Args:
        model (nn.Module): MMDetection's or MMSegmentation's.
        config (Config): whose test pipeline is used.
        image (ndarray): uint8, as the test pipeline decodes it.
    """
    if read_loading(config).is_float:
        image = image.astype(np.float32)
    init_default_scope(config.get("default_scope", "mmdet"))
    pipeline = [t for t in test_pipeline(config) if "Load" not in t["type"]]
    pack = {key: value for key, value in pipeline[-1].items() if key != "meta_keys"}
    sides = image.shape[:2]
    loaded = dict(img=image, img_path="", img_id=0, ori_shape=sides, img_shape=sides)
    data = Compose([*pipeline[:-1], pack])(loaded)
    batch = dict(inputs=[data["inputs"]], data_samples=[data["data_samples"]])
    with torch.no_grad():
        (sample,) = model.test_step(batch)
    if "pred_sem_seg" in sample:
        return dict(label_map=sample.pred_sem_seg.data[0].numpy())
    found = sample.pred_instances
    names = dict(bboxes="boxes", scores="scores", labels="labels", masks="masks")
    return {ours: found[theirs].numpy() for theirs, ours in names.items() if theirs in found}


def compare(found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> Deviation:
    """How far a file's results of an image are from PyTorch's.

    A detection's like is the nearest box of its label that isn't another's like already.
    """
    if "label_map" in wanted:
        labels = wanted["label_map"]
        return Deviation(labels.size, int((found["label_map"] != labels).sum()), unit="pixels")
    deviation = Deviation()
    free = np.ones(len(found["labels"]), bool)
    for i in np.flatnonzero(wanted["scores"] > LEAST_SCORE):
        deviation.compared += 1
        distances = np.abs(found["boxes"] - wanted["boxes"][i]).max(1, initial=0)
        scores = np.abs(found["scores"] - wanted["scores"][i])
        can_be = free & (found["labels"] == wanted["labels"][i]) & (distances < 2) & (scores < 0.1)
        if not can_be.any():
            deviation.unlike += 1
            continue
        like = np.flatnonzero(can_be)[(distances + scores)[can_be].argmin()]
        free[like] = False
        mask = 0.0
        if "masks" in wanted:
            ours, theirs = found["masks"][like], wanted["masks"][i]
            mask = float((ours != theirs).sum() / max((ours | theirs).sum(), 1))
        deviation.include(Deviation(box=distances[like], score=scores[like], mask=mask))
    return deviation


def check(
    path: str,
    model: nn.Module,
    config: Config,
    image: np.ndarray | None = None,
    shape: Sequence[int] | None = None,
) -> Deviation:
    """Runs an exported file and PyTorch on one image.

    Args:
        path (str): the file.
        model (nn.Module): what it was exported from.
        config (Config): its config.
        image (ndarray | None): uint8, as the test pipeline decodes it; by default shapes are drawn.
        shape (Sequence[int] | None): the height and width of a file of fixed size: there the image
            is resized to them first, so that both pad it alike.

    Returns:
        Deviation: of the two.

    Raises:
        UserError: onnxruntime doesn't take the file.
    """
    loading = read_loading(config)
    if image is None:
        image = drawn(loading.channels or input_channels(model.backbone))
    if shape is not None:
        image = cv2.resize(image, (shape[1], shape[0]))
        config = with_scale(config, shape)
    found = runner(path, is_bgr=loading.is_bgr)(image)
    return compare(found, predict(model, config, image))


def drawn(channels: int) -> np.ndarray:
    """Shapes, uint8, (height, width, channels) or, of one channel, (height, width)."""
    image = draw_scene(np.random.default_rng(0), (min(DRAWN), max(DRAWN))).image
    image = cv2.resize(image, DRAWN[::-1])
    return image[..., 0] if channels == 1 else image[..., np.arange(channels) % 3]


def file_order(image: np.ndarray, is_bgr: bool = True) -> np.ndarray:
    """An image as exported files take it: red first where it has three channels or more.

    Args:
        image (ndarray): (height, width) or (height, width, channels).
        is_bgr (bool): whether it has blue first. Default: True.
    """
    image = image if image.ndim == 3 else image[..., None]
    if is_bgr and image.shape[2] > 2:
        image = image[..., [2, 1, 0, *range(3, image.shape[2])]]
    return np.ascontiguousarray(image)


def runner(
    path: str, threads: int = 0, is_bgr: bool = True
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """What finds things in an image, uint8, (height, width, channels), with an exported file.

    Args:
        path (str): the file.
        threads (int): of onnxruntime. Default: 0, all cores.
        is_bgr (bool): whether images have blue first. Default: True.

    Raises:
        UserError: onnxruntime doesn't take the file.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: its warnings are on what it doesn't optimise
    options.intra_op_num_threads = threads
    # onnxruntime takes no path that is not UTF-8
    model = path if encodable(path) == path else Path(path).read_bytes()
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no other base
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"onnxruntime doesn't take {path} ({reason})") from error
    names = [output.name for output in session.get_outputs()]

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        inputs = {"image": file_order(image, is_bgr)}
        return dict(zip(names, session.run(None, inputs), strict=True))

    return run


def with_scale(config: Config, shape: Sequence[int]) -> Config:
    """A copy of the config whose test pipeline resizes to ``shape``, height and width."""
    config = Config(config.to_dict())
    pipeline = test_pipeline(config)
    resize = next(t for t in pipeline if t["type"].endswith("Resize"))
    resize["scale"] = (shape[1], shape[0])
    resize["keep_ratio"] = False
    return config
