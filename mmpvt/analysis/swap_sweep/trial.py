"""One training step and one prediction of a config's model, on a small synthetic batch."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import time
from collections.abc import Iterator
from importlib.util import find_spec

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from mmpvt.analysis.swap_sweep import batches
from mmpvt.analysis.swap_sweep.records import FAILED, OK, REFUSED, SKIPPED, UNREADABLE, Record
from mmpvt.analysis.swap_sweep.shipped import Shipped, has_resnet
from mmpvt.engine import settings
from mmpvt.errors import UserError
from mmpvt.swap import swap_backbone

# how many boxes go from one part of a model to the next; the structure doesn't depend on them
_COUNTS = dict(
    nms_pre=100, max_per_img=20, max_num=20, num_queries=50, num_proposals=20, score_thr=0.0
)
_SAMPLED = 32


class Problem(Exception):
    """What is wrong with a model's losses or predictions."""


class Trial:
    """Tries configs on a PVT.

    Args:
        arch (str): the variant; the smallest shows as much as any.
    """

    def __init__(self, arch: str = "b0") -> None:
        self.arch = arch
        MMLogger.get_instance("mmengine", log_level="ERROR")

    def prepare(self, shipped: Shipped) -> tuple[Record, Config | None]:
        """Swaps the backbone, and makes the config small.

        Args:
            shipped (Shipped): the config.

        Returns:
            tuple: a record, with the model's digest; and the config, or None where there is
            nothing to run.
        """
        try:
            base = settings.read_config(shipped.name)
        except UserError as error:
            if "holds no model" in error.sentence:
                return Record(shipped.name, shipped.family, SKIPPED), None
            reason = str(error.__cause__ or error).split("\n")[0]
            return Record(shipped.name, shipped.family, UNREADABLE, reason), None
        if not has_resnet(base):
            return Record(shipped.name, shipped.family, SKIPPED), None
        try:
            config = swap_backbone(base, self.arch)
        except UserError as error:
            return Record(shipped.name, shipped.family, REFUSED, error.sentence), None
        make_small(config)
        model = json.dumps(config.model.to_dict(), sort_keys=True, default=str)
        digest = hashlib.sha256(model.encode()).hexdigest()[:12]
        return Record(shipped.name, shipped.family, OK, model=digest), config

    def run(self, shipped: Shipped, record: Record, config: Config) -> Record:
        """Trains one step and predicts.

        Args:
            shipped (Shipped): the config as it is shipped.
            record (Record): what :meth:`prepare` gave.
            config (Config): likewise.

        Returns:
            Record: with the verdict.
        """
        start, verdict, reason = time.perf_counter(), OK, ""
        try:
            run_config(config)
        except Exception as error:  # whatever a model raises is what the sweep is after
            verdict = FAILED
            reason = _one_line(error)
            if _one_line(_error_of_base(shipped)) == reason:
                reason = f"with its ResNet, too: {reason}"
        gc.collect()
        seconds = round(time.perf_counter() - start, 1)
        return Record(record.name, record.family, verdict, reason, record.model, seconds)


def _error_of_base(shipped: Shipped) -> Exception | None:
    """What a config raises without a swap."""
    config = settings.read_config(shipped.name)
    make_small(config)
    try:
        run_config(config)
    except Exception as error:
        return error
    return None


def _one_line(error: Exception | None) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0][:300]


def run_config(config: Config) -> None:
    """Builds a small config's model, trains it one step and lets it predict.

    Args:
        config (Config): a swapped one, made small.

    Raises:
        Problem: a loss isn't finite, the backbone gets no gradient, or a prediction is no valid
            one.
        Exception: whatever else the model raises.
    """
    torch.manual_seed(0)
    for name in ("iter", "epoch"):  # some losses ask a runner how far it is
        MessageHub.get_current_instance().update_info(name, 0)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = revert_sync_batchnorm(MODELS.build(config.model))
        model.init_weights()
        _train(model, config)
        _predict(model, config)


def make_small(config: Config) -> None:
    """Lets few boxes through, pads little, and takes what weights are to be fetched out.

    Args:
        config (Config): changed; the structure of the model is not.
    """
    settings.spare_amp_without_gpu(config)
    _spare_reid(config)
    side = batches.SIDE
    for part in settings.iter_dicts(config.model):
        if (part.get("init_cfg") or {}) and "Pretrained" in str(part.get("init_cfg")):
            part.init_cfg = None
        if part.get("teacher_ckpt"):
            part.teacher_ckpt = None
        if isinstance(part.get("teacher_config"), str):
            inside = part.teacher_config.removeprefix("configs/")
            part.teacher_config = settings.read_config(f"mmdet::{inside}").to_dict()
        if part.get("clip_border") is False:  # MMDetection can't paste a mask that is off the image
            part.clip_border = True
        if part.get("use_torchvision") and find_spec("torchvision") is None:
            part.use_torchvision = False
        if part.get("type") == "MMSyncBN":  # takes several processes
            part.type = "BN"
        if part.get("type") in ("SegDataPreProcessor", "BatchFixedSizePad"):
            part.size = (side, side)
        for key, value in part.items():
            if key in _COUNTS and isinstance(value, int | float):
                part[key] = min(value, _COUNTS[key])
            elif key == "sampler" and isinstance(value, dict) and "num" in value:
                value.num = min(value.num, _SAMPLED)


def _spare_reid(config: Config) -> None:
    """Tracks without re-identification where MMPretrain, which it is built of, doesn't import."""
    tracker = config.model.get("tracker") or {}
    if "reid" in tracker:
        try:
            import mmpretrain  # noqa: F401
        except ImportError:
            config.model.pop("reid", None)
            tracker.reid = None


