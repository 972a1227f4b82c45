"""Compares an exported file's results with PyTorch's."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from mmcv.ops import batched_nms
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement

from mmpvt.datasets.pipelines import transform_name
from mmpvt.datasets.shapes_drawing import draw_scene
from mmpvt.deploy.forms import paste_masks
from mmpvt.deploy.openvino_files import load_openvino, read_metadata
from mmpvt.deploy.preprocessing import read_image_format
from mmpvt.engine.pipeline import TestPipeline, evaluating, read_test_pipeline
from mmpvt.errors import ExportError
from mmpvt.models.data_preprocessor import input_channels
from mmpvt.utils.processors import granted_processors
from mmpvt.utils.text import encodable

Run = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]  # from inputs to outputs
MIN_SCORE = 0.05  # of the detections that are compared
MATCH_BOX, MATCH_SCORE = 2, 0.1  # pixels and score within which two detections may be the same
BOX_TOLERANCE, SCORE_TOLERANCE = 0.5, 1e-3  # pixels and score, of results in float32
MAX_UNMATCHED = 1e-3  # share of pixels or detections: those on the edge of a threshold
EXAMPLE_SIZE = (480, 640)  # pixels of the image drawn where none is given


@dataclass
class Deviation:
    """How far two results of an image, or of several, are apart."""

    compared: int = 0  # PyTorch's detections, or pixels of its label map
    unmatched: int = 0  # of those, without a match in the file's results, or of another label
    added: int = 0  # the file's detections without a match in PyTorch's
    box: float = 0.0  # largest distance of a box's side, in pixels
    score: float = 0.0  # largest difference of a score
    mask: float = 0.0  # largest share of a mask's pixels that differ
    unit: str = "detections"  # what is compared

    @property
    def is_small(self) -> bool:
        """Whether it is within the tolerance of results in float32."""
        is_matched = max(self.unmatched, self.added) <= self.compared * MAX_UNMATCHED
        return is_matched and self.box <= BOX_TOLERANCE and self.score <= SCORE_TOLERANCE

    def include(self, other: Deviation) -> None:
        """Adds another image's."""
        self.unit = other.unit
        self.compared += other.compared
        self.unmatched += other.unmatched
        self.added += other.added
        for name in ("box", "score", "mask"):
            setattr(self, name, max(getattr(self, name), getattr(other, name)))

    def __str__(self) -> str:
        if self.unit == "pixels":
            return f"{self.unmatched} of {self.compared} pixels have another label"
        if self.unit == "classes":
            same = "another class" if self.unmatched else "the same class"
            return f"{same} has the highest score; scores deviate by at most {self.score:.1e}"
        if not self.compared and self.added:
            return f"PyTorch finds no detection over {MIN_SCORE}, and the file {self.added}"
        if not self.compared:
            return (
                f"no results were compared, as PyTorch finds no detection over {MIN_SCORE}: take "
                "an image in which it does"
            )
        added = f", and {self.added} are added" if self.added else ""
        mask = f", masks by {self.mask:.3%} of their pixels" if self.mask else ""
        return (
            f"{self.unmatched} of {self.compared} detections over {MIN_SCORE} are missing{added}; "
            f"the others deviate by at most {self.box:.4f} pixels, scores by "
            f"{self.score:.1e}{mask}"
        )


def predict(model: BaseModel, config: Config, image: np.ndarray) -> dict[str, np.ndarray]:
    """PyTorch's results of a uint8 image, by the names of an exported file's outputs."""
    (found,) = predict_samples(model, [prepare(config, image)])
    return found


def prepare(config: Config, image: np.ndarray) -> dict:
    """What the test pipeline makes of a uint8 image."""
    if read_image_format(config).is_float:
        image = image.astype(np.float32)
    return TestPipeline(config).prepare(image)


def predict_samples(model: BaseModel, prepared: Sequence[dict]) -> list[dict[str, np.ndarray]]:
    """PyTorch's results of a batch."""
    with torch.no_grad(), evaluating(model):
        samples = model.test_step({key: [x[key] for x in prepared] for key in prepared[0]})
    return [_arrays(sample) for sample in samples]


def _arrays(sample: BaseDataElement) -> dict[str, np.ndarray]:
    if "pred_sem_seg" in sample:
        return dict(label_map=sample.pred_sem_seg.data[0].numpy())
    if "pred_score" in sample:
        return dict(scores=sample.pred_score.numpy())
    instances = sample.pred_instances
    names = dict(bboxes="boxes", scores="scores", labels="labels", masks="masks")
    return {ours: instances[name].numpy() for name, ours in names.items() if name in instances}


