"""What a published run is estimated to take."""

from __future__ import annotations

import pytest

from dev import training_cost
from dev.model_zoo import Entry
from helpers import ROOT
from mmpvt import UserError


def cost(name: str) -> training_cost.Cost:
    return training_cost.estimate(Entry(ROOT / "configs" / f"{name}.py", dict(method="any")))


def test_retinanet():
    """By hand: 12 epochs of 117,266 images, 285.7 G multiply-adds each, at 8 x 8 TFLOP/s."""
    full = cost("retinanet_pvt_s_fpn_1x_coco")
    assert (full.gpus, full.batch, full.images) == (8, 2, 1_407_192)
    assert full.flop == pytest.approx(1_407_192 * 6 * 285.7e9, rel=1e-3)
    assert full.hours == pytest.approx(full.flop / 64e12 / 3600)
    low, high = full.gigabytes
    assert low == pytest.approx((16 * 34.22e6 + 2 * 285.7e9 * 0.0046146) / 1e9, rel=1e-3)
    assert low < 2 * 1.8 < high < 2 * 5.3
    smaller = cost("retinanet_pvt_s_fpn_1x_coco_640")
    assert smaller.flop == pytest.approx(full.flop * (640 / 800) ** 2)


def test_scales_and_precision():
    """The mean over the scales is worked on, the largest is what memory is for."""
    one, many = cost("mask_rcnn_pvt_v2_b2_fpn_1x_coco"), cost("mask_rcnn_pvt_v2_b2_fpn_3x_mstrain")
    sides = range(480, 801, 32)
    share = sum((side / 800) ** 2 for side in sides) / len(sides)
    assert many.flop == pytest.approx(3 * share * one.flop)
    assert many.gigabytes == one.gigabytes
    half = cost("mask_rcnn_pvt_v2_b2_li_fpn_3x_mstrain")
    assert half.hours == pytest.approx(half.flop / 8 / 24e12 / 3600)


def test_segmentation():
    assert cost("fpn_pvt_t_ade20k_40k").images == 32 * 40_000


def test_marks():
    page = f"before\n{training_cost.START}old\n{training_cost.END}after\n"
    new = training_cost.insert(page, "new\n")
    assert new == page.replace("old", "new") == training_cost.insert(new, "new\n")
    with pytest.raises(UserError, match=r"reproduce\.md lacks the lines"):
        training_cost.insert("before\nafter\n", "new\n")
