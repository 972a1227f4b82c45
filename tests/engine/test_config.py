"""Configs are found, read and changed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict

from helpers import ROOT
from mmpvt.engine.config import load_config, make_work_dir, set_data_root, set_hook
from mmpvt.engine.saved_config import from_data, to_data
from mmpvt.errors import ConfigError, OutputError


@pytest.fixture
def config() -> Config:
    return load_config(str(ROOT / "configs/retinanet_pvt_s_fpn_1x_coco.py"))


def test_options(config: Config):
    path = str(ROOT / "configs/retinanet_pvt_s_fpn_1x_coco.py")
    changed = load_config(path, {"optim_wrapper.optimizer.lr": 1.0})
    assert (config.optim_wrapper.optimizer.lr, changed.optim_wrapper.optimizer.lr) == (1e-4, 1.0)
    assert config.work_dir == "work_dirs/retinanet_pvt_s_fpn_1x_coco"
    with pytest.raises(ConfigError, match="cfg_options: they don't fit"):
        load_config(path, {"train_dataloader.dataset.pipeline.99.scale": (1, 1)})


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("train_dataloder.batch_size", 2, "there is no .*: write train_dataloader"),
        ("default_hooks.checkpoint.max_keep_ckpt", 1, "there is no .*: write max_keep_ckpts"),
        ("train_dataloader.batch_size", 0, "is 0, and it counts images"),
        ("val_dataloader.batch_size", "abc", "is 'abc', and it counts images"),
    ],
)
def test_options_written_wrong(option: str, value: object, sentence: str):
    """They would be ignored, or end the run after its first epoch."""
    with pytest.raises(ConfigError, match=sentence):
        load_config("mmpvt::retinanet_pvt_v2_b0_fpn_shapes.py", {option: value})


@pytest.mark.parametrize(
    "option",
    ["tta_model.type", "tta_pipeline", "auto_scale_lr.enable", "randomness.seed",
     "custom_imports.imports", "default_hooks.checkpoint.max_keep_ckpts",
     "find_unused_parameters", "my_own_setting"],
)  # fmt: skip
def test_new_options_are_taken(option: str):
    found = load_config("mmpvt::retinanet_pvt_v2_b0_fpn_shapes.py", {option: 1})
    for key in option.split("."):
        found = found[key]
    assert found == 1


def test_installed_configs():
    config = load_config("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py")
    assert config.model.backbone.depth == 50
    ours = load_config("mmpvt::retinanet_pvt_s_fpn_1x_coco.py")
    assert ours.model.backbone.arch == "small"
    renamed = load_config(str(ROOT / "configs/retinanet_pvt_t_fpn_memorise16_coco.py"))
    assert renamed.filename.endswith("retinanet_pvt_t_fpn_overfit16_coco.py")
    assert load_config("mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py").model


NEW_STYLE = """
from mmcv.transforms import LoadImageFromFile
from mmcv.transforms import Resize as MMCVResize
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations, Resize
from mmdet.models import RetinaNet
from mmengine.dataset import DefaultSampler
from mmengine.runner import EpochBasedTrainLoop
from torch.nn import BatchNorm2d
from torch.optim import AdamW

from mmpvt.models import PyramidVisionTransformerV2

