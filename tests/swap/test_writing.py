"""A written config gives what was swapped, and says no more than what changes."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config

from mmpvt.engine.settings import read_config
from mmpvt.swap import as_text, swap

ATSS = """\
# title
_base_ = "mmdet::atss/atss_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["mmpvt.setup"], allow_failed_imports=False)
model = dict(
    backbone=dict(
        _delete_=True,
        type="mmpvt.PyramidVisionTransformer",
        arch="small",
        init_cfg=dict(
            type="Pretrained",
            checkpoint="https://github.com/whai362/PVT/releases/download/v2/pvt_small.pth",
        ),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
optim_wrapper = dict(optimizer=dict(_delete_=True, type="AdamW", lr=0.0001, weight_decay=0.0001))
"""


def text_of(name: str) -> tuple[str, Config]:
    base = read_config(name)
    config = swap(base, "small").config
    return as_text(base, config, name, "title"), config


def without_scopes(value: object) -> object:
    """Without the ``_scope_`` that MMEngine puts into what comes of another package's config."""
    if isinstance(value, dict):
        return {key: without_scopes(item) for key, item in value.items() if key != "_scope_"}
    if isinstance(value, list | tuple):
        return type(value)(map(without_scopes, value))
    return value


def test_text():
    assert text_of("mmdet::atss/atss_r50_fpn_1x_coco.py")[0] == ATSS


@pytest.mark.parametrize(
    "name",
    [
        "mmdet::dyhead/atss_r50-caffe_fpn_dyhead_1x_coco.py",  # a list of necks
        "mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py",
        "mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py",
        "mmdet::lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py",
        "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py",
        "mmdet::qdtrack/qdtrack_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py",
        "mmseg::ocrnet/ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024.py",  # a list of heads
        "mmseg::knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py",
        "mmseg::fastfcn/fastfcn_r50-d32_jpu_aspp_4xb2-80k_cityscapes-512x1024.py",
        "mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py",
    ],
)
def test_the_file_gives_the_swapped_config(name: str, tmp_path: Path):
    text, config = text_of(name)
    path = tmp_path / "swapped.py"
    path.write_text(text)
    assert without_scopes(read_config(str(path)).to_dict()) == without_scopes(config.to_dict())
    assert max(map(len, text.splitlines())) <= 100 or "checkpoint=" in text
    assert len(text.splitlines()) < 40


def test_a_base_of_one_s_own(tmp_path: Path):
    base = tmp_path / "base.py"
    base.write_text(
        "custom_imports = dict(imports=['os'], allow_failed_imports=False)\n"
        "model = dict(type='FCOS', backbone=dict(type='ResNet', depth=50, num_stages=4),\n"
        "    neck=[dict(type='FPN', in_channels=[256, 512, 1024, 2048]), dict(type='BFP')])\n"
    )
    text, config = text_of(str(base))
    assert "_base_.model.neck[0].in_channels = [64, 128, 320, 512]" in text
    path = tmp_path / "swapped.py"
    path.write_text(text)
    written = read_config(str(path))
    assert written.custom_imports.imports == ["os", "mmpvt.setup"]
    assert without_scopes(written.to_dict()) == without_scopes(config.to_dict())


def test_any_value_is_written_as_source(tmp_path: Path):
    base = tmp_path / "base.py"
    base.write_text("model = dict(type='A')\nkeys = dict(a=1)\n")
    config = read_config(str(base))
    config.model.name = 'a "quoted" back\\slash'
    config.keys_of_parts = {"backbone.norm": dict(decay_mult=0.0), "x" * 90: (1,)}
    path = tmp_path / "other.py"
    path.write_text(as_text(read_config(str(base)), config, str(base), "title"))
    assert read_config(str(path)).to_dict() == config.to_dict()
