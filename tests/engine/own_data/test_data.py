"""Pipelines load what the data has, wherever a config keeps them."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from mmpvt.datasets.shapes import generate
from mmpvt.engine.config import load_config
from mmpvt.engine.own_data import DataOptions, data, use_own_data


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


def test_an_epoch_has_images_of_rare_classes_several_times(tmp_path: Path):
    root = generate(tmp_path / "shapes", num_train=8, num_val=2, size=64, progress=False)
    batch = {"train_dataloader.batch_size": 32}
    config = load_config("mmpvt::retinanet_pvt_v2_b0_fpn_shapes.py", batch)
    balanced = dict(type="ClassBalancedDataset", oversample_thr=1.0)
    repeated = dict(type="mmengine.RepeatDataset", times=9, dataset=config.train_dataloader.dataset)
    config.train_dataloader.dataset = dict(balanced, dataset=repeated)
    config.param_scheduler = [dict(type="CosineAnnealingLR", by_epoch=False, T_max=8, end=8)]
    config.work_dir = str(tmp_path / "work")
    with ExitStack() as undo:
        config = use_own_data(config, DataOptions(path=str(root)), undo, batch, epochs=3)
        init_default_scope("mmdet")
        images = len(DATASETS.build(config.train_dataloader.dataset))
    assert 8 < images < 8 * 9  # a wrapper that repeats is dropped, as the schedule is set anew
    assert config.param_scheduler[0]["end"] == 3 * math.ceil(images / 32)
    assert config.optim_wrapper.optimizer.lr == 0.00283  # twice the batch
