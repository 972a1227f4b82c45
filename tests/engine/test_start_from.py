"""Which rows of whole models are a class's, and what a config starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from mmengine.config import Config

from helpers import ROOT, relative
from mmpvt.checkpoint.class_rows import ClassRows, find_class_rows
from mmpvt.datasets.download.catalog import FILES
from mmpvt.engine.config import load_config
from mmpvt.engine.preparation import TrainOptions
from mmpvt.engine.start_from import build_for_classes, set_start_from, start
from mmpvt.engine.zoo import config_folder
from mmpvt.errors import CheckpointMismatchError, ConfigError
from small_models import build

SOFTMAX = ClassRows(0, after=1)
PLAIN = ClassRows(0)


@pytest.mark.parametrize(
    ("name", "num_classes", "expected"),
    [
        ("retinanet_pvt_t_fpn_1x_coco", 80, {"bbox_head.retina_cls": ClassRows(0, groups=9)}),
        ("atss_pvt_v2_b0_fpn_shapes", 6, {"bbox_head.atss_cls": PLAIN}),
        ("gfl_pvt_v2_b0_fpn_shapes", 6, {"bbox_head.gfl_cls": PLAIN}),
        (
            "mask_rcnn_pvt_v2_b0_fpn_shapes",
            6,
            {
                "roi_head.bbox_head.fc_cls": SOFTMAX,
                "roi_head.bbox_head.fc_reg": ClassRows(0, values=4),
                "roi_head.mask_head.conv_logits": PLAIN,
            },
        ),
        (
            "cascade_mask_rcnn_pvt_v2_b2_fpn_3x_mstrain_fp16",
            80,
            {
                **{f"roi_head.bbox_head.{i}.fc_cls": SOFTMAX for i in range(3)},
                **{f"roi_head.bbox_head.{i}.fc_reg": ClassRows(0, values=4) for i in range(3)},
                **{f"roi_head.mask_head.{i}.conv_logits": PLAIN for i in range(3)},
            },
        ),
        (
            "sparse_rcnn_pvt_v2_b0_fpn_shapes",
            6,
            {f"roi_head.bbox_head.{i}.fc_cls": PLAIN for i in range(3)},
        ),
        ("detr_pvt_v2_b0_shapes", 6, {"bbox_head.fc_cls": SOFTMAX}),
        ("fpn_pvt_v2_b0_shapes", 6, {"decode_head.conv_seg": PLAIN}),
        ("trans2seg_pvt_v2_b0_shapes", 6, {"decode_head.decoder.class_embed": ClassRows(1)}),
        (
            "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py",
            80,
            {
                **{f"bbox_head.cls_branches.{i}": PLAIN for i in range(7)},
                "dn_query_generator.label_embedding": PLAIN,
            },
        ),
        (
            "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py",
            80,
            {"panoptic_head.cls_embed": SOFTMAX},
        ),
        (
            "mmdet::ssd/ssd300_coco.py",
            80,
            {
                f"bbox_head.cls_convs.{i}.0": ClassRows(0, groups=anchors, after=1)
                for i, anchors in enumerate((4, 6, 6, 6, 4, 4))
            },
        ),
        (
            "mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py",
            80,
            {f"bbox_head.convs_pred.{i}": ClassRows(0, groups=3, before=5) for i in range(3)},
        ),
        (
            "mmdet::yolox/yolox_s_8xb8-300e_coco.py",
            80,
            {f"bbox_head.multi_level_conv_cls.{i}": PLAIN for i in range(3)},
        ),
        (
            "mmseg::point_rend/pointrend_r50_4xb2-80k_cityscapes-512x1024.py",
            19,
            {
                "decode_head.0.conv_seg": PLAIN,
                "decode_head.1.fc_seg": None,
                **{f"decode_head.1.fcs.{i}.conv": None for i in range(3)},
            },
        ),
    ],
)
def test_rows(name: str, num_classes: int, expected: dict):
    config = load_config(name if "::" in name else str(ROOT / "configs" / f"{name}.py"))
    rows = find_class_rows(build_for_classes(config), build_for_classes(config, 1), num_classes)
    assert {
        name.rpartition(".")[0] if name.endswith(("weight", "bias")) else name: r
        for name, r in rows.items()
    } == expected


def test_rows_of_a_detector_with_shared_layers():
    """A head's layers that several names refer to are copied under each."""
    config = load_config("mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py")
    rows = find_class_rows(build_for_classes(config), build_for_classes(config, 1), 80)
    assert set(rows) == {
        f"bbox_head.cls_branches.{i}.{kind}" for i in range(6) for kind in ("weight", "bias")
    }


@pytest.fixture
def config() -> Config:
    return build("retinanet", "v2")[1]


def with_classes(config: Config, *classes: str) -> Config:
    config.train_dataloader.dataset.metainfo = dict(classes=classes)
    config.model.bbox_head.num_classes = len(classes)
    return config


