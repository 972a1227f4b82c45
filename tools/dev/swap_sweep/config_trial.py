"""One training step and one prediction of a config's model, on a small synthetic batch."""

from __future__ import annotations

import gc
import hashlib
import json
import time
from importlib.util import find_spec

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from dev.swap_sweep import batches
from dev.swap_sweep.checks import check_gradients, check_losses, check_predictions
from dev.swap_sweep.records import FAILED, OK, REFUSED, SKIPPED, UNREADABLE, Record
from dev.swap_sweep.shipped_configs import ShippedConfig, is_counted, without_folders
from mmpvt.engine.config import read_config
from mmpvt.engine.config_parts import iter_dicts
from mmpvt.engine.replacements import adapt_amp
from mmpvt.errors import UserError
from mmpvt.swap import swap_backbone

_TRACKERS_OF_DETECTIONS = ("SORT", "DeepSORT", "StrongSORT")  # only their detector trains
# of boxes that go from one part of a model to the next
MAX_COUNTS = dict(
    nms_pre=100, max_per_img=20, max_num=20, num_queries=50, num_proposals=20, score_thr=0.0
)
MAX_SAMPLES = 32


class ConfigTrial:
    """Tries configs on PVT v2 b0."""

    def __init__(self) -> None:
        MMLogger.get_instance("mmengine", log_level="ERROR")

    def prepare(self, shipped: ShippedConfig) -> tuple[Record, Config | None]:
        """Swaps the backbone, and makes the config small: a record with the model's digest, and
        the config, or None where there is nothing to run."""
        try:
            base = Config.fromfile(shipped.file)
        except Exception as error:
            reason = str(error).partition(", the current sys.path")[0].split("\n")[0]
            reason = without_folders(reason)
            return Record(shipped.name, shipped.family, UNREADABLE, reason), None
        if not isinstance(base.get("model"), dict):  # a part of a config
            return Record(shipped.name, shipped.family, SKIPPED), None
        if not is_counted(base):
            return Record(shipped.name, shipped.family, SKIPPED), None
        try:
            config = swap_backbone(base, "b0")
        except UserError as error:
            return Record(shipped.name, shipped.family, REFUSED, str(error)), None
        except Exception as error:
            return Record(shipped.name, shipped.family, FAILED, _one_line(error)), None
        make_small(config)
        model = [config.default_scope, config.model.to_dict()]
        text = json.dumps(model, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        return Record(shipped.name, shipped.family, OK, model=digest), config

    def run(self, shipped: ShippedConfig, record: Record, config: Config) -> Record:
        """Trains what :meth:`prepare` gave one step and predicts; its record with the verdict."""
        start, verdict, reason = time.perf_counter(), OK, ""
        try:
            run_config(config)
        except Exception as error:  # any error of a model is a result of the sweep
            verdict = FAILED
            reason = _one_line(error)
            if _one_line(_error_of_base(shipped)) == reason:
                reason = f"with its ResNet, too: {reason}"
        gc.collect()
        seconds = round(time.perf_counter() - start, 1)
        return Record(record.name, record.family, verdict, reason, record.model, seconds)


def make_small(config: Config) -> None:
    """Lets few boxes through, pads little and removes weights to download; the structure stays."""
    adapt_amp(config)
    _drop_reid_without_mmpretrain(config)
    for part in iter_dicts(config.model):
        if (part.get("init_cfg") or {}) and "Pretrained" in str(part.get("init_cfg")):
            part.init_cfg = None
        if part.get("teacher_ckpt"):
            part.teacher_ckpt = None
        if isinstance(part.get("teacher_config"), str):
            inside = part.teacher_config.removeprefix("configs/")
            part.teacher_config = read_config(f"mmdet::{inside}").to_dict()
        if part.get("clip_border") is False:  # MMDetection can't paste a mask that is off the image
            part.clip_border = True
        if part.get("use_torchvision") and find_spec("torchvision") is None:
            part.use_torchvision = False
        if part.get("type") == "MMSyncBN":  # takes several processes
            part.type = "BN"
        if part.get("type") in ("SegDataPreProcessor", "BatchFixedSizePad"):
            part.size = (batches.SIDE, batches.SIDE)
        for key, value in part.items():
            if key in MAX_COUNTS and isinstance(value, int | float):
                part[key] = min(value, MAX_COUNTS[key])
            elif key == "sampler" and isinstance(value, dict) and "num" in value:
                value.num = min(value.num, MAX_SAMPLES)


def _drop_reid_without_mmpretrain(config: Config) -> None:
    tracker = config.model.get("tracker") or {}
    if "reid" in tracker:
        try:
            import mmpretrain  # noqa: F401
        except ImportError:  # track without re-identification
            config.model.pop("reid", None)
            tracker.reid = None


def _error_of_base(shipped: ShippedConfig) -> Exception | None:
    """The error of a config without a swap, if there is one."""
    config = read_config(shipped.name)
    make_small(config)
    try:
        run_config(config)
    except Exception as error:
        return error
    return None


def _one_line(error: Exception | None) -> str:
    line = without_folders(f"{type(error).__name__}: {error}".split("\n")[0])
    return " ".join(line.split())[:300]


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


def _train(model: BaseModel, config: Config) -> None:
    model.train()
    trained, batch = model, batches.training_batch(config)
    if config.model.type in _TRACKERS_OF_DETECTIONS:
        trained, batch = model.detector, batches.detection(batches.num_classes(config))
        preprocessor = {**config.model.data_preprocessor, "type": "DetDataPreprocessor"}
        trained.data_preprocessor = MODELS.build(preprocessor)
    optimizer = config.get("optim_wrapper") or dict(optimizer=dict(type="AdamW", lr=1e-4))
    optim_wrapper = build_optim_wrapper(trained, optimizer)
    losses = trained(**trained.data_preprocessor(batch, True), mode="loss")
    check_losses(losses)
    total, _ = trained.parse_losses(losses)
    optim_wrapper.backward(total)
    check_gradients(trained)
    optim_wrapper.step()


def _predict(model: BaseModel, config: Config) -> None:
    model.eval()
    batch = batches.prediction_batch(config)
    with torch.no_grad():
        predictions = model(**model.data_preprocessor(batch, False), mode="predict")
    check_predictions(predictions, len(batch["data_samples"]))
