"""Which batch a model takes, by its config."""

from __future__ import annotations

from mmengine.config import Config

from dev.swap_sweep import batches
from mmpvt.engine.config_parts import iter_dicts


def training_batch(config: Config) -> dict:
    """A batch to train on.

    Args:
        config (Config): the model's.

    Returns:
        dict: as its data preprocessor takes it.
    """
    if "semi_train_cfg" in config.model:
        return batches.semi_supervised(num_classes(config))
    if _is_video(config):
        if config.model.type == "Mask2FormerVideo":  # losses are of the whole clip
            return batches.video(num_classes(config), [0, 1], [])
        return batches.video(num_classes(config), [0], [1])
    return _images(config, 2)


def prediction_batch(config: Config) -> dict:
    """A batch to predict on.

    Args:
        config (Config): the model's.

    Returns:
        dict: as its data preprocessor takes it.
    """
    if _is_video(config):
        return batches.video(num_classes(config), [0], [])
    return _images(config, 1)  # guided anchoring takes no more


def num_classes(config: Config) -> int:
    """The least that any part of the model takes; labels below it fit all."""
    counts = [
        count
        for part in iter_dicts(config.model)
        for name in ("num_classes", "num_things_classes")
        for count in _numbers(part.get(name))
        if count
    ]
    return min(counts, default=80)


def _images(config: Config, count: int) -> dict:
    if config.default_scope == "mmseg":
        return batches.segmentation(num_classes(config), count)
    takes_proposals = "roi_head" in config.model and "rpn_head" not in config.model
    return batches.detection(num_classes(config), _stuff(config), takes_proposals, count)


def _is_video(config: Config) -> bool:
    preprocessor = config.model.get("data_preprocessor") or {}
    return preprocessor.get("type") == "TrackDataPreprocessor"


def _stuff(config: Config) -> int:
    """The first class of the semantic map that is no thing, of a panoptic model; 0 of others."""
    if not any(key.startswith("panoptic") for key in config.model):
        return 0
    heads = (part for part in iter_dicts(config.model) if part.get("num_stuff_classes"))
    return next((head.num_things_classes for head in heads), 0)


def _numbers(value: object) -> list[int]:
    """Of one head, or of several tasks'."""
    values = value if isinstance(value, list | tuple) else [value]
    return [each for each in values if isinstance(each, int)]
