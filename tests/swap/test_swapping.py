"""What a swap changes, of shipped configs and of small ones of our own."""

from __future__ import annotations

import copy

import pytest
from mmengine.config import Config

import mmpvt
from mmpvt.engine.config import read_config
from mmpvt.errors import ConfigError, SwapError
from mmpvt.swap import swap

WIDTHS = [64, 128, 320, 512]


def swapped(name: str, arch: str = "small", **options) -> Config:
    return mmpvt.swap_backbone(read_config(name), arch, **options)


def detector(**parts) -> Config:
    """A config that holds what a swap reads, and no more."""
    model = dict(
        type="RetinaNet",
        backbone=dict(type="ResNet", depth=50, num_stages=4),
        neck=dict(type="FPN", in_channels=[256, 512, 1024, 2048], out_channels=256),
    )
    return Config(dict(model={**model, **parts}))


def segmenter(head: dict, **parts) -> Config:
    backbone = dict(
        type="ResNetV1c", depth=50, num_stages=4, strides=(1, 2, 1, 1), out_indices=(0, 1, 2, 3)
    )
    return Config(
        dict(model={"type": "EncoderDecoder", "backbone": backbone, "decode_head": head, **parts})
    )


def test_a_detector():
    base = read_config("mmdet::atss/atss_r50_fpn_1x_coco.py")
    before = copy.deepcopy(base.to_dict())
    config = mmpvt.swap_backbone(base, "small")
    assert base.to_dict() == before
    assert config.model.backbone == dict(
        type="mmpvt.PyramidVisionTransformer",
        arch="small",
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/whai362/PVT/releases/download/v2/pvt_small.pth",
        ),
    )
    assert config.model.neck == {**base.model.neck, "in_channels": WIDTHS}
    assert config.optim_wrapper.optimizer == dict(type="AdamW", lr=1e-4, weight_decay=1e-4)
    assert config.custom_imports.imports == ["mmpvt.setup"]
    assert config.model.bbox_head == base.model.bbox_head
    assert config.train_dataloader == base.train_dataloader


@pytest.mark.parametrize(
    ("arch", "kind", "widths"),
    [
        ("b0", "mmpvt.PyramidVisionTransformerV2", [32, 64, 160, 256]),
        ("pvt_v2_b2_li", "mmpvt.PyramidVisionTransformerV2", WIDTHS),
        ("pvt_large", "mmpvt.PyramidVisionTransformer", WIDTHS),
    ],
)
def test_archs(arch: str, kind: str, widths: list[int]):
    model = mmpvt.swap_backbone(detector(), arch).model
    assert model.backbone.type == kind
    assert arch.endswith(model.backbone.arch)
    assert model.neck.in_channels == widths
    assert model.backbone.get("drop_path_rate") == (0.0 if arch == "pvt_large" else None)


def test_necks_of_some_maps():
    model = swapped("mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py").model
    assert model.backbone.out_indices == (1, 2, 3)
    assert model.neck.in_channels == WIDTHS[1:]
    model = swapped("mmdet::detr/detr_r50_8xb2-150e_coco.py").model
    assert model.backbone.out_indices == (3,)
    assert model.neck.in_channels == [512]
    model = swapped("mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py").model
    assert model.neck.in_channels == 512
    model = swapped("mmdet::dyhead/atss_r50-caffe_fpn_dyhead_1x_coco.py").model
    assert model.neck[0].in_channels == WIDTHS
    assert model.neck[1].in_channels == 256


def test_heads_over_all_maps():
    model = swapped("mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py").model
    assert model.panoptic_head.in_channels == WIDTHS
    assert model.panoptic_head.feat_channels == 256


def test_a_dilated_map_of_a_detector_is_the_map_of_its_stride():
    model = swapped("mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py").model
    assert model.backbone.out_indices == (2,)
    assert model.rpn_head.in_channels == 320
    assert model.roi_head.bbox_roi_extractor.out_channels == 320
    assert model.roi_head.bbox_roi_extractor.featmap_strides == [16]
    assert model.roi_head.bbox_head.in_channels == 320


def test_a_dilated_map_of_a_segmenter_is_joined_from_pvt_s():
    model = swapped("mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py").model
    head = model.decode_head
    assert (head.in_channels, head.in_index) == ([128, 320, 512], [1, 2, 3])
    assert head.input_transform == "resize_concat"
    head = model.auxiliary_head
    assert (head.in_channels, head.in_index) == ([128, 320], [1, 2])
    assert model.pretrained is None


