"""A model's cost, counted by the tool."""

from __future__ import annotations

import pytest

from helpers import ROOT

CONFIGS = ROOT / "configs"


def test_gfl(call_tool):
    ended = call_tool("get_flops.py", CONFIGS / "gfl_pvt_v2_b2_fpn_3x_mstrain_fp16.py")
    assert ended.code == 0, ended.err
    first, _, *rows = ended.out.splitlines()
    assert first.startswith("one image of 3x1280x800, ")
    rows = [row.split() for row in rows]
    assert [row[0] for row in rows] == ["backbone", "neck", "bbox_head", "all"]
    for column, published in {1: 33.11, 2: 260.65}.items():
        *parts, total = (float(row[column]) for row in rows)
        assert total == pytest.approx(published, rel=0.01)
        assert total == pytest.approx(sum(parts), abs=0.03)


def test_shape_and_options(call_tool):
    args = ("--shape", 64, 96, "--cfg-options", "model.backbone.arch=tiny")
    ended = call_tool("get_flops.py", CONFIGS / "fpn_pvt_s_ade20k_40k.py", *args)
    assert ended.code == 0, ended.err
    assert ended.out.startswith("one image of 3x64x96, ")
    assert ended.out.split()[-2] == "16.98"


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["configs/nowhere.py"], "no config at"),
        ([CONFIGS / "_base_/mstrain_3x.py"], "holds no model"),
        ([CONFIGS / "fpn_pvt_t_ade20k_40k.py", "--shape", 16, 16], "too small"),
        ([CONFIGS / "fpn_pvt_t_ade20k_40k.py", "--shape", 0, 512], "--shape: an image of 0x512"),
        (
            [CONFIGS / "fpn_pvt_t_ade20k_40k.py", "--shape", 64, 10**9],
            "--shape: 1000000000 is more",
        ),
        (["mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py"], "a FastRCNN can't be counted"),
    ],
)
def test_mistakes(args: list, sentence: str, call_tool):
    assert sentence in call_tool("get_flops.py", *args).one_sentence()
