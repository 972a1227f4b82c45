"""The published training settings, config by config.

Sources: PVT (arXiv 2102.12122, section 5), PVT v2 (arXiv 2106.13797, section 4), and the settings
that their authors released.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass

import numpy as np
import pytest
from mmcv.cnn.bricks import DropPath
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import TRANSFORMS, DefaultScope
from torch import nn

from dev.model_zoo import Entry, read_zoo
from helpers import ROOT
from mmpvt.models.complexity import build_without_memory

RELEASED = "https://github.com/whai362/PVT/releases/download/v2/"
V1 = dict(t="tiny", s="small", m="medium", l="large")
PUBLISHED = [entry.name for entry in read_zoo(ROOT) if entry.published]
CLASSIFIERS = [name for name in PUBLISHED if name.endswith("_in1k")]
NAMES = [name for name in PUBLISHED if name not in CLASSIFIERS]
FPN = dict(start_level=0, add_extra_convs=False, num_outs=5)


@dataclass(frozen=True)
class Settings:
    """How a family trains; 8 GPUs of ``batch`` images each."""

    lr: float
    batch: int
    epochs: int | None = 12
    steps: tuple[int, ...] = (8, 11)
    warm_up: bool = True
    weight_decay: float = 1e-4
    fp16: bool = False
    clip: float | None = None
    augmented: bool = False  # one of two: resized, or resized, cropped and resized
    decay_norms: bool = True
    neck: dict | None = None

    @property
    def poly(self) -> bool:
        """Whether the rate falls polynomially over 40,000 iterations."""
        return self.epochs is None


def longer(lr: float = 1e-4, **kwargs) -> Settings:
    """36 epochs at many scales."""
    defaults = dict(batch=2, weight_decay=0.05, decay_norms=False)
    return Settings(lr, epochs=36, steps=(27, 33), augmented=True, **{**defaults, **kwargs})


RETINANET = dict(start_level=1, add_extra_convs="on_input", num_outs=5)
DENSE = dict(start_level=1, add_extra_convs="on_output", num_outs=5)
SPARSE = dict(
    weight_decay=1e-4,
    decay_norms=True,
    clip=1,
    neck=dict(start_level=0, add_extra_convs="on_input", num_outs=4),
)
FAMILIES = {
    r"retinanet_pvt_(t|s|m|v2_b[0123]|v2_b2_li)_fpn_1x_coco(_640)?": Settings(
        1e-4, 2, neck=RETINANET
    ),
    r"retinanet_pvt_l_fpn_1x_coco": Settings(1e-4, 2, fp16=True, neck=RETINANET),
    r"retinanet_pvt_v2_b[45]_fpn_1x_coco": Settings(1e-4 / 1.4, 1, neck=RETINANET),
    r"mask_rcnn_pvt_(t|s|m|v2_b[0123]|v2_b2_li)_fpn_1x_coco": Settings(2e-4, 2, neck=FPN),
    r"mask_rcnn_pvt_(l|v2_b[45])_fpn_1x_coco": Settings(2e-4 / 1.4, 1, neck=FPN),
    r"mask_rcnn_pvt_v2_b2_fpn_3x_mstrain": longer(neck=FPN),
    r"mask_rcnn_pvt_v2_b2_li_fpn_3x_mstrain": longer(fp16=True, neck=FPN),
    r"cascade_mask_rcnn_pvt_v2_b2(_li)?_fpn_3x_mstrain_fp16": longer(fp16=True, neck=FPN),
    r"(atss|gfl)_pvt_v2_b2(_li)?_fpn_3x_mstrain_fp16": longer(fp16=True, neck=DENSE),
    r"sparse_rcnn_pvt_v2_b2_fpn_300.*": longer(2.5e-5 / 1.4, batch=1, **SPARSE),
    r"sparse_rcnn_pvt_v2_b2_li_fpn_300.*": longer(2.5e-5, batch=2, **SPARSE),
    r"detr_pvt_s_8x2_50ep_coco": Settings(1e-4, 2, 50, (33,), warm_up=False, clip=0.1),
    r"fpn_pvt_.*_ade20k_40k": Settings(
        2e-4, 4, None, (), warm_up=False, neck=dict(start_level=0, num_outs=4)
    ),
    r"trans2seg_pvt_s_ade20k_40k": Settings(2e-4, 4, None, (), warm_up=False),
}
SIDES = [(side, 1333) for side in (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)]


@pytest.fixture(params=NAMES)
def entry(request: pytest.FixtureRequest, zoo: dict[str, Entry]) -> Entry:
    """A published config."""
    return zoo[request.param]


@pytest.fixture
def settings(entry: Entry) -> Settings:
    """What is published of it."""
    (found,) = (family for name, family in FAMILIES.items() if re.fullmatch(name, entry.name))
    return found


def test_length_and_rate(entry: Entry, settings: Settings):
    config = entry.config
    optimizer = config.optim_wrapper.optimizer
    assert optimizer.type == "AdamW" and set(optimizer) == {"type", "lr", "weight_decay"}
    assert optimizer.lr == pytest.approx(settings.lr)
    assert optimizer.weight_decay == settings.weight_decay
    assert config.train_dataloader.batch_size == settings.batch
    assert config.auto_scale_lr.base_batch_size == 8 * settings.batch
    if settings.poly:
        (poly,) = config.param_scheduler
        assert config.train_cfg.max_iters == poly.end == 40_000 and poly.begin == 0
        assert (poly.type, poly.power, poly.eta_min, poly.by_epoch) == ("PolyLR", 0.9, 0, False)
        return
    assert config.train_cfg.max_epochs == settings.epochs
    *warm_up, steps = config.param_scheduler
    assert steps.type == "MultiStepLR" and steps.by_epoch and steps.gamma == 0.1
    assert (steps.end, tuple(steps.milestones)) == (settings.epochs, settings.steps)
    assert len(warm_up) == settings.warm_up
    for scheduler in warm_up:
        assert (scheduler.type, scheduler.by_epoch) == ("LinearLR", False)
        assert (scheduler.start_factor, scheduler.begin, scheduler.end) == (0.001, 0, 500)


def test_precision_and_clipping(entry: Entry, settings: Settings):
    wrapper = entry.config.optim_wrapper
    assert (wrapper.get("type") == "AmpOptimWrapper") == settings.fp16
    assert wrapper.get("loss_scale") == ("dynamic" if settings.fp16 else None)
    clip = wrapper.get("clip_grad")
    assert (clip or {}).get("max_norm") == settings.clip


def test_backbone_and_neck(entry: Entry, settings: Settings):
    model, name = entry.config.model, entry.published["backbone"].removeprefix("pvt_")
    v2, arch = name.startswith("v2_"), V1.get(name, name.removeprefix("v2_"))
    backbone = build_without_memory(Config(dict(model=model.backbone)))
    assert type(backbone).__name__ == f"PyramidVisionTransformer{'V2' * v2}"
    assert model.backbone.arch == arch
    assert model.backbone.type.startswith("mmpvt.")
    assert backbone.init_cfg.checkpoint == f"{RELEASED}pvt_{'v2_' * v2}{arch}.pth"
    assert backbone.out_indices == ((3,) if "detr" in entry.name else (0, 1, 2, 3))
    flat = name in "ml" and entry.published["dataset"].startswith("COCO")
    rates = {m.drop_prob for m in backbone.modules() if isinstance(m, DropPath)}
    assert max(rates, default=0) == pytest.approx(0 if flat else 0.1)
    if settings.neck:
        assert model.neck.type == "FPN" and model.neck.out_channels == 256
        defaults = dict(start_level=0, add_extra_convs=False)
        assert {key: model.neck.get(key, defaults.get(key)) for key in settings.neck} == (
            settings.neck
        )


def test_images(entry: Entry, settings: Settings):
    config = entry.config
    prepare = config.model.data_preprocessor
    assert prepare.mean == [123.675, 116.28, 103.53] and prepare.std == [58.395, 57.12, 57.375]
    assert prepare.bgr_to_rgb
    train, test = (
        {t.type: t for t in loader.dataset.pipeline}
        for loader in (config.train_dataloader, config.test_dataloader)
    )
    assert config.val_dataloader.dataset.pipeline == config.test_dataloader.dataset.pipeline
    assert train["RandomFlip"].prob == 0.5
    if settings.poly:
        assert prepare.size == train["RandomCrop"].crop_size == (512, 512)
        resize = train["RandomResize"]
        assert (resize.scale, resize.ratio_range) == ((2048, 512), (0.5, 2.0))
        assert "PhotoMetricDistortion" in train
        return
    assert prepare.pad_size_divisor == 32
    scale = (1066, 640) if "640" in entry.name and "retinanet" in entry.name else (1333, 800)
    assert test["Resize"].scale == scale and test["Resize"].keep_ratio
    if settings.augmented:
        check_augmentation(list(train.values()))
    elif "detr" in entry.name:
        sides = [(1333, side) for side in (640, 672, 704, 736, 768, 800)]
        assert train["RandomChoiceResize"].scales == sides
    else:
        assert train["Resize"].scale == scale and train["Resize"].keep_ratio


def check_augmentation(pipeline: list[dict]) -> None:
    """A flip; then one of two, drawn equally: any of many scales, with or without a crop."""
    flip, choice = pipeline[2:4]
    assert (flip.type, choice.type) == ("RandomFlip", "RandomChoice")
    assert choice.get("prob") is None
    (resize,), (before, crop, after) = choice.transforms
    assert resize == after
    assert all(step.type == "RandomChoiceResize" and step.keep_ratio for step in (resize, before))
    assert resize.scales == SIDES
    assert before.scales == [(400, 1333), (500, 1333), (600, 1333)]
    assert (crop.type, crop.crop_type, crop.crop_size, crop.allow_negative_crop) == (
        "RandomCrop",
        "absolute_range",
        (384, 600),
        True,
    )


@pytest.mark.parametrize(
    "name", ["mask_rcnn_pvt_v2_b2_fpn_3x_mstrain", "gfl_pvt_v2_b2_fpn_3x_mstrain_fp16"]
)
def test_weight_decay_spares_norms(name: str, zoo: dict[str, Entry]):
    model, decay, _ = optimised(zoo[name].config)
    norms = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d)
    spared = {id(p) for m in model.modules() if isinstance(m, norms) for p in m.parameters()}
    assert spared and len(decay) == len(list(model.parameters()))
    assert all(value == (0 if key in spared else 0.05) for key, value in decay.items())


def test_rates_of_detr(zoo: dict[str, Entry]):
    model, decay, rates = optimised(zoo["detr_pvt_s_8x2_50ep_coco"].config)
    backbone = {id(p) for p in model.backbone.parameters()}
    assert all(rates[key] == pytest.approx(1e-5 if key in backbone else 1e-4) for key in rates)
    assert set(decay.values()) == {1e-4}


def optimised(config: Config) -> tuple[nn.Module, dict[int, float], dict[int, float]]:
    """The model, and weight decay and learning rate of each tensor, by the tensor's id."""
    model = build_without_memory(config)
    wrapper = copy.deepcopy(config.optim_wrapper)
    wrapper.type = "OptimWrapper"  # mixed precision's asks for a GPU
    wrapper.pop("loss_scale", None)
    with DefaultScope.overwrite_default_scope(config.default_scope):
        groups = build_optim_wrapper(model, wrapper).optimizer.param_groups
    by_id = {id(p): group for group in groups for p in group["params"]}
    decay, rates = (
        {key: group[name] for key, group in by_id.items()} for name in ("weight_decay", "lr")
    )
    return model, decay, rates


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.full if re.search(r"large|b[45]_", name) else ())
        for name in CLASSIFIERS
    ],
)
def test_classifiers(name: str, zoo: dict[str, Entry]):
    config = zoo[name].config
    variant = name.removesuffix("_8xb128_in1k")
    large = variant in ("pvt_medium", "pvt_large", "pvt_v2_b3", "pvt_v2_b4", "pvt_v2_b5")
    model, decay, _ = optimised(config)
    is_v1 = "v2" not in variant
    rates = {m.drop_prob for m in model.modules() if isinstance(m, DropPath)}
    assert max(rates) == pytest.approx(0.3 if large else 0.1)
    assert (config.optim_wrapper.get("clip_grad") or {}).get("max_norm") == (1 if large else None)
    assert is_v1 == hasattr(model.backbone, "cls_token")
    spared = {id(p) for n, p in model.named_parameters() if p.dim() == 1 or "cls_token" in n}
    assert all(value == (0 if key in spared else 0.05) for key, value in decay.items())
    assert len(decay) == len(list(model.parameters()))

    optimizer, (warm_up, cosine) = config.optim_wrapper.optimizer, config.param_scheduler
    batch = 8 * config.train_dataloader.batch_size
    assert batch == config.auto_scale_lr.base_batch_size == 1024
    assert optimizer.type == "AdamW" and optimizer.lr == pytest.approx(5e-4 * batch / 512)
    assert warm_up.start_factor * optimizer.lr == pytest.approx(1e-6)
    assert (warm_up.type, warm_up.end) == ("LinearLR", cosine.begin) == ("LinearLR", 5)
    assert (cosine.type, cosine.eta_min) == ("CosineAnnealingLR", 1e-5)
    assert config.train_cfg.max_epochs == cosine.end == cosine.begin + cosine.T_max == 300

    assert config.train_dataloader.sampler.type == "RepeatAugSampler"
    assert config.train_dataloader.sampler.num_repeats == 3
    mixing = [(one.type, one.alpha) for one in config.model.train_cfg.augments]
    assert mixing == [("Mixup", 0.8), ("CutMix", 1.0)] and "probs" not in config.model.train_cfg
    assert config.model.head.loss.label_smooth_val == 0.1
    train, test = (
        {t.type: t for t in loader.dataset.pipeline}
        for loader in (config.train_dataloader, config.test_dataloader)
    )
    crop, augment = train["RandomResizedCrop"], train["RandAugment"]
    assert (crop.scale, crop.interpolation) == (224, "bicubic")
    assert (augment.policies, augment.num_policies) == ("timm_increasing", 2)
    assert (augment.magnitude_level, augment.magnitude_std) == (9, 0.5)
    jitter = train["ColorJitter"]
    assert jitter.brightness == jitter.contrast == jitter.saturation == 0.4
    assert (train["RandomErasing"].erase_prob, train["RandomErasing"].mode) == (0.25, "rand")
    resize = test["ResizeEdge"]
    assert (resize.scale, resize.edge, resize.interpolation) == (256, "short", "bicubic")
    assert test["CenterCrop"].crop_size == 224


