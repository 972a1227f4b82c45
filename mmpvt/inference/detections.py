"""Predictions as supervision's ``Detections``, for its annotators, zones, counters and trackers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from mmengine.structures import BaseDataElement
from pycocotools import mask as coco_mask

from mmpvt.errors import SetupError, UserError
from mmpvt.utils.text import class_name

if TYPE_CHECKING:
    import supervision


def sample_to_detections(
    sample: BaseDataElement, classes: Sequence[str] = ()
) -> supervision.Detections:
    """A prediction as supervision has it.

    ``Detections.from_mmdetection`` leaves out class names, and masks that are RLE.

    Args:
        sample (BaseDataElement): a detector's or instance segmenter's prediction; or a semantic
            segmenter's, each of whose classes becomes one instance with a mask and its box.
        classes (Sequence[str]): names by label, such as ``predictor.classes``. Default: none.

    Returns:
        supervision.Detections: boxes (n, 4), left, top, right and bottom in pixels, float32;
        ``confidence`` (n,) but of label maps; ``class_id`` (n,); ``mask`` (n, height, width), bool,
        where there are masks; ``data['class_name']`` (n,) where there are names.

    Raises:
        UserError: it is a classifier's prediction.
        SetupError: supervision isn't installed.

    Example:
        >>> import supervision as sv
        >>> predictor = mmpvt.load_model('retinanet_pvt_v2_b2_fpn_1x_coco')
        >>> detections = mmpvt.sample_to_detections(predictor('street.jpg'), predictor.classes)
        >>> cars = detections[(detections.class_id == 2) & (detections.confidence > 0.5)]
        >>> picture = sv.BoxAnnotator().annotate(cv2.imread('street.jpg'), cars)
    """
    try:
        import supervision
    except ImportError as error:
        raise SetupError(
            "sample_to_detections gives supervision's Detections, and supervision isn't installed",
            hint="pip install 'mmpvt[supervision]'",
        ) from error
    fields: dict[str, Any]
    if "pred_instances" in sample:
        instances = sample.pred_instances
        boxes = getattr(instances.bboxes, "tensor", instances.bboxes)
        fields = dict(
            xyxy=boxes.numpy().astype(np.float32),
            confidence=instances.scores.numpy(),
            class_id=instances.labels.numpy().astype(int),
        )
        if "masks" in instances:
            fields["mask"] = _masks(instances.masks, sample.ori_shape[:2])
    elif "pred_sem_seg" in sample:
        labels = sample.pred_sem_seg.data.squeeze(0).numpy()
        fields = dict(class_id=np.unique(labels).astype(int))
        fields["mask"] = fields["class_id"][:, None, None] == labels
        fields["xyxy"] = supervision.mask_to_xyxy(fields["mask"]).astype(np.float32)
    else:
        raise UserError("a classifier's prediction has no boxes and no masks")
    if classes:
        names = [class_name(classes, label) for label in fields["class_id"]]
        fields["data"] = dict(class_name=np.array(names, dtype=str))
    return supervision.Detections(**fields)


def _masks(masks: Any, shape: tuple[int, int]) -> np.ndarray:
    if isinstance(masks, list):  # of tiles
        masks = [coco_mask.decode(rle) for rle in masks]
    masks = masks.to_ndarray() if hasattr(masks, "to_ndarray") else np.asarray(masks)
    return masks.astype(bool).reshape(-1, *shape)
