"""One training step and one prediction of a config's model, on a small synthetic batch."""

from __future__ import annotations

import gc
import hashlib
import json
import time

import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from dev.swap_sweep import batches, feeding
from dev.swap_sweep.checks import check_gradients, check_losses, check_predictions
from dev.swap_sweep.records import FAILED, OK, REFUSED, SKIPPED, UNREADABLE, Record
from dev.swap_sweep.shipped import Shipped, is_counted, without_folders
from dev.swap_sweep.shrinking import make_small
from mmpvt.engine.config import read_config
from mmpvt.errors import UserError
from mmpvt.swap import swap_backbone

_TRACKERS_OF_DETECTIONS = ("SORT", "DeepSORT", "StrongSORT")  # only their detector trains


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
            base = read_config(shipped.name)
        except UserError as error:
            if "holds no model" in str(error):
                return Record(shipped.name, shipped.family, SKIPPED), None
            reason = str(error.__cause__ or error).partition(", the current sys.path")[0]
            reason = without_folders(reason.split("\n")[0])
            return Record(shipped.name, shipped.family, UNREADABLE, reason), None
        if not is_counted(base):
            return Record(shipped.name, shipped.family, SKIPPED), None
        try:
            config = swap_backbone(base, self.arch)
        except UserError as error:
            return Record(shipped.name, shipped.family, REFUSED, str(error)), None
        except Exception as error:
            return Record(shipped.name, shipped.family, FAILED, _one_line(error)), None
        make_small(config)
        model = [config.default_scope, config.model.to_dict()]
        text = json.dumps(model, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
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
    trained, batch = model, feeding.training_batch(config)
    if config.model.type in _TRACKERS_OF_DETECTIONS:
        trained, batch = model.detector, batches.detection(feeding.num_classes(config))
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
    batch = feeding.prediction_batch(config)
    with torch.no_grad():
        predictions = model(**model.data_preprocessor(batch, False), mode="predict")
    check_predictions(predictions, len(batch["data_samples"]))