default_scope = None
backbone = dict(type=PyramidVisionTransformerV2, arch="b0")
model = dict(type=RetinaNet, backbone=backbone, norm_cfg=dict(type=BatchNorm2d))
load = [dict(type=LoadImageFromFile), dict(type=LoadAnnotations, with_bbox=True)]
pipeline = [*load, dict(type=Resize), dict(type=MMCVResize)]
train_dataloader = dict(
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(type=CocoDataset, pipeline=pipeline),
)
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=1)
optim_wrapper = dict(optimizer=dict(type=AdamW, lr=1e-4))
"""


def test_a_saved_config_joins_its_paths_once():
    dataset = dict(type="CocoDataset", data_root="/d/coco", ann_file="/d/coco/val.json")
    dataset["data_prefix"] = dict(img="/d/coco/val2017/")
    config = Config(
        dict(
            default_scope="mmdet",
            model=dict(type="RetinaNet"),
            test_dataloader=dict(dataset=dataset),
            test_evaluator=dict(type="CocoMetric", ann_file="/d/coco/val.json"),
        )
    )
    saved = from_data(to_data(config, dict(classes=("a",))))
    found = saved.test_dataloader.dataset
    assert (found.data_root, found.ann_file) == ("coco", "val.json")
    assert found.data_prefix.img == "val2017"
    assert saved.test_evaluator.ann_file == "coco/val.json"


def test_classes_that_no_registry_has_stay(tmp_path: Path):
    """A config that has them can be written, as the runner does."""
    (tmp_path / "new.py").write_text(
        "from mmdet.models import RetinaNet\nfrom torch.nn import Tanhshrink\n"
        "model = dict(type=RetinaNet, own=dict(type=Tanhshrink), other=dict(type='this.s.x'))\n"
    )
    config = load_config(str(tmp_path / "new.py"))
    assert config.model.type == "RetinaNet" and config.model.other.type == "this.s.x"
    assert "Tanhshrink" in config.pretty_text and "this" not in sys.modules


def test_classes_of_new_style_configs_are_named(tmp_path: Path):
    """MMEngine's copy of such a config names their modules."""
    written, copied = tmp_path / "new.py", tmp_path / "copy.py"
    written.write_text(NEW_STYLE)
    Config.fromfile(written).dump(copied)
    assert "mmdet.datasets.CocoDataset" in copied.read_text()
    for file in (written, copied):
        config = load_config(str(file))
        dataset = config.train_dataloader.dataset
        kinds = [step.type for step in dataset.pipeline]
        assert kinds == ["LoadImageFromFile", "LoadAnnotations", "Resize", "mmengine.Resize"]
        kinds = [config.model, config.model.backbone, config.model.norm_cfg, dataset]
        kinds += [config.train_dataloader.sampler, config.train_cfg, config.optim_wrapper.optimizer]
        assert [part.type for part in kinds] == [
            *("RetinaNet", "mmpvt.PyramidVisionTransformerV2", "BN", "CocoDataset"),
            *("DefaultSampler", "EpochBasedTrainLoop", "AdamW"),
        ]
        assert config.default_scope == "mmdet"


def test_data_root_moves_data_and_evaluators(config: Config):
    set_data_root(config, "/data/elsewhere/")
    for split in ("train", "val", "test"):
        assert config[f"{split}_dataloader"].dataset.data_root == "/data/elsewhere/"
    assert config.val_evaluator.ann_file == "/data/elsewhere/annotations/instances_val2017.json"
    assert config.test_evaluator.ann_file == config.val_evaluator.ann_file
    assert config.train_dataloader.dataset.ann_file == "annotations/instances_train2017.json"


def test_data_root_within_wrappers_and_of_segmenters():
    config = load_config("mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py")
    config.train_dataloader.dataset = ConfigDict(
        type="RepeatDataset", times=2, dataset=config.train_dataloader.dataset
    )
    set_data_root(config, "ade")
    assert config.train_dataloader.dataset.dataset.data_root == "ade"
    config.train_dataloader.dataset = config.val_dataloader = config.test_dataloader = None
    with pytest.raises(ConfigError, match="data_root: the config names no data_root"):
        set_data_root(config, "ade")


def test_data_root_leaves_paths_elsewhere(config: Config):
    """Those that lie in another folder, or in none that is named; absolute paths stay absolute."""
    loader = config.val_dataloader
    loader.dataset.update(data_root="/data", ann_file="/run/val.json", img_suffix="")
    loader.dataset.data_prefix = dict(img="/data/images", seg="/maps", depth="")
    config.val_evaluator.ann_file = "/run/val.json"
    config.train_dataloader.dataset.data_root = config.test_dataloader.dataset.data_root = ""
    set_data_root(config, "new")
    moved = str(Path("new/images").absolute())
    assert loader.dataset.data_prefix == dict(img=moved, seg="/maps", depth="")
    assert config.train_dataloader.dataset.data_root == "new"
    loader.dataset.update(data_root="/data", data_prefix=dict(img="/data/images"))
    set_data_root(config, "s3://bucket/")
    assert loader.dataset.data_prefix.img == "s3://bucket/images"
    assert (loader.dataset.ann_file, loader.dataset.img_suffix) == ("/run/val.json", "")
    assert config.val_evaluator.ann_file == "/run/val.json"
    for split in ("train", "val", "test"):
        config[f"{split}_dataloader"].dataset.update(data_root="", ann_file="/run/a.json")
    with pytest.raises(ConfigError, match="data_root: the config names no data_root"):
        set_data_root(config, "new")