def test_undilated_segmenters_read_as_before():
    model = swapped("mmseg::upernet/upernet_r50_4xb2-40k_cityscapes-512x1024.py").model
    assert model.decode_head.in_channels == WIDTHS
    assert (model.auxiliary_head.in_channels, model.auxiliary_head.in_index) == (320, 2)
    assert "input_transform" not in model.auxiliary_head


def test_segmentation_heads_within_heads_and_in_lists():
    model = swapped("mmseg::ocrnet/ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024.py").model
    assert [head.in_channels for head in model.decode_head] == [[128, 320], [128, 320, 512]]
    name = "mmseg::knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512.py"
    head = swapped(name).model.decode_head
    assert head.kernel_generate_head.in_channels == WIDTHS
    assert head.kernel_update_head[0].in_channels == 512
    name = "mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb2-40k_cityscapes-512x1024.py"
    assert swapped(name).model.decode_head.c1_in_channels == 64


def test_maps_that_a_neck_passes_on():
    name = "mmseg::fastfcn/fastfcn_r50-d32_jpu_aspp_4xb2-80k_cityscapes-512x1024.py"
    model = swapped(name).model
    assert model.neck.in_channels == (128, 320, 512)
    assert model.decode_head.in_channels == 2048  # the neck's own
    assert model.auxiliary_head.in_channels == 320


def test_nested_models():
    name = "mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py"
    model = swapped(name).model
    assert model.detector.neck.in_channels == WIDTHS
    assert model.detector.backbone.type == "mmpvt.PyramidVisionTransformer"
    preprocessors = (model.detector.data_preprocessor, model.data_preprocessor.data_preprocessor)
    for preprocessor in preprocessors:  # that of the Caffe weights was another
        assert preprocessor["mean"] == [123.675, 116.28, 103.53]
        assert preprocessor.bgr_to_rgb
    name = "mmdet::deepsort/deepsort_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval"
    model = swapped(f"{name}.py").model
    assert model.detector.init_cfg is None  # a ResNet detector's
    assert model.reid.backbone.type == "mmpretrain.ResNet"
    wrapped = Config(dict(model=dict(type="SegTTAModel", module=detector().model)))
    assert mmpvt.swap_backbone(wrapped, "small").model.module.neck.in_channels == WIDTHS


def test_distillation():
    name = "mmdet::lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py"
    student = swapped(name).model
    assert student.backbone.type == "mmpvt.PyramidVisionTransformer"
    assert student.neck.in_channels == WIDTHS
    assert student.teacher_backbone.type == "ResNet"
    assert student.teacher_neck.in_channels == [256, 512, 1024, 2048]
    teacher = swapped(name, part="teacher").model
    assert teacher.backbone.type == "ResNet"
    assert teacher.teacher_backbone.type == "mmpvt.PyramidVisionTransformer"
    assert teacher.teacher_neck.in_channels == WIDTHS
    with pytest.raises(SwapError, match="part='x': no backbone of that name, the model has model"):
        swapped(name, part="x")
    with pytest.raises(
        SwapError, match=r"backbones, model\.a.*: name one with part of swap_backbone"
    ):
        both = dict(a=detector().model, b=detector().model)
        mmpvt.swap_backbone(Config(dict(model=both)), "b0")


def test_the_optimizer():
    name = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
    assert swapped(name).optim_wrapper.optimizer.lr == 2e-4
    assert swapped(name, keep_optimizer=True).optim_wrapper.optimizer.type == "SGD"
    # the rate follows the root of the batch, 64 in place of 16
    config = read_config(name)
    config.auto_scale_lr.base_batch_size = 64
    assert mmpvt.swap_backbone(config, "b0").optim_wrapper.optimizer.lr == 4e-4
    config = swapped("mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py")
    assert config.optim_wrapper.optimizer.lr == 2.5e-5  # AdamW already
    config = swapped("mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py")
    assert config.optim_wrapper.optimizer.lr == 2e-4
    assert config.param_scheduler[0].eta_min == 0