def test_published_names_without_meta(config: Config):
    """80 classes without names are COCO's."""
    source, _ = build("retinanet", "v2")
    with_classes(config, "dog", "cone")
    torch.manual_seed(1)
    model = build_for_classes(config, device="cpu")
    tensors, said = start(config, dict(state_dict=source.state_dict()), model, "a/b.pth")
    assert said[0] == "classes taken from b.pth: dog; fresh: cone"
    assert "taken for CocoDataset's" in said[1]
    weight = tensors["bbox_head.retina_cls.weight"].view(9, 2, -1)
    assert torch.equal(weight[:, 0], source.bbox_head.retina_cls.weight.view(9, 80, -1)[:, 16])
    assert torch.equal(weight[:, 1], model.bbox_head.retina_cls.weight.view(9, 2, -1)[:, 1])


def test_names_that_are_not_the_tensors(config: Config):
    source, _ = build("retinanet", "v2")
    with_classes(config, "dog", "cone")
    meta = dict(dataset_meta=dict(classes=("dog", "cone")))
    checkpoint = dict(state_dict=source.state_dict(), meta=meta)
    said = start(config, checkpoint, build_for_classes(config), "b.pth")[1]
    assert said[0].startswith("all classes start fresh (dog, cone)")
    assert said[1] == (
        "b.pth: its 2 class names (dog, cone) aren't used: its tensors are for 80 classes"
    )


def test_what_holds_a_backbone_alone(config: Config):
    source, _ = build("retinanet", "v2")
    with pytest.raises(CheckpointMismatchError, match=r"a backbone alone.*pass pretrained='b.pth'"):
        start(config, source.backbone.state_dict(), build_for_classes(config), "b.pth")


def test_published_are_those_of_mmdets_index():
    index = config_folder("mmdet") / "pvt" / "metafile.yml"
    weights = [model["Weights"] for model in yaml.safe_load(index.read_text())["Models"]]
    assert sorted(file.url for file in FILES["detectors"].values()) == sorted(weights)
    for file in FILES["detectors"].values():
        assert file.url.endswith(f"-{file.sha256}.pth") and len(file.sha256) == 8


@pytest.mark.parametrize("name", ["pvt_tiny", "pvt_v2_b0"])
def test_published_detector(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It has MMDetection's layout, lies where get.py puts it, and computes with its epsilon."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    short = dict(pvt_tiny="t", pvt_v2_b0="v2_b0")[name]
    config = load_config(str(ROOT / f"configs/retinanet_pvt_{short}_fpn_1x_coco.py"))
    theirs = load_config(f"mmdet::pvt/{FILES['detectors'][name].url.split('/')[-2]}.py")
    file = tmp_path / "checkpoints" / FILES["detectors"][name].name
    file.parent.mkdir()
    with torch.no_grad():
        published = build_for_classes(theirs, device="cpu")
    torch.save(dict(state_dict=published.state_dict(), meta={}), file)
    set_start_from(config, TrainOptions(start_from="published"))
    assert config.load_from == f"{FILES['detectors'][name].url}#sha256={file.stem[-8:]}"
    assert config.model.backbone.init_cfg is None
    assert (config.start_from, config.resume) == ("published", False)
    model = build_for_classes(config, device="cpu")
    tensors, said = start(config, torch.load(file, weights_only=True), model, config.load_from)
    assert said[0] == f"all of {file.name} is taken: its 80 classes are the data set's"
    model.load_state_dict(tensors)
    assert model.backbone.norm_eps == 1e-6
    image = torch.randn(1, 3, 64, 96).double()
    with torch.no_grad():
        outputs = zip(model.double().eval()(image), published.double().eval()(image), strict=True)
        for ours, others in outputs:
            for one, other in zip(ours, others, strict=True):
                assert relative(one, other) < 1e-10


@pytest.mark.parametrize(
    "name",
    ["retinanet_pvt_l_fpn_1x_coco", "retinanet_pvt_v2_b2_li_fpn_1x_coco", "fpn_pvt_t_ade20k_40k"],
)
def test_none_was_published(name: str):
    config = load_config(str(ROOT / "configs" / f"{name}.py"))
    with pytest.raises(ConfigError, match=r"no detector was published.*pvt_tiny.*pvt_v2_b5"):
        set_start_from(config, TrainOptions(start_from="published"))


def test_with_other_options(config: Config, tmp_path: Path):
    config.work_dir = str(tmp_path)
    for more in (dict(pretrained="b.pth"), dict(resume="c.pth"), dict(resume="auto")):
        with pytest.raises(ConfigError, match=f"leave it or {next(iter(more))} out"):
            set_start_from(config, TrainOptions(start_from="a.pth", **more))
    config.start_from = "a.pth"  # of an earlier run's config
    set_start_from(config, TrainOptions(resume="c.pth"))
    assert "load_from" not in config or config.load_from is None


def test_another_architecture(config: Config, tmp_path: Path):
    other, _ = build("atss", "v2")
    torch.save(dict(state_dict=other.state_dict()), tmp_path / "a.pth")
    with pytest.raises(CheckpointMismatchError, match=r"another architecture.*retina_cls"):
        set_start_from(config, TrainOptions(start_from=str(tmp_path / "a.pth")))
