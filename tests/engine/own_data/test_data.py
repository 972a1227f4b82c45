"""Pipelines load what the data has, wherever a config keeps them."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from mmpvt.engine.config import load_config
from mmpvt.engine.own_data import data


@pytest.mark.parametrize("with_masks", [True, False])
def test_pipelines_that_hooks_switch_to(with_masks: bool):
    """RTMDet's last epochs have one of their own; masks that aren't polygons would be
    ignored objects there."""
    loading = dict(type="LoadAnnotations", with_bbox=True, with_mask=True, poly2mask=False)
    switch = dict(type="PipelineSwitchHook", switch_epoch=280, switch_pipeline=[loading])
    config = Config(dict(model={}, custom_hooks=[switch]))
    data.load_objects(config, with_masks)
    (step,) = config.custom_hooks[0].switch_pipeline
    assert step.with_mask == with_masks
    assert not (step.with_mask and "poly2mask" in step)


@pytest.mark.parametrize(
    ("name", "predicts"),
    [("rtmdet-ins_tiny_8xb32-300e_coco", True), ("rtmdet_tiny_8xb32-300e_coco", False)],
)
def test_models_that_predict_masks(name: str, predicts: bool):
    config = load_config(f"mmdet::rtmdet/{name}.py")
    assert data.predicts_masks(config) == predicts
