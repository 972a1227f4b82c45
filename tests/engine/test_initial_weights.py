"""Weights that a run starts from are set in the config."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config, ConfigDict

from helpers import ROOT
from mmpvt.engine.config import load_config
from mmpvt.engine.initial_weights import set_checkpoint, set_pretrained, set_resume
from mmpvt.errors import CheckpointError, ConfigError


@pytest.fixture
def config() -> Config:
    return load_config(str(ROOT / "configs/retinanet_pvt_s_fpn_1x_coco.py"))


def test_pretrained(config: Config, tmp_path: Path):
    weights = tmp_path / "weights.pth"
    weights.touch()
    set_pretrained(config, str(weights))
    assert config.model.backbone.init_cfg == dict(type="Pretrained", checkpoint=str(weights))
    set_pretrained(config, "none")
    assert config.model.backbone.init_cfg is None
    with pytest.raises(ConfigError, match="no backbone"):
        set_pretrained(Config(dict(model=dict(type="A"))), "none")


@pytest.mark.parametrize("source", ["none", "https://a.b/r50.pth"])
def test_pretrained_of_models_that_name_weights_themselves(source: str):
    """As MMSegmentation's configs do: they would be loaded in its place, or beside it."""
    config = load_config("mmseg::fcn/fcn_r50-d8_4xb2-40k_cityscapes-512x1024.py")
    assert config.model.pretrained == "open-mmlab://resnet50_v1c"
    set_pretrained(config, source)
    given = None if source == "none" else dict(type="Pretrained", checkpoint=source)
    assert "pretrained" not in config.model and config.model.backbone.init_cfg == given


def test_a_resumed_backbone_loads_nothing(config: Config, tmp_path: Path):
    """Also within another model."""
    config.model = ConfigDict(type="Teacher", detector=config.model)
    config.model.detector.pretrained = "open-mmlab://resnet50_v1c"  # as MMSegmentation has it
    config.model.detector.backbone.pretrained = "a.pth"
    config.model.other = dict(backbone_cfg=dict(type="TIMMBackbone", pretrained=True))
    (tmp_path / "epoch_1.pth").touch()
    set_resume(config, str(tmp_path / "epoch_1.pth"))
    assert config.model.detector.backbone.init_cfg is None
    assert not {"pretrained"} & {*config.model.detector, *config.model.detector.backbone}
    assert config.model.other.backbone_cfg.pretrained is False  # whose default is True


def test_missing_files(config: Config, tmp_path: Path):
    config.work_dir = str(tmp_path)
    missing = str(tmp_path / "a.pth")
    for change, name in ((set_pretrained, missing), (set_resume, missing), (set_resume, "auto")):
        with pytest.raises(CheckpointError) as caught:
            change(config, name)
        assert caught.value.setting == change.__name__.removeprefix("set_")
    with pytest.raises(CheckpointError, match="there is no such file"):
        set_checkpoint(config, missing)
    set_checkpoint(config, "https://example.org/a.pth")
    assert config.load_from == "https://example.org/a.pth"
