"""Checkpoints of kinds of models, tested and reported on in one go; stopped, and gone on."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import ROOT, SHARED, need

IMAGES = {10995, 12748, 13004, 13597, 14831, 14888}  # of coco_mini: few, large objects
RETINANET, MASK_RCNN, FPN = (
    "retinanet_pvt_v2_b0_fpn_1x_coco",
    "mask_rcnn_pvt_v2_b0_fpn_1x_coco",
    "fpn_pvt_v2_b0_ade20k_40k",
)
SMALL = """
_base_ = "{base}"
model = dict(
    backbone=dict(
        init_cfg=None,
        drop_path_rate=0.0,
        arch=dict(
            _delete_=True,
            embed_dims=(16, 32, 40, 64),
            depths=(1, 1, 1, 1),
            mlp_ratios=(2, 2, 2, 2),
        ),
    ),
    neck=dict(in_channels=[16, 32, 40, 64], out_channels=32),
    {heads},
)
load = [
    dict(type="LoadImageFromFile"),
    {annotations},
    dict(type="Resize", scale=(128, 128), keep_ratio=True),
]
train_dataloader = dict(
    batch_size=3,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(pipeline=[*load, dict(type="{pack}")]),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(pipeline=[load[0], load[2], load[1], dict(type="{pack}", meta_keys={keys})]),
)
test_dataloader = val_dataloader
train_cfg = dict(_delete_=True, {loop})
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=2e-3),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = []
default_hooks = dict(logger=dict(interval=2), checkpoint=dict(interval=100))
"""
KEYS = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "reduce_zero_label")
DETECTION = dict(
    pack="PackDetInputs",
    keys=KEYS[:-1],
    loop='type="EpochBasedTrainLoop", max_epochs=12, val_interval=12',
)
KINDS = {
    RETINANET: dict(
        DETECTION,
        heads="bbox_head=dict(in_channels=32, feat_channels=32, stacked_convs=1)",
        annotations='dict(type="LoadAnnotations", with_bbox=True)',
    ),
    MASK_RCNN: dict(
        DETECTION,
        heads="""rpn_head=dict(in_channels=32, feat_channels=32),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, fc_out_channels=64),
        mask_roi_extractor=dict(out_channels=32),
        mask_head=dict(num_convs=1, in_channels=32, conv_out_channels=32),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=100),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=50))""",
        annotations='dict(type="LoadAnnotations", with_bbox=True, with_mask=True)',
    ),
    FPN: dict(
        heads="""data_preprocessor=dict(size=(128, 128)),
    decode_head=dict(in_channels=[32] * 4, channels=32)""",
        annotations='dict(type="LoadAnnotations", reduce_zero_label=True)',
        pack="PackSegInputs",
        keys=KEYS[1:],
        loop='type="IterBasedTrainLoop", max_iters=24, val_interval=24',
    ),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Six images of COCO and four of ADE20K, each for training and validation alike."""
    root = tmp_path_factory.mktemp("real")
    source = need(SHARED / "data" / "coco_mini")
    truth = json.loads((source / "annotations" / "instances_val2017.json").read_text())
    for part, key in (("images", "id"), ("annotations", "image_id")):
        truth[part] = [one for one in truth[part] if one[key] in IMAGES]
    coco = root / "coco"
    (coco / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (coco / "annotations" / f"instances_{split}.json").write_text(json.dumps(truth))
        (coco / split).symlink_to(source / "val2017")
    source, ade = need(SHARED / "data" / "ade_mini"), root / "ade"
    for kind, ending in (("images", "jpg"), ("annotations", "png")):
        for split in ("training", "validation"):
            (ade / kind / split).mkdir(parents=True)
            for path in sorted((source / kind / "validation").glob(f"*.{ending}"))[:4]:
                (ade / kind / split / path.name).symlink_to(path)
    return SimpleNamespace(coco=coco, ade=ade)


@pytest.fixture
def models(data, tmp_path: Path, call_tool, request) -> SimpleNamespace:
    """Configs by name, and a folder of checkpoints that know some of the images by heart."""
    names = getattr(request, "param", (MASK_RCNN, FPN))
    checkpoints, logs, configs = (tmp_path / name for name in ("checkpoints", "logs", "configs"))
    for folder in (checkpoints, logs, configs):
        folder.mkdir()
    for name in names:
        config = configs / f"{name}.py"
        config.write_text(SMALL.format(base=ROOT / "configs" / f"{name}.py", **KINDS[name]))
        root = data.ade if name == FPN else data.coco
        work = logs / name
        ended = call_tool("train.py", config, "--data-root", root, "--work-dir", work, "--seed", 0)
        assert ended.code == 0, ended.err
        last = Path((work / "last_checkpoint").read_text())
        shutil.move(last, checkpoints / f"{name}_20261122-0a1b2c3d.pth")
    mapped = [f"{name}_20261122-0a1b2c3d={configs / name}.py" for name in names]
    return SimpleNamespace(checkpoints=checkpoints, logs=logs, mapped=mapped, configs=configs)


def run_of(page: Path) -> dict:
    """The record in the report of one run."""
    (record,) = json.loads(re.search(r'id="models">(.*?)</script>', page.read_text())[1])
    return record


def arguments(models: SimpleNamespace, data: SimpleNamespace, out: Path, *more: object) -> tuple:
    return (
        "reproduce.py",
        *("--checkpoints", models.checkpoints, "--coco", data.coco, "--ade", data.ade),
        *("--out", out, "--logs", models.logs, "--map", *models.mapped, *more),
    )


def test_the_whole_chain(data, models, tmp_path: Path, start_tool, call_tool):
    out = tmp_path / "report"
    (models.checkpoints / "retinanet_pvt_s_fpn_1x_coco.pth").write_bytes(b"PK\3\4 cut off")
    (models.checkpoints / "something_else.pth").write_bytes(b"")
    records = out / "models"
    first = start_tool(*arguments(models, data, out))
    first.wait_for(lambda: len(list(records.glob("*.json"))) == 1)
    first.kill()
    (kept,) = records.glob("*.json")
    before = kept.read_bytes()

    ended = call_tool(*arguments(models, data, out))
    assert ended.code == 1, ended.out + ended.err
    assert "tested before, on the same" in ended.out and "[1/2]" in ended.out
    assert "something_else: skipped, no config has such a name" in ended.out
    assert kept.read_bytes() == before
    found = {
        record["name"]: record
        for record in json.loads((out / "results.json").read_text())["models"]
    }
    broken = found.pop("retinanet_pvt_s_fpn_1x_coco")
    assert broken["status"] == "failed"
    assert "can't be read as a checkpoint: it is truncated" in broken["error"]
    assert found.pop("something_else")["status"] == "skipped"
    assert {record["config"] for record in found.values()} == {MASK_RCNN, FPN}

    for name, record in found.items():
        root = data.ade if record["config"] == FPN else data.coco
        config, work = models.configs / f"{record['config']}.py", tmp_path / "work" / name
        tested = call_tool(
            "report.py",
            *(config, models.checkpoints / f"{name}.pth"),
            *("--data-root", root, "--work-dir", work, "--logs", models.logs / record["config"]),
        )
        assert tested.code == 0, tested.err
        run = run_of(work / "report" / "index.html")
        assert f"the report is {work / 'report' / 'index.html'}" in tested.out
        assert run["metrics"] == record["metrics"] and run["training"]["loss"]
        counts = np.array(run["confusion"]["counts"])
        if record["config"] == MASK_RCNN:
            bbox = run["curves"]["bbox"]["classes"]
            assert counts[:-1].sum(1).tolist() == [one["objects"] for one in bbox]
        assert counts.trace() > 0 and len(run["gallery"]) > 0
        (summary,) = (one for one in run["data"] if "train" in one["splits"])
        assert summary["images"] == record["images"] and "error" not in summary
        (log,) = work.glob("*/*.json")
        scores = json.loads(log.read_text().splitlines()[-1])
        assert record["metrics"] == {key: scores[key] for key in record["metrics"]}
        assert record["images"] == (4 if record["config"] == FPN else len(IMAGES))
        assert record["images_per_second"] > 0 and record["gflops"] > 0
        assert record["training"]["loss"]
    by_config = {record["config"]: record for record in found.values()}
    detector = by_config[MASK_RCNN]
    assert list(detector["curves"]) == ["bbox", "segm"]
    for kind, curves in detector["curves"].items():
        assert 0.02 < curves["AP"] < 1, "neither nothing nor everything, or it would say little"
        assert detector["metrics"][f"coco/{kind}_mAP"] == pytest.approx(curves["AP"], abs=6e-4)
    assert detector["published"]["box_AP"] == 38.2
    segmenter = by_config[FPN]
    ious = [c["IoU"] for c in segmenter["classes"] if c["IoU"] is not None]
    assert segmenter["metrics"]["mIoU"] == pytest.approx(100 * np.mean(ious), abs=0.01)
    assert segmenter["metrics"]["mIoU"] > 1

    page = (out / "index.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 4
    table = (out / "results.md").read_text()
    assert "| params, M | GFLOPs | images/s | memory, GiB |" in table
    assert f"({detector['scores']['box_AP'] - 38.2:+.1f})" in table


@pytest.mark.full
@pytest.mark.parametrize("models", [(RETINANET,)], indirect=True)
def test_what_is_tested_again(data, models, tmp_path: Path, call_tool, start_tool):
    """Changed annotations are; the same data elsewhere are not. On two processes the numbers are
    the same."""
    out = tmp_path / "report"
    assert call_tool(*arguments(models, data, out)).code == 0
    (record,) = json.loads((out / "results.json").read_text())["models"]

    moved = SimpleNamespace(coco=tmp_path / "moved", ade=data.ade)
    shutil.copytree(data.coco, moved.coco, symlinks=True)
    again = call_tool(*arguments(models, moved, out))
    assert "tested before" in again.out and "[1/" not in again.out
    file = moved.coco / "annotations" / "instances_val2017.json"
    truth = json.loads(file.read_text())
    truth["annotations"][0]["bbox"][0] += 1
    file.write_text(json.dumps(truth))
    again = call_tool(*arguments(models, moved, out))
    assert "[1/1]" in again.out

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    twice = tmp_path / "twice"
    shared = dict(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    command = arguments(models, data, twice, "--launcher", "pytorch", "--device", "cpu")
    pair = [start_tool(*command, **shared, RANK=rank, LOCAL_RANK=rank) for rank in "01"]
    assert [process.wait() for process in pair] == [0, 0], pair[0].text
    assert not pair[1].text
    (other,) = json.loads((twice / "results.json").read_text())["models"]
    assert other["metrics"] == record["metrics"] and other["processes"] == 2
    assert other["curves"] == record["curves"] and other["images"] == record["images"]


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("models", [(FPN,)], indirect=True)
def test_ended_alone(data, models, number: signal.Signals, tmp_path: Path, start_tool):
    """The test that it has started ends, too."""
    run = start_tool(*arguments(models, data, tmp_path / "report"))
    log = tmp_path / "report" / "work"
    run.wait_for(lambda: list(log.glob("*/log_0.txt")))
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    os.kill(run.pid, number)
    end = time.monotonic() + 120
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < end
        time.sleep(0.1)
    assert run.wait() == (-9 if number == signal.SIGKILL else 143), run.text


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--map", "nothing=configs/retinanet_pvt_t_fpn_1x_coco.py"), "no checkpoint under"),
        (("--map", "a"), "--map: a is not NAME=CONFIG"),
        (("--map", "a=none.py"), "no config at none.py"),
        (("--logs", "none"), "--logs: there is no folder none"),
        (("--launcher", "pytorch"), "was not started by it"),
        (("--device", "gpu"), "--device: gpu is none of cpu, cuda, cuda:1"),
        (("--pictures", "-1"), "--pictures: -1 is not at least 0"),
    ],
)
def test_mistakes(more: tuple, expected: str, tmp_path: Path, call_tool):
    (tmp_path / "x.pth").write_bytes(b"")
    args = ("--checkpoints", tmp_path, "--out", tmp_path / "out", *more)
    assert expected in call_tool("reproduce.py", *args).one_sentence()
    assert not (tmp_path / "out").exists()


def test_mistakes_of_a_run_report(tmp_path: Path, call_tool):
    tool = ("report.py", f"configs/{RETINANET}.py", tmp_path / "none.pth")
    assert "no checkpoint at" in call_tool(*tool, "--work-dir", tmp_path / "w").one_sentence()
    assert "--logs: there is no folder" in call_tool(*tool, "--logs", "none").one_sentence()
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "index.html").write_text("mine")
    said = call_tool(*tool, "--out", tmp_path / "w").one_sentence()
    assert "index.html is not of an earlier run and isn't overwritten" in said
    assert (tmp_path / "w" / "index.html").read_text() == "mine"


def test_no_checkpoints(tmp_path: Path, call_tool):
    args = ("--checkpoints", tmp_path / "none", "--out", tmp_path / "out")
    assert "there is no folder" in call_tool("reproduce.py", *args).one_sentence()
    args = ("--checkpoints", tmp_path, "--out", tmp_path / "out")
    assert "no file under" in call_tool("reproduce.py", *args).one_sentence()


def test_a_report_that_cannot_be_written(tmp_path: Path, call_tool):
    for name in ("x.pth", "file"):
        (tmp_path / name).touch()
    args = ("--checkpoints", tmp_path, "--out", tmp_path / "file")
    assert "is a file: name a folder" in call_tool("reproduce.py", *args).one_sentence()
