"""Data sets, loaders and evaluators of a config for a user's own data."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, DefaultScope

from mmpvt.engine.config_parts import iter_datasets, iter_dicts, iter_steps
from mmpvt.errors import ConfigError

MASK_HEADS = ("mask_head", "panoptic_head")
MASK_TYPES = ("RTMDetInsHead", "RTMDetInsSepBNHead")  # box heads that predict masks, too
REPEATS = ("RepeatDataset", "mmengine.RepeatDataset")
COCO_METRICS = ("CocoMetric", "mmdet.CocoMetric", "mmpvt.CocoMetric")


def predicts_masks(config: Config) -> bool:
    """Whether a detector predicts a mask for each object."""
    return any(
        part.get("type") in MASK_TYPES or any(part.get(head) for head in MASK_HEADS)
        for part in iter_dicts(config.model)
    )


def learns_masks(config: Config) -> bool:
    """Whether a detector's training loads masks."""
    return any(part.get("with_mask") for part in iter_dicts(config.get("train_dataloader")))


def set_datasets(config: Config, datasets: Mapping[str, Mapping[str, Any]]) -> None:
    """Puts data sets in the place of a config's own, under the pipelines that it has.

    Wrappers that mix or weight images stay. Those that join or repeat data sets go, as there is
    one, and the schedule is set for it.

    Args:
        config (Config): changed.
        datasets (Mapping[str, Mapping]): type, files and classes by split: ``train``, ``val`` and
            ``test``.

    Raises:
        ConfigError: the config has no data set to train or to validate on.
    """
    if not config.get("test_dataloader"):
        config.test_dataloader, config.test_cfg = config.get("val_dataloader"), {}
    for split, fields in datasets.items():
        loader = copy.deepcopy(config.get(f"{split}_dataloader"))
        if not loader:
            raise ConfigError(f"the config has no {split}_dataloader, whose pipeline is needed")
        if split == "train":
            loader.dataset = _in_wrappers(loader.dataset, fields)
        else:
            loader.dataset = _in_place_of(next(iter_datasets(loader.dataset)), fields)
        config[f"{split}_dataloader"] = loader


def _in_wrappers(old: ConfigDict, fields: Mapping[str, Any]) -> ConfigDict:
    if "datasets" in old:
        return _in_wrappers(old["datasets"][0], fields)
    if "dataset" not in old:
        return _in_place_of(old, fields)
    inner = _in_wrappers(old["dataset"], fields)
    if old["type"] in REPEATS:
        return inner
    return ConfigDict({**old, "dataset": inner})


def _in_place_of(old: ConfigDict, fields: Mapping[str, Any]) -> ConfigDict:
    kept = {key: old[key] for key in ("filter_cfg", "test_mode", "lazy_init") if key in old}
    return ConfigDict(**kept, **fields, pipeline=old.get("pipeline") or [])


def repeats(config: Config) -> int:
    """How often an epoch of a config's training goes through its data set."""
    times, dataset = 1, config.train_dataloader.dataset
    while dataset:
        if dataset.get("type") in REPEATS:
            times *= dataset["times"]
        dataset = dataset.get("dataset")
    return times


def repeats_rare_classes(config: Config) -> bool:
    """Whether a training's data set has images of rare classes several times in an epoch."""
    parts = iter_dicts(config.train_dataloader.dataset)
    return any(str(part.get("type")).endswith("ClassBalancedDataset") for part in parts)


def epoch_length(config: Config) -> int:
    """How many images an epoch of a config's training has, wrappers counted."""
    with DefaultScope.overwrite_default_scope(config.get("default_scope") or "mmengine"):
        return len(DATASETS.build(copy.deepcopy(config.train_dataloader.dataset)))


def load_objects(config: Config, with_masks: bool) -> None:
    """Has all pipelines load a detector's boxes and, perhaps, masks, and no label maps."""
    for part in iter_steps(config):
        if part.get("type") == "LoadPanopticAnnotations":
            part.update(type="LoadAnnotations")
        if part.get("type") == "LoadAnnotations":
            masks = bool(part.get("with_mask")) and with_masks
            part.update(with_bbox=True, with_mask=masks)
            if masks:
                part.pop("poly2mask", None)  # its default reads masks that aren't polygons, too
            part.pop("with_seg", None)
            part.pop("backend_args", None)
    for part in iter_dicts(config.model):
        if "pad_seg" in part:  # of a data preprocessor
            part["pad_seg"] = False


def load_labels_as_they_are(config: Config) -> None:
    """Has all pipelines of a segmenter take label 0 for the first class."""
    for part in iter_steps(config):
        if part.get("type") in ("LoadAnnotations", "mmpvt.LoadSegAnnotations"):
            part.pop("reduce_zero_label", None)
            part.pop("imdecode_backend", None)


def keep_images_without_objects(config: Config) -> None:
    """Trains on images without objects, too, which configs filter out."""
    for dataset in iter_datasets(config.train_dataloader.dataset):
        dataset["filter_cfg"] = dict(dataset.get("filter_cfg") or {}, filter_empty_gt=False)


def filter_rule(config: Config) -> dict:
    """What a detector's data set for training leaves images out by."""
    return next(iter_datasets(config.train_dataloader.dataset)).get("filter_cfg") or {}


def coco_metric(config: Config, ann_file: str, has_masks: bool) -> ConfigDict:
    """A detector's evaluator: of the config's own metrics those that the data allows.

    Args:
        config (Config): of the detector.
        ann_file (str): the annotation file to compare with.
        has_masks (bool): whether its objects have masks.
    """
    evaluators = config.get("val_evaluator") or []
    for old in evaluators if isinstance(evaluators, list) else [evaluators]:
        if old.get("type") in COCO_METRICS:
            metric = old.get("metric", "bbox")
            metrics = [metric] if isinstance(metric, str) else list(metric)
            break
    else:
        metrics = ["bbox", "segm"] if predicts_masks(config) else ["bbox"]
    if not has_masks:
        metrics = [metric for metric in metrics if metric != "segm"] or ["bbox"]
    return ConfigDict(type="mmdet.CocoMetric", ann_file=ann_file, metric=metrics)
