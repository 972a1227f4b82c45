"""tools/swap_backbone.py, and training on a swapped config, as a user would."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from helpers import ROOT, command, environment
from mmpvt import swap_backbone
from mmpvt.engine.config import read_config

ATSS = "mmdet::atss/atss_r50_fpn_1x_coco.py"


def test_prints_the_config(call_tool):
    ended = call_tool("swap_backbone.py", ATSS, "--arch", "b2")
    assert ended.code == 0, ended.err
    assert ended.out.startswith(f'# atss_r50_fpn_1x_coco on pvt_v2_b2\n_base_ = "{ATSS}"\n')
    assert "neck=dict(in_channels=[64, 128, 320, 512])" in ended.out
    assert "model.backbone: ResNet -> pvt_v2_b2" in ended.err
    assert "(--keep-optimizer of swap_backbone leaves SGD)" in ended.err


def test_writes_the_config(call_tool, tmp_path: Path):
    out = tmp_path / "mine.py"
    ended = call_tool("swap_backbone.py", ATSS, "--arch", "b0", "--out", out, "--keep-optimizer")
    assert ended.code == 0, ended.err
    assert "model.neck.in_channels: [256, 512, 1024, 2048] -> [32, 64, 160, 256]" in ended.out
    config = read_config(str(out))
    assert config.model.backbone.arch == "b0"
    assert config.optim_wrapper.optimizer.type == "SGD"

    again = call_tool("swap_backbone.py", ATSS, "--arch", "b1", "--out", out)
    assert f"{out} exists: pass --force" in again.one_sentence()
    assert read_config(str(out)).model.backbone.arch == "b0"
    assert call_tool("swap_backbone.py", ATSS, "--arch", "b1", "--out", out, "--force").code == 0
    assert read_config(str(out)).model.backbone.arch == "b1"


def test_a_file_as_base_is_named_from_where_the_config_lies(call_tool, tmp_path: Path):
    base, out = tmp_path / "a" / "base.py", tmp_path / "b" / "mine.py"
    for path in (base, out):
        path.parent.mkdir()
    base.write_text(f'_base_ = "{ATSS}"\n')
    assert call_tool("swap_backbone.py", base, "--arch", "b0", "--out", out).code == 0
    assert '_base_ = "../a/base.py"' in out.read_text()
    assert read_config(str(out)).model.neck.in_channels == [32, 64, 160, 256]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (
            ("mmdet::atss/atss_r50_fpn_1x_cocoo.py",),
            "did you mean mmdet::atss/atss_r50_fpn_1x_coco",
        ),
        (("no/such_config.py",), "no config at no/such_config.py"),
        (("mmdet::_base_/datasets/coco_detection.py",), "holds no model"),
        (("mmpvt::retinanet_pvt_s_fpn_1x_coco.py",), "PVT already"),
        (("mmdet::reid/reid_r50_8xb32-6e_mot15train80_test-mot15val20.py",), "reads no pyramid"),
        ((ATSS, "--arch", "b9"), "unknown arch 'b9'"),
        ((ATSS, "--part", "teacher"), "--part teacher: no backbone of that name"),
        ((ATSS, "--out", "no/such/folder.py"), "there is no folder no/such"),
        ((ATSS, "--out", "config.txt"), "a config's name ends in .py"),
        ((ATSS, "--out", "/proc/mine.py"), "/proc/mine.py can't be written"),
    ],
)
def test_mistakes(args: tuple[str, ...], expected: str, call_tool):
    args = args if "--arch" in args else (*args, "--arch", "b0")
    assert expected in call_tool("swap_backbone.py", *args).one_sentence()


def test_nothing_is_written_of_a_swap_that_fails(call_tool, tmp_path: Path):
    out = tmp_path / "mine.py"
    out.write_text("precious")
    name = "mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py"
    ended = call_tool("swap_backbone.py", name, "--arch", "b0", "--out", out, "--force")
    assert "run on each box" in ended.one_sentence()
    assert out.read_text() == "precious"


def test_a_base_in_the_new_style(call_tool, tmp_path: Path):
    base, out = tmp_path / "base.py", tmp_path / "mine.py"
    base.write_text(
        "from mmdet.models import FPN, ResNet, RetinaNet\n"
        "model = dict(type=RetinaNet, backbone=dict(type=ResNet, depth=50, num_stages=4),\n"
        "    neck=dict(type=FPN, in_channels=[256, 512, 1024, 2048]))\n"
    )
    sentence = call_tool("swap_backbone.py", base, "--arch", "b0", "--out", out).one_sentence()
    assert "train it with tools/train.py --backbone" in sentence
    assert not out.exists()
    model = swap_backbone(read_config(str(base)), "b0").model
    assert model.neck.in_channels == [32, 64, 160, 256]


def test_train_without_a_file_in_between(call_tool, tmp_path: Path, shapes: Path):
    base = tmp_path / "base.py"
    base.write_text(
        f'_base_ = "{ROOT / "configs" / "retinanet_pvt_v2_b0_fpn_shapes.py"}"\n'
        "model = dict(backbone=dict(_delete_=True, type='ResNet', depth=18, num_stages=4),\n"
        "    neck=dict(in_channels=[64, 128, 256, 512]))\n"
        "train_pipeline = _base_.train_pipeline\n"
        "train_pipeline[2].scale = (64, 64)\n"
        "train_dataloader = dict(dataset=dict(pipeline=train_pipeline))\n"
        "train_cfg = dict(max_epochs=1, val_interval=5)\n"
    )
    args = (base, "--backbone", "pvt_v2_b0", "--pretrained", "none", "--data-root", shapes)
    ended = call_tool("train.py", *args, "--work-dir", tmp_path / "work")
    assert ended.code == 0, ended.out + ended.err
    assert "model.backbone: ResNet -> pvt_v2_b0" in ended.out
    assert (tmp_path / "work" / "epoch_1.pth").is_file()
    ended = call_tool("train.py", base, "--backbone", "resnet50", "--data-root", shapes)
    assert "unknown arch 'resnet50'" in ended.one_sentence()


def imported_by(*args: str) -> set[str]:
    """The top-level packages that a command line imports."""
    python, *tool = command("swap_backbone.py", *args)
    timed = [python, "-X", "importtime", *tool]
    done = subprocess.run(timed, env=environment(), check=True, capture_output=True, text=True)
    return {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}


def test_a_swap_imports_no_more_than_it_needs():
    """Most of the time that it takes is the time of its imports."""
    imported = imported_by(ATSS, "--arch", "b2")
    assert {"mmpvt", "mmengine", "torch"} <= imported
    assert not imported & {"mmdet", "mmseg", "matplotlib", "pycocotools"}


def test_help_imports_nothing_heavy():
    assert not imported_by("--help") & {"torch", "mmcv", "mmdet", "mmseg"}