def test_cascade(zoo: dict[str, Entry]):
    heads = zoo["cascade_mask_rcnn_pvt_v2_b2_fpn_3x_mstrain_fp16"].config.model.roi_head.bbox_head
    stds = [[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]]
    assert [head.bbox_coder.target_stds for head in heads] == stds
    for head in heads:
        assert (head.type, head.num_shared_convs, head.num_shared_fcs) == ("ConvFCBBoxHead", 4, 1)
        assert head.reg_decoded_bbox and not head.reg_class_agnostic
        assert head.norm_cfg.type == "SyncBN"
        assert (head.loss_bbox.type, head.loss_bbox.loss_weight) == ("GIoULoss", 10.0)


def test_sparse_rcnn(zoo: dict[str, Entry]):
    for entry in zoo.values():
        if entry.name.startswith("sparse_rcnn") and entry.published:
            model = entry.config.model
            assert model.rpn_head.num_proposals == model.test_cfg.rcnn.max_per_img == 300
            assert model.roi_head.num_stages == len(model.roi_head.bbox_head) == 6


@pytest.mark.parametrize(
    ("size", "prepared"),
    [((512, 683), (512, 704)), ((1024, 768), (704, 512)), ((512, 512), (512, 512))],
)
@pytest.mark.parametrize("name", ["fpn_pvt_s_ade20k_40k", "trans2seg_pvt_s_ade20k_40k"])
def test_segmentation_is_tested_at_multiples_of_32(
    name: str, size: tuple, prepared: tuple, zoo: dict[str, Entry]
):
    """The short side at 512, then each side rounded up; the truth stays as it is."""
    config = zoo[name].config
    steps = [step.type for step in config.test_dataloader.dataset.pipeline]
    assert steps[1:4] == ["Resize", "ResizeToMultiple", "LoadAnnotations"]
    results = dict(img=np.zeros((*size, 3), np.uint8), img_shape=size, ori_shape=size)
    with DefaultScope.overwrite_default_scope("mmseg"):
        for step in config.test_dataloader.dataset.pipeline[1:3]:
            results = TRANSFORMS.build(step)(results)
    assert results["img"].shape[:2] == results["img_shape"] == prepared


def test_imports(entry: Entry):
    """``custom_imports`` is all that OpenMMLab's own tools need."""
    assert entry.config.custom_imports.imports == ["mmpvt.setup"]
