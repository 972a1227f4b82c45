"""Classifiers and backbones by their names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.structures import BaseDataElement

import mmpvt
from mmpvt.inference.batches import classification

pytest.importorskip("mmpretrain")


def test_a_name_gives_a_classifier_or_its_backbone(tmp_path: Path):
    images = torch.rand(1, 3, 64, 96)
    model = mmpvt.load_model("pvt_v2_b0", "none", "cpu")
    file = tmp_path / "classifier.pth"
    torch.save(model.state_dict(), file)
    assert not model.training and model(images).shape == (1, 1000)
    again = mmpvt.load_model("pvt_v2_b0", file, "cpu")
    assert torch.equal(again(images), model(images))
    other = mmpvt.load_model("pvt_v2_b0", file, "cpu", num_classes=10)
    assert other(images).shape == (1, 10)
    backbone = mmpvt.load_model("pvt_v2_b0", file, "cpu", features_only=True)
    assert [tuple(m.shape[1:]) for m in backbone(images)] == [
        *((32, 16, 24), (64, 8, 12), (160, 4, 6), (256, 2, 3)),
    ]
    assert torch.equal(backbone(images)[-1], model.backbone(images)[-1])
    with pytest.raises(mmpvt.UserError, match=r"no pvt_v2_b1 classifier's: \d+ of another shape"):
        mmpvt.load_model("pvt_v2_b1", file, "cpu")
    with pytest.raises(mmpvt.UserError, match="features_only"):
        mmpvt.load_model("pvt_v2_b0_shapes", file, "cpu", features_only=True)
    with pytest.raises(mmpvt.UserError, match="pvt_v2_b0 names a PVT, and tiles go"):
        mmpvt.load_model("pvt_v2_b0", file, "cpu", tiles=64)


def test_classes_of_one_name_have_the_higher_score():
    """As ImageNet's two cranes."""
    sample = BaseDataElement(pred_score=torch.tensor([0.25, 0.125, 0.625]))
    found = classification(sample, ["crane", "ring", "crane"])
    assert found["class"] == "crane" and found["score"] == 0.625
    assert found["scores"] == {"crane": 0.625, "ring": 0.125}
