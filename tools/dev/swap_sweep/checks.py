"""What makes losses and predictions valid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import BaseDataElement, InstanceData

from dev.swap_sweep.batches import SIDE
from mmpvt.models.backbone import PyramidBackbone


class Problem(Exception):
    """What is wrong with a model's losses or predictions."""


def check_losses(losses: Mapping) -> None:
    """Makes sure that all losses are finite.

    Args:
        losses (Mapping): a tensor, or several, by name.

    Raises:
        Problem: one is not.
    """
    for name, value in losses.items():
        values = value if isinstance(value, list | tuple) else [value]
        if not all(torch.isfinite(torch.as_tensor(each)).all() for each in values):
            raise Problem(f"{name} is not finite")


def check_gradients(model: torch.nn.Module) -> None:
    """Makes sure that finite gradients, not all zero, reach a model's PVT; not a teacher's copy.

    Raises:
        Problem: they don't.
    """
    backbones = [module for module in model.modules() if isinstance(module, PyramidBackbone)]
    if backbones and not any(map(_has_gradient, backbones)):
        raise Problem("no finite gradient reaches PVT")


def _has_gradient(module: torch.nn.Module) -> bool:
    norms = [p.grad.norm().item() for p in module.parameters() if p.grad is not None]
    return bool(norms) and all(map(math.isfinite, norms)) and max(norms) > 0


def check_predictions(
    predictions: Sequence, count: int, shape: tuple[int, int] = (SIDE, SIDE)
) -> None:
    """Makes sure that there is a valid prediction of each image.

    Args:
        predictions (Sequence): data samples of MMDetection or MMSegmentation.
        count (int): how many images, or clips, there were.
        shape (tuple[int, int]): their height and width. Default: those of the batches.

    Raises:
        Problem: a prediction is missing, not finite or of another shape.
    """
    if len(predictions) != count:
        raise Problem(f"{len(predictions)} predictions of {count} images")
    for prediction in predictions:
        for frame in getattr(prediction, "video_data_samples", [prediction]):
            if isinstance(frame, DetDataSample):
                _check_detection(frame, shape)
            else:
                _check_segmentation(frame, shape)


def _check_segmentation(sample: BaseDataElement, shape: tuple[int, int]) -> None:
    labels = sample.pred_sem_seg.data
    if tuple(labels.shape) != (1, *shape):
        raise Problem(f"a label map of shape {tuple(labels.shape)}")
    if not torch.isfinite(sample.seg_logits.data).all():
        raise Problem("logits are not finite")


def _check_detection(sample: DetDataSample, shape: tuple[int, int]) -> None:
    names = ("pred_instances", "pred_track_instances")
    found = [name for name in names if name in sample]
    for name in found:
        _check_instances(sample.get(name), name, shape)
    if "pred_panoptic_seg" in sample:
        size = tuple(sample.pred_panoptic_seg.sem_seg.shape[-2:])
        if size != shape:
            raise Problem(f"a panoptic map of shape {size}")
    elif not found:
        raise Problem("a prediction that holds neither instances nor a panoptic map")


def _check_instances(instances: InstanceData, name: str, shape: tuple[int, int]) -> None:
    boxes = instances.bboxes
    if boxes.shape[1:] != (4,) or not torch.isfinite(boxes).all():
        raise Problem(f"{name}: boxes are not finite or not (N, 4)")
    if len(instances.scores) != len(boxes) or not torch.isfinite(instances.scores).all():
        raise Problem(f"{name}: scores are not finite or not as many as boxes")
    masks = instances.get("masks")
    if masks is not None and tuple(masks.shape) != (len(boxes), *shape):
        raise Problem(f"{name}: masks of shape {tuple(masks.shape)} for {len(boxes)} boxes")