def test_a_work_directory_that_cannot_be_written(config: Config, tmp_path: Path):
    (tmp_path / "file").touch()
    config.work_dir = str(tmp_path / "file")
    with pytest.raises(OutputError, match=r"can't be written to .*: pass work_dir"):
        make_work_dir(config)


def test_hooks_are_added_once():
    """What the config says of a hook stays, unless it is given; older names are known."""
    config = Config(dict(custom_hooks=[dict(type="mmpvt.LeftOutHook", notes=["a"])]))
    set_hook(config, type="mmpvt.PicturesHook", count=3)
    set_hook(config, type="mmpvt.PicturesHook", show_dir="b")
    set_hook(config, type="mmpvt.SkippedDataHook", on_bad_data="stop")
    assert config.custom_hooks == [
        dict(type="mmpvt.SkippedDataHook", notes=["a"], on_bad_data="stop"),
        dict(type="mmpvt.PicturesHook", count=3, show_dir="b"),
    ]


def test_published_settings_of_retinanet():
    """Of each config the lines in which the published settings differ."""
    rows = {
        "pvt_t": ("tiny", 0.1, 1e-4, 2),
        "pvt_s": ("small", 0.1, 1e-4, 2),
        "pvt_m": ("medium", 0.0, 1e-4, 2),
        "pvt_l": ("large", 0.0, 1e-4, 2),
        "pvt_v2_b0": ("b0", 0.1, 1e-4, 2),
        "pvt_v2_b1": ("b1", 0.1, 1e-4, 2),
        "pvt_v2_b2": ("b2", 0.1, 1e-4, 2),
        "pvt_v2_b2_li": ("b2_li", 0.1, 1e-4, 2),
        "pvt_v2_b3": ("b3", 0.1, 1e-4, 2),
        "pvt_v2_b4": ("b4", 0.1, 1e-4 / 1.4, 1),
        "pvt_v2_b5": ("b5", 0.1, 1e-4 / 1.4, 1),
    }
    for name, (arch, drop_path, lr, batch) in rows.items():
        config = load_config(str(ROOT / f"configs/retinanet_{name}_fpn_1x_coco.py"))
        backbone, optimizer = config.model.backbone, config.optim_wrapper.optimizer
        assert backbone.arch == arch and backbone.get("drop_path_rate", 0.1) == drop_path
        assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("AdamW", lr, 1e-4)
        assert config.train_dataloader.batch_size == batch
        assert config.auto_scale_lr.base_batch_size == 8 * batch
        amp = config.optim_wrapper.type == "AmpOptimWrapper"
        assert amp == (name == "pvt_l")
        warm_up, steps = config.param_scheduler
        assert (warm_up.start_factor, warm_up.end, warm_up.by_epoch) == (0.001, 500, False)
        assert (list(steps.milestones), steps.gamma, config.train_cfg.max_epochs) == (
            [8, 11],
            0.1,
            12,
        )
        neck = config.model.neck
        assert (neck.start_level, neck.num_outs, neck.add_extra_convs) == (1, 5, "on_input")
        arch_name = {"t": "tiny", "s": "small", "m": "medium", "l": "large"}.get(name[4:])
        weights = f"pvt_{arch_name}" if arch_name else name
        assert backbone.init_cfg.checkpoint == (
            f"https://github.com/whai362/PVT/releases/download/v2/{weights}.pth"
        )
    small = load_config(str(ROOT / "configs/retinanet_pvt_s_fpn_1x_coco_640.py"))
    for loader in (small.train_dataloader, small.val_dataloader, small.test_dataloader):
        (resize,) = (t for t in loader.dataset.pipeline if t.type == "Resize")
        assert resize.scale == (1066, 640)
