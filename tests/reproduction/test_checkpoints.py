"""Checkpoints find their configs by name, and none is guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers import ROOT
from mmpvt.reproduction.checkpoints import find_checkpoints, match

CONFIGS = {path.stem: path for path in sorted((ROOT / "configs").glob("*.py"))}


def test_every_config_is_matched_by_its_own_name_alone():
    assert all(match(name, CONFIGS) == [name] for name in CONFIGS)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("retinanet_pvt_s_fpn_1x_coco_epoch_12", "retinanet_pvt_s_fpn_1x_coco"),
        ("fpn_pvt_t_ade20k_40k-iter_40000", "fpn_pvt_t_ade20k_40k"),
        (
            "retinanet_pvt-s_fpn_1x_coco_20210906_142921-b6c94a5b",
            "retinanet_pvt_s_fpn_1x_coco",
        ),
        (
            "retinanet_pvtv2-b0_fpn_1x_coco_20210831_103157-13e9aabe",
            "retinanet_pvt_v2_b0_fpn_1x_coco",
        ),
        ("RetinaNet_PVT_Small_FPN_1x_COCO_640", "retinanet_pvt_s_fpn_1x_coco_640"),
        ("mask_rcnn_pvt_v2_b2_li_fpn_1x_coco_latest", "mask_rcnn_pvt_v2_b2_li_fpn_1x_coco"),
    ],
)
def test_other_spellings_and_marks(name: str, config: str):
    assert match(name, CONFIGS) == [config]


@pytest.mark.parametrize(
    "name",
    [
        "pvt_small",  # a backbone
        "epoch_12",
        "retinanet_pvt_s_fpn_1x_coco_800",  # another recipe, perhaps
        "retinanet_pvt_s_fpn_3x_coco",
        "retinanet_pvt_v2_b2_li_extra_fpn_1x_coco",
    ],
)
def test_unclear(name: str):
    assert match(name, CONFIGS) == []


def test_a_folder(tmp_path: Path):
    files = [
        "retinanet_pvt_t_fpn_1x_coco/epoch_12.pth",  # a run's work directory
        "retinanet_pvt_t_fpn_1x_coco/notes.txt",
        "deep/down/detr_pvt_s_8x2_50ep_coco.safetensors",
        "retinanet_pvt_s_fpn_1x_coco_800.pth",
        "mine.pth",
    ]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    mine = str(CONFIGS["gfl_pvt_v2_b2_fpn_3x_mstrain_fp16"])
    found = {c.name: c for c in find_checkpoints(tmp_path, CONFIGS, {"mine": mine})}
    assert {name: c.config and Path(c.config).stem for name, c in found.items()} == {
        "retinanet_pvt_t_fpn_1x_coco/epoch_12": "retinanet_pvt_t_fpn_1x_coco",
        "deep/down/detr_pvt_s_8x2_50ep_coco.safetensors": "detr_pvt_s_8x2_50ep_coco",
        "retinanet_pvt_s_fpn_1x_coco_800": None,
        "mine": "gfl_pvt_v2_b2_fpn_3x_mstrain_fp16",
    }
    assert "retinanet_pvt_s_fpn_1x_coco" in found["retinanet_pvt_s_fpn_1x_coco_800"].near
