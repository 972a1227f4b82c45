"""Small synthetic batches, in the format that each kind of model takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmdet.structures import DetDataSample, TrackDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from mmpvt.engine.config_parts import iter_dicts
from mmpvt.utils.constants import IGNORE_LABEL

SIDE = 128  # pixels: stride 128, the coarsest in use, has one position


def training_batch(config: Config) -> dict:
    """A batch that a model's data preprocessor takes, to train on."""
    if "semi_train_cfg" in config.model:
        return semi_supervised(num_classes(config))
    if _is_video(config):
        if config.model.type == "Mask2FormerVideo":  # losses are of the whole clip
            return video(num_classes(config), [0, 1], [])
        return video(num_classes(config), [0], [1])
    return _image_batch(config, 2)


def prediction_batch(config: Config) -> dict:
    """A batch that a model's data preprocessor takes, to predict on."""
    if _is_video(config):
        return video(num_classes(config), [0], [])
    return _image_batch(config, 1)  # guided anchoring takes no more


def num_classes(config: Config) -> int:
    """The fewest that any part of the model has; labels below it are valid for all."""
    counts = [
        count
        for part in iter_dicts(config.model)
        for name in ("num_classes", "num_things_classes")
        for count in _numbers(part.get(name))
        if count
    ]
    return min(counts, default=80)


def _image_batch(config: Config, count: int) -> dict:
    if config.default_scope == "mmseg":
        return segmentation(num_classes(config), count)
    takes_proposals = "roi_head" in config.model and "rpn_head" not in config.model
    return detection(num_classes(config), _stuff(config), takes_proposals, count)


def _is_video(config: Config) -> bool:
    preprocessor = config.model.get("data_preprocessor") or {}
    return preprocessor.get("type") == "TrackDataPreprocessor"


def _stuff(config: Config) -> int:
    """The first stuff class of a panoptic model; 0 of others."""
    if not any(key.startswith("panoptic") for key in config.model):
        return 0
    heads = (part for part in iter_dicts(config.model) if part.get("num_stuff_classes"))
    return next((head.num_things_classes for head in heads), 0)


def _numbers(value: object) -> list[int]:
    """Of one head, or of several tasks'."""
    values = value if isinstance(value, list | tuple) else [value]
    return [each for each in values if isinstance(each, int)]


def detection(num_classes: int, stuff: int = 0, proposals: bool = False, images: int = 2) -> dict:
    """Images with boxes, masks and a semantic map.

    Args:
        num_classes (int): labels are drawn below it.
        stuff (int): the class that the upper half of the semantic map has; the rest is ignored.
        proposals (bool): whether boxes near the true ones come with each, as Fast R-CNN takes them.
        images (int): how many.

    Returns:
        dict: ``inputs``, a list of (3, 128, 128) uint8, and ``data_samples``.
    """
    rng = np.random.default_rng(0)
    samples = [_detection_sample(rng, num_classes, stuff, i) for i in range(images)]
    for sample in samples if proposals else ():
        shifts = torch.linspace(-6, 6, 5)[:, None, None]
        boxes = (sample.gt_instances.bboxes + shifts).reshape(-1, 4).clamp(0, SIDE)
        sample.proposals = InstanceData(bboxes=boxes, scores=torch.linspace(1, 0.1, len(boxes)))
    return dict(inputs=_images(rng, images), data_samples=samples)


def semi_supervised(num_classes: int) -> dict:
    """A labelled batch, and one in two views, as the data sets of semi-supervised training give."""
    batches = {
        branch: detection(num_classes) for branch in ("sup", "unsup_teacher", "unsup_student")
    }
    for batch in batches.values():
        for sample in batch["data_samples"]:
            sample.set_metainfo(dict(homography_matrix=np.eye(3, dtype=np.float32)))
    return {
        key: {branch: batch[key] for branch, batch in batches.items()}
        for key in ("inputs", "data_samples")
    }


def video(num_classes: int, key_frames: Sequence[int], references: Sequence[int]) -> dict:
    """One clip whose frames show the same objects.

    Args:
        num_classes (int): labels are drawn below it.
        key_frames (Sequence[int]): indices of the frames that losses are of.
        references (Sequence[int]): those of the frames that they are compared with.

    Returns:
        dict: ``inputs``, a list of one (frames, 3, 128, 128) uint8, and ``data_samples``.
    """
    rng = np.random.default_rng(0)
    frames = []
    for i in range(len(key_frames) + len(references)):
        frame = _detection_sample(np.random.default_rng(0), num_classes, 0, i)
        frame.gt_instances.instances_ids = torch.arange(len(frame.gt_instances))
        frame.set_metainfo(dict(frame_id=i, video_id=0, video_length=2, ori_video_length=2))
        frames.append(frame)
    clip = TrackDataSample()
    clip.video_data_samples = frames
    clip.set_metainfo(
        dict(key_frames_inds=list(key_frames), ref_frames_inds=list(references), video_length=2)
    )
    return dict(inputs=[torch.stack(_images(rng, len(frames)))], data_samples=[clip])


def segmentation(num_classes: int, images: int = 2) -> dict:
    """Images with label maps.

    Args:
        num_classes (int): labels are drawn below it; some positions are ignored.
        images (int): how many.

    Returns:
        dict: ``inputs``, a list of (3, 128, 128) uint8, and ``data_samples``.
    """
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(images):
        labels = rng.integers(0, num_classes, (1, 4, 4)).repeat(SIDE // 4, 1).repeat(SIDE // 4, 2)
        labels[:, :8] = IGNORE_LABEL
        sample = SegDataSample(metainfo=_metainfo(0))
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels))
        samples.append(sample)
    return dict(inputs=_images(rng, images), data_samples=samples)


def _images(rng: np.random.Generator, count: int) -> list[torch.Tensor]:
    return [torch.from_numpy(rng.integers(0, 256, (3, SIDE, SIDE), np.uint8)) for _ in range(count)]


def _metainfo(index: int) -> dict:
    side = (SIDE, SIDE)
    return dict(
        img_id=index,
        img_path=f"{index}.jpg",
        ori_shape=side,
        img_shape=side,
        pad_shape=side,
        batch_input_shape=side,
        scale_factor=(1.0, 1.0),
        flip=False,
        flip_direction=None,
        border=(0.0,) * 4,  # that CenterNet's cropping adds
    )


def _detection_sample(
    rng: np.random.Generator, num_classes: int, stuff: int, index: int
) -> DetDataSample:
    count = 3
    corner = rng.uniform(0, SIDE / 2, (count, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(SIDE / 4, SIDE / 2, (count, 2))], axis=1)
    masks = np.zeros((count, SIDE, SIDE), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().astype(int), strict=True):
        mask[y1:y2, x1:x2] = 1
    boxes = torch.from_numpy(boxes).float()

    sample = DetDataSample(metainfo=_metainfo(index))
    sample.gt_instances = InstanceData(
        bboxes=boxes,
        labels=torch.from_numpy(rng.integers(0, num_classes, count)),
        masks=BitmapMasks(masks, SIDE, SIDE),
    )
    sample.ignored_instances = InstanceData(
        bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
    )
    semantic = torch.full((1, SIDE, SIDE), IGNORE_LABEL)
    semantic[:, : SIDE // 2] = stuff
    sample.gt_sem_seg = PixelData(sem_seg=semantic)
    return sample