def _train(model: BaseModel, config: Config) -> None:
    model.train()
    trained = model
    batch = _training_batch(config)
    if config.model.type in ("SORT", "DeepSORT", "StrongSORT"):  # their detector is what trains
        trained, batch = model.detector, batches.detection(_num_classes(config))
        trained.data_preprocessor = MODELS.build(
            dict(type="DetDataPreprocessor", mean=[0.0] * 3, std=[1.0] * 3, pad_size_divisor=32)
        )
    optimizer = config.get("optim_wrapper") or dict(optimizer=dict(type="AdamW", lr=1e-4))
    optim_wrapper = build_optim_wrapper(trained, optimizer)
    data = trained.data_preprocessor(batch, True)
    losses = trained(**data, mode="loss")
    for name, value in losses.items():
        values = value if isinstance(value, list | tuple) else [value]
        if not all(torch.isfinite(torch.as_tensor(each)).all() for each in values):
            raise Problem(f"{name} is not finite")
    total, _ = trained.parse_losses(losses)
    optim_wrapper.backward(total)
    backbones = list(_backbones(trained))  # none where a config is tried as it is shipped
    if backbones and not any(map(_gets_gradient, backbones)):
        raise Problem("no finite gradient reaches PVT")
    optim_wrapper.step()


def _predict(model: BaseModel, config: Config) -> None:
    model.eval()
    if _is_video(config):
        batch = batches.video(_num_classes(config), [0], [])
    elif config.default_scope == "mmseg":
        batch = batches.segmentation(_num_classes(config))
    else:
        batch = _images(config)
    with torch.no_grad():
        predictions = model(**model.data_preprocessor(batch, False), mode="predict")
    if len(predictions) != len(batch["data_samples"]):
        raise Problem(f"{len(predictions)} predictions of {len(batch['data_samples'])} images")
    for prediction in predictions:
        frames = prediction if hasattr(prediction, "video_data_samples") else [prediction]
        for frame in frames:
            _check_prediction(frame, config)


def _check_prediction(sample: object, config: Config) -> None:
    side = batches.SIDE
    if config.default_scope == "mmseg":
        labels = sample.pred_sem_seg.data
        if tuple(labels.shape) != (1, side, side):
            raise Problem(f"a label map of shape {tuple(labels.shape)}")
        if not torch.isfinite(sample.seg_logits.data).all():
            raise Problem("logits are not finite")
        return
    found = 0
    for name in ("pred_instances", "pred_track_instances"):
        if name in sample:
            found += 1
            _check_instances(sample.get(name), name)
    if "pred_panoptic_seg" in sample:
        found += 1
        shape = tuple(sample.pred_panoptic_seg.sem_seg.shape)
        if shape[-2:] != (side, side):
            raise Problem(f"a panoptic map of shape {shape}")
    if not found:
        raise Problem("a prediction that holds neither instances nor a panoptic map")


def _check_instances(instances: object, name: str) -> None:
    boxes = instances.bboxes
    if boxes.shape[1:] != (4,) or not torch.isfinite(boxes).all():
        raise Problem(f"{name}: boxes are not finite or not (N, 4)")
    if len(instances.scores) != len(boxes) or not torch.isfinite(instances.scores).all():
        raise Problem(f"{name}: scores are not finite or not as many as boxes")
    masks = instances.get("masks")
    if masks is not None and tuple(masks.shape) != (len(boxes), batches.SIDE, batches.SIDE):
        raise Problem(f"{name}: masks of shape {tuple(masks.shape)} for {len(boxes)} boxes")


def _training_batch(config: Config) -> dict:
    if config.default_scope == "mmseg":
        return batches.segmentation(_num_classes(config))
    if "semi_train_cfg" in config.model:
        return batches.semi_supervised(_num_classes(config))
    if _is_video(config):
        if config.model.type == "Mask2FormerVideo":  # losses are of the whole clip
            return batches.video(_num_classes(config), [0, 1], [])
        return batches.video(_num_classes(config), [0], [1])
    return _images(config)


def _images(config: Config) -> dict:
    takes_proposals = "roi_head" in config.model and "rpn_head" not in config.model
    return batches.detection(_num_classes(config), _stuff(config), takes_proposals)


def _is_video(config: Config) -> bool:
    preprocessor = config.model.get("data_preprocessor") or {}
    return preprocessor.get("type") == "TrackDataPreprocessor"


def _num_classes(config: Config) -> int:
    """The least that any part of the model takes; labels below it fit all."""
    names = ("num_classes", "num_things_classes")
    counts = [
        count
        for part in settings.iter_dicts(config.model)
        for name in names
        for count in _as_counts(part.get(name))
        if count
    ]
    return min(counts, default=80)


def _as_counts(value: object) -> list[int]:
    """Numbers of classes, of one head or of several tasks."""
    if isinstance(value, list | tuple):
        return [each for each in value if isinstance(each, int)]
    return [value] if isinstance(value, int) else []


def _stuff(config: Config) -> int:
    """The first class of the semantic map that is no thing, of a panoptic model; 0 of others."""
    parts = settings.iter_dicts(config.model)
    is_panoptic = "panoptic" in str(config.model.keys())
    things = (part.get("num_things_classes") for part in parts if part.get("num_stuff_classes"))
    return next((count for count in things if count), 0) if is_panoptic else 0


def _backbones(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    for module in model.modules():
        if type(module).__module__.startswith("mmpvt.models"):
            yield module


def _gets_gradient(backbone: torch.nn.Module) -> bool:
    norms = [p.grad.norm().item() for p in backbone.parameters() if p.grad is not None]
    return bool(norms) and all(map(math.isfinite, norms)) and max(norms) > 0
