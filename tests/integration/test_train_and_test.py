"""A detector is trained and tested, by the tools as processes."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import mmdet
import mmengine
import pytest
import torch

import mmpvt
from helpers import ROOT, environment


def test_what_a_work_directory_ends_with(trained: Path):
    assert {"epoch_1.pth", "epoch_2.pth", "last_checkpoint", "tiny.py"} <= {
        path.name for path in trained.iterdir()
    }
    (log,) = trained.glob("*/*.log")
    assert re.search(r"coco/bbox_mAP: \d\.\d+", log.read_text())
    (scalars,) = trained.glob("*/vis_data/scalars.json")
    losses = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert sum("loss" in line for line in losses) == 8
    assert list(trained.glob("*/vis_data/events.out.tfevents.*"))
    (picture,) = (trained / "pictures").iterdir()
    assert cv2.imread(str(picture)).std() > 10


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # between MLflow and SQLAlchemy
@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_loggers(
    name: str, tmp_path: Path, shapes: Path, tiny_config: Path, monkeypatch, call_tool
):
    """Neither is among the tests' requirements; without a network."""
    pytest.importorskip(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    args = ("--data-root", shapes, "--work-dir", tmp_path, "--loggers", name, "--val-loss")
    ended = call_tool("train.py", tiny_config, *args)
    assert ended.code == 0, ended.out + ended.err
    if name == "wandb":
        assert list(tmp_path.glob("*/vis_data/wandb/offline-run-*/*.wandb"))
        return
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        metrics = {row[0] for row in database.execute("select key from metrics")}
        assert {"loss", "coco/bbox_mAP", "val/loss"} <= metrics
        ((status,),) = database.execute("select status from runs")
        assert status == "FINISHED"


def test_tested_with_results_and_pictures(
    tmp_path: Path, shapes: Path, tiny_config: Path, trained: Path, run_tool
):
    ended = run_tool(
        "test.py",
        tiny_config,
        trained / "epoch_2.pth",
        *("--data-root", shapes, "--work-dir", tmp_path / "work"),
        *("--out", tmp_path / "results.pkl", "--show-dir", tmp_path / "show"),
    )
    assert ended.code == 0, ended.out + ended.err
    trained_log = next(trained.glob("*/*.log")).read_text()
    score = re.compile(r"coco/bbox_mAP: (\S+)")
    assert score.search(ended.out)[1] == score.search(trained_log)[1]
    results = pickle.loads((tmp_path / "results.pkl").read_bytes())  # our own, just written
    assert len(results) == 4 and len(results[0]["pred_instances"]["bboxes"])
    assert len(list((tmp_path / "show").glob("*.jpg"))) == 4
    assert (tmp_path / "work" / "pictures" / "test.jpg").is_file()


def test_test_time_augmentation(
    tmp_path: Path, shapes: Path, tiny_config: Path, trained: Path, call_tool
):
    ended = call_tool(
        "test.py",
        tiny_config,
        trained / "epoch_2.pth",
        *("--data-root", shapes, "--work-dir", tmp_path / "work", "--tta"),
    )
    assert ended.code == 0, ended.out + ended.err
    assert list(tmp_path.glob("work/*/*.json"))


def test_same_seed_same_run(
    tmp_path: Path, shapes: Path, tiny_config: Path, trained: Path, run_tool
):
    args = (tiny_config, "--data-root", shapes, "--work-dir", tmp_path, "--seed", 0)
    ended = run_tool("train.py", *args, fresh=True)
    assert ended.code == 0, ended.out + ended.err
    ours, theirs = (
        mmpvt.checkpoint.load_checkpoint(folder / "epoch_2.pth")["state_dict"]
        for folder in (tmp_path, trained)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.fixture
def run_script(shapes: Path, tiny_config: Path) -> Callable[..., str]:
    """Runs a shell script of tools/ on two processes."""

    def run(script: str, *args: object) -> str:
        done = subprocess.run(
            ["bash", ROOT / "tools" / script, tiny_config, *map(str, args), "--data-root", shapes],
            env={**environment(), "PYTHON": sys.executable, "PORT": "29617"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_two_processes_train(tmp_path: Path, run_script):
    epochs = ("--cfg-options", "train_cfg.max_epochs=1")
    out = run_script("dist_train.sh", 2, "--work-dir", tmp_path, *epochs)
    assert (tmp_path / "epoch_1.pth").is_file()
    assert re.search(r"Epoch\(train\) +\[1\]\[2/2\]", out)  # half the iterations each


@pytest.mark.full
def test_two_processes_test(tmp_path: Path, trained: Path, run_script):
    out = run_script("dist_test.sh", trained / "epoch_2.pth", 2, "--work-dir", tmp_path)
    alone = next(trained.glob("*/*.log")).read_text()
    score = re.compile(r"coco/bbox_mAP: (\S+)")
    assert score.search(out)[1] == score.search(alone)[1]


def test_mmdetections_own_tool(tmp_path: Path, shapes: Path, tiny_config: Path):
    """``custom_imports`` in the config is all that it needs."""
    tool = Path(mmdet.__file__).parent / ".mim" / "tools" / "train.py"
    options = [f"{split}_dataloader.dataset.data_root={shapes}" for split in ("train", "val")]
    options.append(f"val_evaluator.ann_file={shapes}/annotations/instances_val2017.json")
    done = subprocess.run(
        [sys.executable, tool, tiny_config, "--work-dir", tmp_path, "--cfg-options", *options],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"coco/bbox_mAP: \d\.\d+", done.stdout)
    checkpoint = mmpvt.checkpoint.load_checkpoint(tmp_path / "epoch_2.pth")
    assert "block1.0.attn.q.weight" in " ".join(checkpoint["state_dict"])
    assert mmengine.Config.fromfile(tmp_path / "tiny.py").model.backbone.type.startswith("mmpvt.")


@pytest.fixture(scope="module")
def coco_config(tmp_path_factory: pytest.TempPathFactory, tiny_config: Path) -> Path:
    path = tmp_path_factory.mktemp("configs") / "coco.py"
    base = ROOT / "configs" / "retinanet_pvt_t_fpn_1x_coco.py"
    path.write_text(
        f"""
_base_ = "{base}"
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=(8, 16, 20, 32), depths=(1, 1, 1, 1)), init_cfg=None
    ),
    neck=dict(in_channels=[8, 16, 20, 32], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1),
    test_cfg=dict(score_thr=0.0, max_per_img=20),
)
_base_.train_pipeline[2].scale = (96, 96)
_base_.test_pipeline[1].scale = (96, 96)
train_dataloader = dict(
    batch_size=8, num_workers=1, dataset=dict(pipeline=_base_.train_pipeline, indices=32)
)
val_dataloader = dict(
    batch_size=8, num_workers=1, dataset=dict(pipeline=_base_.test_pipeline, indices=32)
)
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=1)
"""
    )
    return path


def test_real_images(tmp_path: Path, coco_mini: Path, coco_config: Path, run_tool):
    args = ("--data-root", coco_mini, "--work-dir", tmp_path)
    trained = run_tool("train.py", coco_config, *args)
    assert trained.code == 0, trained.out + trained.err
    tested = run_tool("test.py", coco_config, tmp_path / "epoch_1.pth", *args)
    assert tested.code == 0, tested.out + tested.err
    for ended in (trained, tested):
        assert re.search(r"\[4/4\] +coco/bbox_mAP: 0\.", ended.out)
