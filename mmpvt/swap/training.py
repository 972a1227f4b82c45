"""What a swap changes in the settings of training: optimizer, image statistics, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from mmengine.config import Config, ConfigDict

from mmpvt import models
from mmpvt.errors import UserError
from mmpvt.models.archs import IMAGENET_MEAN, IMAGENET_STD
from mmpvt.swap.consumers import Change
from mmpvt.swap.feature_maps import as_list, type_name
from mmpvt.swap.submodels import Submodel, dicts_within
from mmpvt.utils.text import few

# they know the layers of ConvNeXt, BEiT and ViT by name, and refuse or misjudge others
LAYER_DECAY = (
    *("LearningRateDecayOptimizerConstructor", "LayerDecayOptimizerConstructor"),
    "LearningRateDecayOptimWrapperConstructor",
)

_STATISTICS = dict(mean=list(IMAGENET_MEAN), std=list(IMAGENET_STD), bgr_to_rgb=True)


def set_optimizer(config: Config, model: Submodel) -> Iterator[Change]:
    """Sets AdamW at the published rate where the base has another optimizer.

    The rate follows the square root of the batch, as between the published settings.
    """
    wrapper = config.get("optim_wrapper")
    if not wrapper or "optimizer" not in wrapper:
        return
    before = wrapper.optimizer
    if type_name(before) in ("AdamW", "Adam"):
        yield Change("optim_wrapper.optimizer", f"{before.type} stays, at rate {before.get('lr')}")
        return
    # published settings of Semantic FPN, Mask R-CNN, RetinaNet
    rate = 2e-4 if model.is_segmenter or "roi_head" in model.config else 1e-4
    batch = 32 if model.is_segmenter else 16
    own_batch = (config.get("auto_scale_lr") or {}).get("base_batch_size") or batch
    rate = float(f"{rate * math.sqrt(own_batch / batch):.2g}")
    wrapper.optimizer = ConfigDict(type="AdamW", lr=rate, weight_decay=1e-4)
    yield Change(
        "optim_wrapper.optimizer",
        f"{before.type} -> AdamW at rate {rate:g}, as published for PVT "
        f"({UserError.name_setting('keep_optimizer', True)} of swap_backbone leaves {before.type})",
    )
    for i, scheduler in enumerate(as_list(config.get("param_scheduler") or [])):
        if type_name(scheduler).endswith("Momentum"):
            continue
        if "eta_max" in scheduler:  # OneCycleLR's, which takes the place of the optimizer's rate
            peak, scheduler["eta_max"] = scheduler["eta_max"], rate
            yield Change(f"param_scheduler[{i}].eta_max", f"{peak} -> {rate:g}, the new rate")
        floor = scheduler.get("eta_min")
        if floor and floor > rate / 100:
            scheduler["eta_min"] = 0.0
            yield Change(
                f"param_scheduler[{i}].eta_min",
                f"{floor:g} -> 0, as it is more than a hundredth of the new rate",
            )


def drop_layer_decay(config: Config) -> Iterator[Change]:
    """Drops learning rates by the old backbone's layers."""
    wrapper = config.get("optim_wrapper") or {}
    constructor = wrapper.get("constructor")
    if constructor and type_name(dict(type=constructor)) in LAYER_DECAY:
        wrapper.pop("constructor")
        wrapper.pop("paramwise_cfg", None)
        yield Change(
            "optim_wrapper.constructor", f"{constructor} dropped: it doesn't know PVT's layers"
        )


def name_lost_settings(config: Config, model: Submodel, old: dict) -> Iterator[Change]:
    """Names what was set for the old backbone's layers, and does nothing to PVT's."""
    frozen = old.get("frozen_stages") or -1
    if frozen > 1:  # one is of every published ResNet's config
        again = UserError.name_setting("freeze", frozen)
        yield Change(
            f"{model.backbone_path}.frozen_stages",
            f"{frozen} -> none, as PVT is trained whole; {again} of a training freezes as many",
        )
    wrapper = config.get("optim_wrapper") or {}
    keys = (wrapper.get("paramwise_cfg") or {}).get("custom_keys") or {}
    own = f"{model.prefix}backbone."
    if keys := [key for key in keys if key.startswith(own)]:
        settings = {key: v for key, v in model.backbone.items() if key not in ("type", "init_cfg")}
        with torch.device("meta"):
            backbone = getattr(models, type_name(model.backbone))(**settings)
        names = [own + name for name, _ in backbone.named_parameters()]
        lost = [key for key in keys if not any(key in name for name in names)]
        if lost:
            yield Change(
                "optim_wrapper.paramwise_cfg.custom_keys",
                f"what is set for {few(lost)} has no effect, as PVT has no such layers",
            )


def set_statistics(config: Config) -> Iterator[Change]:
    """Normalises images as the published weights take them, where the base does otherwise."""
    parts = [*dicts_within(config.model, "model")]
    if "data_preprocessor" not in config.model:  # MMEngine's runner gives it the config's
        key = "data_preprocessor"
        parts += dicts_within({key: config.get(key)}, "config")
    for path, one in parts:
        named = path.endswith(".data_preprocessor") and ".reid." not in path
        if not named or not len(one.get("mean") or ()):
            continue
        before = {key: one.get(key) for key in _STATISTICS}
        before.update(mean=list(one["mean"]), std=list(one["std"]))
        if before != _STATISTICS:
            one.update(ConfigDict(_STATISTICS))
            yield Change(path, "images in RGB, of ImageNet's mean and deviation, as PVT's weights")


def drop_checkpoints(config: Config, model: Submodel) -> Iterator[Change]:
    """Drops a trained model's weights, where the base starts from them."""
    if model.prefix:
        return
    for owner, path, key in (
        (config, "", "load_from"),
        (config, "", "start_from"),
        (model.config, f"{model.path}.", "init_cfg"),
        (model.config, f"{model.path}.", "pretrained"),
    ):
        if owner.get(key):
            owner[key] = None
            yield Change(f"{path}{key}", "dropped: weights of the backbone that was")
