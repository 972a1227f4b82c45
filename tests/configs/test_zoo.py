"""Every config: what it costs, that all of it learns, what it predicts; and the zoo's pages."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from mmdet.models import SparseRCNN
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import set_random_seed
from mmseg.structures import SegDataSample

from dev import model_zoo, training_cost
from helpers import ROOT
from mmpvt.engine.config_parts import iter_dicts
from mmpvt.engine.initial_weights import set_pretrained

NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
# Of configs that only the backbone tells apart, the least deep ones run in `make test`, and one of
# b2_li's; test_cost builds all.
DEEP = (
    r"(.*_)?pvt_(m|l|medium|large|v2_b[1345])_.*"
    r"|((retinanet|mask_rcnn|fpn)_)?pvt_(s|small|v2_b2)_(?!li).*"
    r"|(mask_rcnn|cascade_mask_rcnn|atss|gfl|sparse_rcnn)_pvt_v2_b2_li_.*"
)
SHRINK = 8  # how many times smaller, a side, than a config says, images are tested at

# How far a cost may be from the published one, M parameters and part of the GFLOPs, where it isn't
# 0.1 M and a hundredth. Trans2SegHead says why.
DIFFERENT = {"trans2seg_pvt_s_ade20k_40k": (0.4, 0.02)}

# Tensors whose gradient is there and zero at the first step, and why.
ZERO_AT_FIRST = {
    # one number a level: no object is assigned to the coarse ones, as the pictures are small
    r"(atss|gfl)_.*": r"bbox_head\.scales\.\d\.scale",
    # the RPN leaves out anchors that cross the border, as a small picture's large ones all do
    r"cascade_mask_rcnn_.*": r"neck\.fpn_convs\.[23]\.conv\.(weight|bias)",
    # the first layer of the decoder sees queries that are all zeros, and so are its biases
    r"detr_.*": r"decoder\.layers\.0\.(self_attn\.attn\.(in|out)_proj.?weight|norms\.0\.weight)",
}


@pytest.mark.parametrize("name", NAMES)
def test_cost(name: str, zoo: dict[str, model_zoo.Entry]):
    entry = zoo[name]
    assert entry.parameters and entry.macs
    millions, part = DIFFERENT.get(name, (0.1, 0.01))
    if parameters := entry.published.get("params_M"):
        assert entry.parameters / 1e6 == pytest.approx(parameters, abs=millions)
    if gflops := entry.published_gflops:
        assert entry.macs / 1e9 == pytest.approx(gflops, rel=part)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.full if re.fullmatch(DEEP, name) else ())
        for name in NAMES
    ],
)
def test_learns_and_predicts(name: str, zoo: dict[str, model_zoo.Entry], pictures: Path):
    config = small(copy.deepcopy(zoo[name].config), pictures)
    set_random_seed(0)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        if config.default_scope == "mmpretrain":
            config.model.data_preprocessor = config.data_preprocessor
        model = revert_sync_batchnorm(MODELS.build(config.model))
        model.init_weights()
        training = DATASETS.build(config.train_dataloader.dataset)
        test = DATASETS.build(config.test_dataloader.dataset)
        zero = check_learning(model, pseudo_collate([training[i] for i in range(2)]))
        (sample,) = model.eval().test_step(pseudo_collate([test[0]]))
    known = [tensors for names, tensors in ZERO_AT_FIRST.items() if re.fullmatch(names, name)]
    assert [key for key in zero if not any(re.fullmatch(k, key) for k in known)] == []
    if isinstance(sample, SegDataSample):
        check_segmentation(sample, model.decode_head.num_classes)
    elif config.default_scope == "mmpretrain":
        assert sample.pred_score.shape == (model.head.num_classes,)
        assert sample.pred_score.sum().item() == pytest.approx(1, abs=1e-5)
    else:
        check_detection(sample, getattr(model, "with_mask", False))
        if not isinstance(model, SparseRCNN):  # whose boxes MMDetection doesn't clip
            check_inside(sample)


@pytest.mark.parametrize("empty", [1, 2])
@pytest.mark.parametrize(
    "name", [n for n in NAMES if n.endswith("_shapes") and not n.startswith("pvt_")]
)
def test_images_without_objects(
    name: str, empty: int, zoo: dict[str, model_zoo.Entry], pictures: Path
):
    """One of two, or both: every family goes on training."""
    config = small(copy.deepcopy(zoo[name].config), pictures)
    set_random_seed(0)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = revert_sync_batchnorm(MODELS.build(config.model)).train()
        training = DATASETS.build(config.train_dataloader.dataset)
        data = model.data_preprocessor(pseudo_collate([training[i] for i in range(2)]), True)
        for sample in data["data_samples"][:empty]:
            if isinstance(sample, SegDataSample):
                sample.gt_sem_seg.data.fill_(model.decode_head.ignore_index)
            else:
                nothing = torch.zeros(len(sample.gt_instances), dtype=torch.bool)
                sample.gt_instances = sample.gt_instances[nothing]
        loss, losses = model.parse_losses(model(**data, mode="loss"))
    assert all(value.isfinite() for value in losses.values()), losses
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


def test_pages_are_up_to_date(zoo: dict[str, model_zoo.Entry]):
    entries = list(zoo.values())
    page = (ROOT / "docs" / "reproduce.md").read_text()
    for path, content in {
        ROOT / "docs" / "reproduce.md": training_cost.insert(page, training_cost.markdown(entries)),
        ROOT / "docs" / "model_zoo.md": model_zoo.markdown(entries),
        ROOT / "model-index.yml": model_zoo.index(entries),
    }.items():
        assert path.read_text() == content, "run python tools/make_model_zoo.py"


def small(config: Config, pictures: Path) -> Config:
    """The config on the shapes' pictures, without weights to fetch or depth to drop at random.

    COCO's and ADE20K's images are made smaller. Heads that run on proposals get fewer, and scores
    are not cut off: weights are random, and so no score is high.
    """
    set_pretrained(config, "none")
    config.model.backbone.drop_path_rate = 0.0
    datasets = [config.train_dataloader.dataset, config.test_dataloader.dataset]
    if config.default_scope == "mmpretrain":
        lists = [pictures.parent / f"{split}.txt" for split in ("train", "test")]
        for dataset, file, folder in zip(datasets, lists, ("train2017", "val2017"), strict=True):
            names = sorted(path.name for path in (pictures / folder).iterdir())
            file.write_text("".join(f"{name} {i}\n" for i, name in enumerate(names)))
            for key in ("split", "metainfo"):
                dataset.pop(key, None)
            dataset.update(type="CustomDataset", data_root="", ann_file=str(file))
            dataset.data_prefix = str(pictures / folder)
            for step in dataset.pipeline:
                step.update({k: 64 for k in ("scale", "crop_size") if isinstance(step.get(k), int)})
        return config
    if not datasets[0].type.startswith("mmpvt."):
        shrink([*(dataset.pipeline for dataset in datasets), config.model.data_preprocessor])
    for dataset in datasets:
        dataset.type = f"mmpvt.Shapes{'Seg' if config.default_scope == 'mmseg' else ''}Dataset"
        dataset.data_root = str(pictures)
    for part in iter_dicts(config.model):
        for key, most in dict(num_proposals=100, max_per_img=20, score_thr=0.0).items():
            if key in part:
                part[key] = min(part[key], most)
        if part.get("add_gt_as_proposals"):  # of boxes; fewer of the RPN's anchors miss levels
            part["num"] = min(part["num"], 16)
    return config


def shrink(part: object) -> None:
    """Divides every size within a part of a config by :data:`SHRINK`."""
    for d in iter_dicts(part):
        for key in ("scale", "crop_size", "size"):
            if isinstance(d.get(key), tuple | list):
                d[key] = tuple(side // SHRINK for side in d[key])
        if "scales" in d:
            d["scales"] = [tuple(side // SHRINK for side in scale) for scale in d["scales"]]


def check_learning(model: BaseModel, batch: dict) -> list[str]:
    """Losses are finite, and every tensor is trained and gets a finite gradient.

    Returns:
        list[str]: the tensors whose gradient is zero.
    """
    data = model.train().data_preprocessor(batch, training=True)
    loss, losses = model.parse_losses(model(**data, mode="loss"))
    assert all(value.isfinite() for value in losses.values()), losses
    loss.backward()
    tensors = dict(model.named_parameters())
    assert [key for key, tensor in tensors.items() if tensor.grad is None] == []
    assert [key for key, tensor in tensors.items() if not tensor.grad.isfinite().all()] == []
    return [key for key, tensor in tensors.items() if not tensor.grad.any()]


def check_detection(sample: DetDataSample, masks: bool) -> None:
    """Boxes, scores, labels and, if ``masks``, masks of the image as it was read."""
    instances = sample.pred_instances
    number = len(instances)
    assert number
    assert instances.bboxes.shape == (number, 4) and instances.bboxes.isfinite().all()
    assert instances.scores.shape == (number,)
    assert ((instances.scores >= 0) & (instances.scores <= 1)).all()
    assert instances.labels.shape == (number,) and instances.labels.dtype == torch.int64
    assert ("masks" in instances) == masks
    if masks:
        assert instances.masks.shape == (number, *sample.ori_shape)


def check_inside(sample: DetDataSample) -> None:
    """Boxes lie in the image as it was read, and none is inside out."""
    height, width = sample.ori_shape
    boxes = sample.pred_instances.bboxes
    limit = boxes.new_tensor([width, height]) + 1e-3
    assert (boxes >= 0).all() and (boxes[:, :2] <= boxes[:, 2:]).all()
    assert (boxes[:, 2:] <= limit).all()


def check_segmentation(sample: SegDataSample, classes: int) -> None:
    """A label a pixel of the image as it was read."""
    labels = sample.pred_sem_seg.data
    assert labels.shape == (1, *sample.ori_shape)
    assert labels.min() >= 0 and labels.max() < classes
    assert sample.seg_logits.data.shape == (classes, *sample.ori_shape)
