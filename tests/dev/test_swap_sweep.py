"""A shipped config of each of many families trains a step and predicts with PVT under it.

tests/engine/own_data/test_families.py checks as much of those that learn one's own data, so that
only the others run in `make test`. docs/swap_coverage.md holds what came of all of them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dev import swap_sweep
from dev.swap_sweep import ConfigTrial, Record, Records, ShippedConfig, batches
from dev.swap_sweep.checks import Problem
from dev.swap_sweep.config_trial import run_config
from dev.swap_sweep.shipped_configs import is_counted
from helpers import ROOT, SWAP_FAMILIES, environment
from mmpvt.engine.config import read_config

pytestmark = pytest.mark.filterwarnings("ignore")  # of many models

# one config of each of many families, of those that take the least time
CHOSEN = [ShippedConfig(*name.split("::")) for name in SWAP_FAMILIES]
# those that can't learn one's own data, or lose their panoptic head to it, or need albumentations
ONLY_HERE = {
    f"mmdet::{name}"
    for name in (
        *("albu_example", "cascade_rpn", "fast_rcnn", "ld", "libra_rcnn", "mask2former"),
        *("maskformer", "masktrack_rcnn", "panoptic_fpn", "qdtrack", "rpn", "soft_teacher"),
    )
}


def test_the_command_starts_in_a_process_of_its_own():
    """Where PyPI's torchvision doesn't fit this PyTorch, the environment is set up first."""
    command = [sys.executable, str(ROOT / "tools" / "sweep_swap.py"), "--help"]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=120)
    assert ended.returncode == 0, ended.stderr


@pytest.fixture(scope="module")
def trial() -> ConfigTrial:
    return ConfigTrial()


@pytest.mark.parametrize(
    "shipped",
    [
        pytest.param(one, id=one.family, marks=() if one.family in ONLY_HERE else pytest.mark.full)
        for one in CHOSEN
    ],
)
def test_trains_and_predicts(shipped: ShippedConfig, trial: ConfigTrial):
    record, config = trial.prepare(shipped)
    assert record.verdict == "ok", record.reason
    run_config(config)


def test_many_families():
    assert len({shipped.family for shipped in CHOSEN}) >= 40


def test_what_is_shipped():
    configs = swap_sweep.shipped_configs()
    assert len(configs) > 1000
    assert all(config.file.is_file() for config in configs[:5])
    families = {group[0].family: group for group in swap_sweep.by_family(configs)}
    assert "r50" in families["mmdet::atss"][0].path
    assert is_counted(read_config("mmdet::deepsort/" + _first(families["mmdet::deepsort"])))
    assert not is_counted(read_config("mmdet::ssd/ssd300_coco.py"))


def _first(group: list[ShippedConfig]) -> str:
    return group[0].path.partition("/")[2]


def test_verdicts(trial: ConfigTrial):
    for path, verdict, reason in (
        ("reid/reid_r50_8xb32-6e_mot15train80_test-mot15val20.py", "refused", "reads no pyramid"),
        ("ssd/ssd300_coco.py", "skipped", ""),
        ("common/ms_3x_coco.py", "skipped", ""),
    ):
        record, config = trial.prepare(ShippedConfig("mmdet", path))
        assert config is None
        assert record.verdict == verdict and reason in record.reason
        assert not record.was_run


def test_reasons_hold_no_paths_of_this_machine(trial: ConfigTrial):
    path = "sort/faster-rcnn_r50_fpn_8xb2-8e_mot20train_test-mot20train.py"
    record, _ = trial.prepare(ShippedConfig("mmdet", path))
    assert record.verdict == "unreadable"
    assert 'file "mmdet::sort/faster-rcnn_r50' in record.reason
    assert "/lib/" not in (ROOT / "docs" / "swap_coverage.md").read_text()


def test_a_model_that_does_not_train(trial: ConfigTrial):
    shipped = ShippedConfig("mmdet", "fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py")
    record, config = trial.prepare(shipped)
    config.model.bbox_head.type = "NoSuchHead"
    failed = trial.run(shipped, record, config)
    assert failed.verdict == "failed"
    assert failed.reason.startswith("KeyError") and "\n" not in failed.reason

    config = trial.prepare(shipped)[1]
    config.model.backbone.frozen_stages = 4
    with pytest.raises(Problem, match="no finite gradient reaches PVT"):
        run_config(config)


def test_records_are_resumed_from_what_is_on_disk(tmp_path: Path):
    path = tmp_path / "new" / "records.jsonl"
    one = Record("mmdet::a/b.py", "mmdet::a", "ok", model="123", seconds=1.5)
    records = Records(path)
    records.add(one)
    with path.open("a") as file:
        file.write('{"name": "mmdet::cut')
    records = Records(path)
    assert list(records) == [one]
    assert records.get(one.name) == one and records.get("x") is None
    assert records.of_model("123") == one and records.of_model("4") is None


def test_the_page():
    records = [
        Record("mmdet::a/1.py", "mmdet::a", "ok", model="1"),
        Record("mmdet::a/2.py", "mmdet::a", "ok", model="1"),
        Record("mmdet::b/1.py", "mmdet::b", "refused", "it can't | be"),
        Record("mmseg::c/1.py", "mmseg::c", "failed", "KeyError: 'x'", model="2"),
        Record("mmseg::d/1.py", "mmseg::d", "skipped"),
        Record("mmseg::e/1.py", "mmseg::e", "unreadable", "ImportError"),
    ]
    page = swap_sweep.markdown(records, dict(mmdet="3.3.0", mmseg="1.2.2"))
    assert "2 distinct models" in page
    assert "| both | 3 | 1 (33.3%) | 4 | 2 (50.0%) | 1 | 1 |" in page
    assert r"| mmdet::b/1.py | refused | it can't \| be |" in page
    assert "| mmdet::a | 2 | 2 | 0 | 0 |" in page
    assert "mmseg::d" not in page


def test_batches():
    batch = batches.video(3, [0], [1])
    assert batch["inputs"][0].shape == (2, 3, batches.SIDE, batches.SIDE)
    frames = batch["data_samples"][0].video_data_samples
    assert torch.equal(frames[0].gt_instances.bboxes, frames[1].gt_instances.bboxes)
    sample = batches.detection(3, proposals=True)["data_samples"][0]
    assert len(sample.proposals) == 5 * len(sample.gt_instances)
    assert int(sample.gt_instances.labels.max()) < 3