def compare(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> Deviation:
    """How far a file's results of an image are from PyTorch's.

    A detection is matched to the nearest box of its label that isn't matched to another.
    """
    if "label_map" in expected:
        labels = expected["label_map"]
        return Deviation(labels.size, int((found["label_map"] != labels).sum()), unit="pixels")
    if "labels" not in expected:
        ours, theirs = found["scores"], expected["scores"]
        unmatched = int(ours.argmax() != theirs.argmax())
        return Deviation(1, unmatched, score=float(np.abs(ours - theirs).max()), unit="classes")
    deviation = Deviation()
    free = np.ones(len(found["labels"]), bool)
    for i in np.flatnonzero(expected["scores"] > MIN_SCORE):
        deviation.compared += 1
        distances = np.abs(found["boxes"] - expected["boxes"][i]).max(1, initial=0)
        scores = np.abs(found["scores"] - expected["scores"][i])
        near = free & (found["labels"] == expected["labels"][i])
        near &= (distances < MATCH_BOX) & (scores < MATCH_SCORE)
        if not near.any():
            deviation.unmatched += 1
            continue
        match = np.flatnonzero(near)[(distances + scores)[near].argmin()]
        free[match] = False
        mask = 0.0
        if "masks" in expected:
            ours, theirs = found["masks"][match], expected["masks"][i]
            mask = float((ours != theirs).sum() / max((ours | theirs).sum(), 1))
        deviation.include(Deviation(box=distances[match], score=scores[match], mask=mask))
    # lower scores may match what PyTorch gives less than MIN_SCORE
    deviation.added = int((free & (found["scores"] > MIN_SCORE + MATCH_SCORE)).sum())
    return deviation


def verify(
    path: str,
    model: BaseModel,
    config: Config,
    image: np.ndarray | None = None,
    shape: Sequence[int] | None = None,
) -> Deviation:
    """Runs an exported file and PyTorch on one image, or on a batch of images of two sizes.

    Args:
        path (str): the file.
        model (BaseModel): what it was exported from.
        config (Config): its config.
        image (ndarray | None): uint8, as the test pipeline decodes it; by default shapes are drawn.
        shape (Sequence[int] | None): the height and width of a file of fixed size: there the image
            is resized to them first, so that both pad it alike.
    """
    image, config = example(model, config, image, shape)
    run, meta = load_openvino_file(path) if path.endswith(".xml") else load_onnx(path)
    if meta["form"] == "batch":
        return verify_batch(run, meta, model, config, image)
    found = run({"image": to_rgb(image, read_image_format(config).is_bgr)})
    return compare(found, predict(model, config, image))


def example(
    model: BaseModel, config: Config, image: np.ndarray | None, shape: Sequence[int] | None
) -> tuple[np.ndarray, Config]:
    """The image to compare results on, and a config that leaves one of fixed size as it is."""
    image_format = read_image_format(config)
    if image is None:
        scene = draw_scene(np.random.default_rng(0), (min(EXAMPLE_SIZE), max(EXAMPLE_SIZE)))
        image = cv2.resize(scene.image, EXAMPLE_SIZE[::-1])
        channels = image_format.channels or input_channels(model.backbone)
        image = image[..., 0] if channels == 1 else image[..., np.arange(channels) % 3]
    if shape is not None:
        return resized(config, image, shape)
    return image, config


def resized(config: Config, image: np.ndarray, shape: Sequence[int]) -> tuple[np.ndarray, Config]:
    """An image of a height and width, and a config whose test pipeline leaves it so."""
    config = Config(config.to_dict())
    for transform in read_test_pipeline(config):
        if transform_name(transform) == "Resize":
            transform.update(scale=(shape[1], shape[0]), keep_ratio=False)
    return cv2.resize(image, (shape[1], shape[0])), config


def verify_batch(
    run: Run,
    meta: Mapping[str, str],
    model: BaseModel,
    config: Config,
    image: np.ndarray,
) -> Deviation:
    """Of a batch's resized images, in their own pixels: nothing is resized after the model.

    Args:
        run (Callable): the exported model.
        meta (Mapping[str, str]): its metadata.
        model, config, image: as :func:`verify`'s, the image made ready.
    """
    is_dynamic = meta["input_size"] == "dynamic"
    count = 2 if meta["batch"] == "dynamic" else int(meta["batch"])
    # others leave a part of their frames, where they may; PyTorch segments equal sizes only
    is_cropped = is_dynamic and meta["task"] != "semantic segmentation"
    others = [image[: len(image) // 2] if is_cropped else image] * (count - 1)
    prepared = [prepare(config, one) for one in (image, *others)]
    for one in prepared:
        shape = one["data_samples"].img_shape
        one["data_samples"].set_metainfo(dict(ori_shape=shape, scale_factor=(1.0, 1.0)))
        one["inputs"] = one["inputs"].round()  # to bytes: a pipeline may resize in float32
    inputs = make_batch(prepared, meta, read_image_format(config).is_bgr)
    images, sizes = inputs["images"], inputs["sizes"]
    results = run(inputs)
    deviation = Deviation()
    for i, expected in enumerate(predict_samples(model, prepared)):
        found = {name: array[i] for name, array in results.items()}
        deviation.include(compare(unpad(found, sizes[i], images.shape[1:3], meta), expected))
    return deviation


def make_batch(
    prepared: Sequence[dict], meta: Mapping[str, str], is_bgr: bool
) -> dict[str, np.ndarray]:
    """An exported model's ``images`` and ``sizes``.

    Args:
        prepared (Sequence[dict]): what :func:`prepare` makes of images.
        meta (Mapping[str, str]): the model's metadata.
        is_bgr (bool): whether they have blue first.
    """
    sizes = np.array([one["data_samples"].img_shape[:2] for one in prepared], np.int64)
    divisor = int(meta["divisor"])
    frame = -(-sizes.max(0) // divisor) * divisor
    frame = frame if meta["input_size"] == "dynamic" else json.loads(meta["input_size"])
    images = np.zeros((len(prepared), *frame, len(prepared[0]["inputs"])), np.uint8)
    for image, (height, width), one in zip(images, sizes, prepared, strict=True):
        image[:height, :width] = to_rgb(one["inputs"].permute(1, 2, 0).numpy(), is_bgr)
    return dict(images=images, sizes=sizes)


def unpad(
    found: dict[str, np.ndarray], size: np.ndarray, frame: Sequence[int], meta: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """One image's results of a batch, at the image's size in the batch, without empty places.

    Args:
        found (dict[str, ndarray]): an exported file's outputs of the image.
        size (ndarray): its height and width.
        frame (Sequence[int]): height and width of the batch.
        meta (Mapping[str, str]): the file's metadata.
    """
    height, width = size.tolist()
    if "label_map" in found:
        return dict(label_map=found["label_map"][:height, :width])
    if "boxes" not in found:
        return found
    if "nms" in meta:
        nms = json.loads(meta["nms"])
        cfg = {key: nms[key] for key in nms if key not in ("class_agnostic", "max_per_img")}
        arrays = (torch.from_numpy(found[name]) for name in ("boxes", "scores", "labels"))
        boxes, scores, labels = (x[torch.from_numpy(found["scores"]) > 0] for x in arrays)
        agnostic = nms["class_agnostic"]
        kept_boxes, kept = batched_nms(boxes, scores, labels, cfg, class_agnostic=agnostic)
        limit = nms["max_per_img"]
        found = dict(
            boxes=kept_boxes[:limit, :4].numpy(),
            scores=kept_boxes[:limit, 4].numpy(),
            labels=labels[kept][:limit].numpy(),
        )
    found = {name: array[found["scores"] > 0] for name, array in found.items()}
    if "masks" not in found:
        return found
    masks, boxes = (torch.from_numpy(found[name]) for name in ("masks", "boxes"))
    threshold = float(meta["mask_threshold"])
    if meta["mask_frame"] == "box":
        rows, columns = (torch.arange(side) + 0.5 for side in (height, width))
        pasted = paste_masks(masks, boxes, rows, columns) >= threshold
    else:
        whole = F.interpolate(masks[None], frame, mode="bilinear", align_corners=False)
        pasted = whole[0, :, :height, :width] > threshold
    return {**found, "masks": pasted.numpy()}


def to_rgb(image: np.ndarray, is_bgr: bool = True) -> np.ndarray:
    """An image as exported files take it: (height, width, channels), RGB."""
    image = image if image.ndim == 3 else image[..., None]
    if is_bgr and image.shape[2] > 2:
        image = image[..., [2, 1, 0, *range(3, image.shape[2])]]
    return np.ascontiguousarray(image)


def load_onnx(path: str, threads: int | None = None) -> tuple[Run, dict[str, str]]:
    """An ONNX file in onnxruntime, and its metadata; by default on all processors that are granted.

    Raises:
        ExportError: onnxruntime can't load it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors: its warnings are on what it doesn't optimise
    options.intra_op_num_threads = threads or granted_processors() or 0
    # onnxruntime takes no path that is not UTF-8
    model = path if encodable(path) == path else Path(path).read_bytes()
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors share no other base
        reason = str(error).splitlines()[0][:200]
        raise ExportError(f"onnxruntime can't load {path} ({reason})", where=path) from error
    names = [output.name for output in session.get_outputs()]

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:
            return dict(zip(names, session.run(None, dict(inputs)), strict=True))
        except Exception as error:  # as above
            reason = str(error).splitlines()[0][:200]
            raise ExportError(f"onnxruntime can't run {path} ({reason})", where=path) from error

    return run, session.get_modelmeta().custom_metadata_map


def load_openvino_file(path: str, threads: int | None = None) -> tuple[Run, dict[str, str]]:
    """An .onnx or .xml file in OpenVINO, in float32 on the CPU, and its metadata."""
    core = load_openvino().Core()
    model = core.read_model(path)
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads or granted_processors() or 0,
    }
    compiled = core.compile_model(model, "CPU", options)
    names = [output.any_name for output in compiled.outputs]

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = compiled(dict(inputs)).to_tuple()
        return dict(zip(names, map(np.array, found), strict=True))

    return run, read_metadata(model)