def test_rates_of_schedules_follow_the_optimizer_s():
    base = detector()
    base.optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.02))
    base.param_scheduler = [
        dict(type="OneCycleLR", eta_max=0.02, total_steps=90),
        dict(type="CosineAnnealingMomentum", eta_min=0.85),
    ]
    one_cycle, momentum = mmpvt.swap_backbone(base, "b0").param_scheduler
    assert one_cycle.eta_max == 1e-4
    assert momentum.eta_min == 0.85


def test_what_is_carried_over_and_what_is_not():
    name = "mmdet::cityscapes/mask-rcnn_r50_fpn_1x_cityscapes.py"
    assert read_config(name).load_from
    assert swapped(name).load_from is None  # a ResNet detector's weights
    config = detector(backbone=dict(type="ResNet", depth=50, num_stages=4, with_cp=True))
    assert mmpvt.swap_backbone(config, "b0").model.backbone.with_cp
    name = "mmseg::dmnet/dmnet_r50-d8_4xb2-40k_cityscapes-512x1024.py"
    assert swapped(name).model.backbone.contiguous_maps


def test_images_of_other_channels_keep_their_statistics():
    statistics = dict(mean=[120.0] * 4, std=[58.0] * 4, bgr_to_rgb=False)
    backbone = dict(type="ResNet", depth=50, num_stages=4, in_channels=4)
    base = detector(backbone=backbone, data_preprocessor=statistics)
    model = mmpvt.swap_backbone(base, "b0").model
    assert model.data_preprocessor == statistics
    assert model.backbone.in_channels == 4
    assert "init_cfg" not in model.backbone  # ImageNet's don't fit


def test_statistics_beside_the_model_are_those_of_pvt_s_weights():
    base = detector()
    base.data_preprocessor = dict(mean=[103.53, 116.28, 123.675], std=[1, 1, 1], bgr_to_rgb=False)
    assert mmpvt.swap_backbone(base, "b0").data_preprocessor == dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    )


@pytest.mark.parametrize(
    "name",
    [
        "mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py",
        "mmdet::hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py",
        "mmdet::regnet/retinanet_regnetx-800MF_fpn_1x_coco.py",
        "mmdet::resnest/faster-rcnn_s50_fpn_syncbn-backbone+head_ms-range-1x_coco.py",
        "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
    ],
)
def test_other_backbones_that_give_a_pyramid(name: str):
    model = swapped(name).model
    assert model.get("neck", model.get("decode_head")).in_channels == WIDTHS


def test_it_says_what_changed():
    changes = dict(swap(read_config("mmdet::atss/atss_r50_fpn_1x_coco.py"), "small").changes)
    assert "(keep_optimizer=True of swap_backbone leaves SGD)" in changes["optim_wrapper.optimizer"]
    assert list(changes) == ["model.backbone", "model.neck.in_channels", "optim_wrapper.optimizer"]
    assert "[256, 512, 1024, 2048] -> [64, 128, 320, 512]" in changes["model.neck.in_channels"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py", "own last stage, run on each"),
        ("mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py", "own last stage, run on each box"),
        ("mmdet::detectors/detectors_htc-r50_1x_coco.py", "rfp_backbone"),
        ("mmdet::reid/reid_r50_8xb32-6e_mot17train80_test-mot17val20.py", "reads no pyramid"),
        ("mmdet::ssd/ssd300_coco.py", "is SSDVGG, of which it isn't known"),
        ("mmseg::bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py", "is BiSeNetV1"),
        ("mmpvt::retinanet_pvt_s_fpn_1x_coco.py", "model.backbone is PVT already"),
    ],
)
def test_refusals(name: str, reason: str):
    with pytest.raises(SwapError, match=reason) as caught:
        swapped(name)
    assert "\n" not in str(caught.value)


def test_models_that_cannot_be_read():
    with pytest.raises(SwapError, match="no backbone that could be swapped"):
        mmpvt.swap_backbone(Config(dict(model=dict(type="FCOS"))), "b0")
    with pytest.raises(ConfigError, match="holds no model"):
        mmpvt.swap_backbone(Config(dict(a=1)), "b0")
    with pytest.raises(SwapError, match=r"takes 3 maps and model\.backbone gives 4"):
        mmpvt.swap_backbone(detector(neck=dict(type="FPN", in_channels=[1, 2, 3])), "b0")
    with pytest.raises(SwapError, match="has no in_channels"):
        mmpvt.swap_backbone(detector(neck=dict(type="Odd")), "b0")
    with pytest.raises(SwapError, match="says by in_channels which of its maps"):
        mmpvt.swap_backbone(detector(neck=None, bbox_head=dict(type="Odd")), "b0")


def test_arch_that_is_unknown():
    with pytest.raises(
        ConfigError, match=r"unknown arch 'smal': did you mean small\? The archs are"
    ):
        mmpvt.swap_backbone(detector(), "smal")
    with pytest.raises(ConfigError, match="take one of tiny, small, medium, large, b0, b1"):
        mmpvt.swap_backbone(detector(), "resnet")


def test_a_head_of_one_undilated_map_stays_on_its_stage():
    head = dict(type="FCNHead", in_channels=512, in_index=1)
    model = mmpvt.swap_backbone(segmenter(head), "small").model
    assert (model.decode_head.in_channels, model.decode_head.in_index) == (128, 1)
    head = dict(type="ANNHead", in_channels=[1024, 2048], in_index=[2, 3])
    head["input_transform"] = "multiple_select"
    model = mmpvt.swap_backbone(segmenter(head), "small").model
    assert model.decode_head.in_channels == [320, 512]


@pytest.mark.parametrize(
    ("backbone", "stages"),
    [
        (dict(type="mmpretrain.ConvNeXt", arch="tiny", out_indices=[1, 2, 3]), (1, 2, 3)),
        (dict(type="mmpretrain.ConvNeXt", arch="tiny"), (3,)),
        (dict(type="mmpretrain.PoolFormer", arch="s12", out_indices=(2, 4, -1)), (1, 2, 3)),
        (dict(type="mmpretrain.TIMMBackbone", out_indices=(2, 3, 4)), (1, 2, 3)),
    ],
)
def test_backbones_of_mmpretrain(backbone: dict, stages: tuple):
    neck = dict(type="FPN", in_channels=[1] * len(stages), out_channels=256)
    model = mmpvt.swap_backbone(detector(backbone=backbone, neck=neck), "small").model
    assert model.backbone.out_indices == stages
    assert model.neck.in_channels == [WIDTHS[stage] for stage in stages]


@pytest.mark.parametrize(
    "backbone",
    [
        dict(type="mmpretrain.PoolFormer", arch="s12", out_indices=(0, 1, 2)),
        dict(type="mmpretrain.TIMMBackbone", out_indices=(0, 1, 2)),
        dict(type="mmpretrain.TIMMBackbone", out_indices=(0, 2, 4)),
    ],
)
def test_maps_of_mmpretrain_that_pvt_lacks(backbone: dict):
    with pytest.raises(SwapError, match="isn't known that they have PVT's strides"):
        mmpvt.swap_backbone(detector(backbone=backbone), "small")


def test_settings_of_the_old_backbones_layers_are_named():
    backbone = dict(type="ResNet", depth=50, num_stages=4, frozen_stages=4)
    keys = {
        key: dict(lr_mult=0.1) for key in ("backbone", "backbone.layer4", "backbone.patch_embed")
    }
    base = detector(backbone=backbone)
    base.optim_wrapper = dict(paramwise_cfg=dict(custom_keys=keys))
    said = {change.where: change.what for change in swap(base, "b0").changes}
    assert "4 -> none, as PVT is trained whole" in said["model.backbone.frozen_stages"]
    lost = said["optim_wrapper.paramwise_cfg.custom_keys"]
    assert lost.startswith("what is set for backbone.layer4 has no effect")


@pytest.mark.parametrize("scope", ["", "mmdet.", "mmdet.engine.optimizers."])  # the last: imported
def test_rates_by_the_old_backbones_layers_are_dropped(scope: str):
    base = detector()
    base.optim_wrapper = dict(
        type="OptimWrapper",
        constructor=f"{scope}LearningRateDecayOptimizerConstructor",
        paramwise_cfg=dict(decay_rate=0.9, decay_type="layer_wise", num_layers=6),
        optimizer=dict(type="AdamW", lr=1e-4),
    )
    done = swap(base, "small")
    assert set(done.config.optim_wrapper) == {"type", "optimizer"}
    assert "optim_wrapper.constructor" in [change.where for change in done.changes]
