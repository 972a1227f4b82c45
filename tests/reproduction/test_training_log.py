"""Logs of MMEngine and of MMDetection 2, as they write them."""

from __future__ import annotations

import json
from pathlib import Path

from mmpvt.reproduction.training_log import find_log, read_log, read_run


def write(path: Path, *lines: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines))
    return path


def test_scalars_of_mmengine(tmp_path: Path):
    rows = [dict(lr=1e-4, loss=1 / step, iter=step, epoch=1, step=step) for step in (50, 100)]
    scores = [{"coco/bbox_mAP": 0.2, "step": 1}, {"coco/bbox_mAP": 0.3, "step": 2}]
    found = read_log(write(tmp_path / "scalars.json", *rows, *scores, '{"loss": 1, "cut'))
    assert found["loss"] == [(50, 0.02), (100, 0.01)]
    assert found["scores"] == {"bbox_mAP": [(1, 0.2), (2, 0.3)]}


def test_a_run_that_was_resumed(tmp_path: Path):
    def rows(*steps: int) -> list[dict]:
        return [dict(lr=1e-4, loss=float(step), iter=step, step=step) for step in steps]

    scored = {"coco/bbox_mAP": 0.2, "val_loss": 3.0, "loss_cls": 1.0, "step": 1}
    write(tmp_path / "1" / "vis_data" / "scalars.json", *rows(10, 20), scored, *rows(30))
    write(tmp_path / "2" / "vis_data" / "scalars.json", *rows(30, 40), {"coco/bbox_mAP": 0.4})
    write(tmp_path / "3" / "vis_data" / "scalars.json", {"coco/bbox_mAP": 0.9})  # a test
    found = read_run(tmp_path)
    assert found["loss"] == [(10, 10), (20, 20), (30, 30), (40, 40)]
    assert found["scores"] == {"bbox_mAP": [(20, 0.2), (40, 0.4)]}
    assert found["val_loss"] == [(20, 3.0)]
    assert read_run(tmp_path / "3") is None


def test_validations_between_the_logged_iterations(tmp_path: Path):
    """Of a short training, before the first of them, too; the second resumes from iteration 25."""

    def rows(*steps: int) -> list[dict]:
        return [
            dict(lr=1e-4, loss=1.0, iter=n, step=n) if n % 20 == 0 else {"mIoU": n, "step": n}
            for n in steps
        ]

    write(tmp_path / "1" / "vis_data" / "scalars.json", *rows(10, 20, 30, 39))
    write(tmp_path / "2" / "vis_data" / "scalars.json", *rows(30, 40, 50))
    found = read_run(tmp_path)
    assert found["loss"] == [(20, 1), (40, 1)]
    assert found["scores"] == {"mIoU": [(10, 0.1), (30, 0.3), (50, 0.5)]}


def test_a_validation_that_a_resumed_run_begins_with(tmp_path: Path):
    """Of the epoch after which it was killed."""

    def row(step: int) -> dict:
        return dict(lr=1e-4, loss=1.0, iter=step, step=step)

    scored = [{"coco/bbox_mAP": 0.1 * epoch, "step": epoch} for epoch in (1, 2, 3)]
    write(tmp_path / "1" / "vis_data" / "scalars.json", row(4), scored[0], row(8))
    write(tmp_path / "2" / "vis_data" / "scalars.json", scored[1], row(12), scored[2])
    found = read_run(tmp_path)
    assert found["loss"] == [(4, 1), (8, 1), (12, 1)]
    assert [step for step, _ in found["scores"]["bbox_mAP"]] == [4, 8, 12]


def test_scores_of_one_percent_and_less(tmp_path: Path):
    """Of 150 classes, a first validation has them."""
    row = dict(lr=1e-4, loss=1.0, iter=10, step=10)
    scalars = write(tmp_path / "1" / "vis_data" / "scalars.json", row, {"mIoU": 0.8, "step": 10})
    assert read_run(tmp_path)["scores"] == {"mIoU": [(10, 0.008)]}
    assert read_log(scalars)["scores"] == {"mIoU": [(1, 0.008)]}
    train = "mmseg - INFO - Iter [50/99]\tlr: 1e-04, loss: 2.5"
    for line, share in (
        ("mmengine - INFO - Iter(val) [ 10/100]    aAcc: 7.0  mIoU: 0.8  mAcc: 4.0", 0.008),
        ("mmengine - INFO - Epoch(val) [2][10/10]    aAcc: 7.0  mIoU: 0.8  mAcc: 4.0", 0.008),
        ("mmseg - INFO - Iter(val) [10]\taAcc: 0.9, mIoU: 0.8, mAcc: 0.7", 0.8),
    ):
        found = read_log(write(tmp_path / "a.log", train, line))
        assert found["scores"] == {"mIoU": [(1, share)]}
    old = dict(mode="train", iter=50, loss=2.5), dict(mode="val", iter=10, mIoU=0.8)
    found = read_log(write(tmp_path / "x.log.json", *old))
    assert found["scores"] == {"mIoU": [(1, 0.8)]}


def test_json_of_mmdetection_2_counts_iterations_through_epochs(tmp_path: Path):
    train = [
        dict(mode="train", epoch=epoch, iter=number, loss=3.0 / epoch)
        for epoch in (1, 2)
        for number in (50, 100)
    ]
    lines = (dict(env_info="…"), *train, dict(mode="val", epoch=2, iter=9, bbox_mAP=0.1))
    found = read_log(write(tmp_path / "x.log.json", *lines))
    assert found["loss"] == [(50, 3.0), (100, 3.0), (150, 1.5), (200, 1.5)]
    assert found["scores"] == {"bbox_mAP": [(1, 0.1)]}


def test_text_of_both(tmp_path: Path):
    new = "11/22 12:00:00 - mmengine - INFO - Epoch(train) [1][50/99]  lr: 1e-04  loss: 2.5"
    other = "mmengine - INFO - Iter(val) [10/10]    aAcc: 70.0  mIoU: 35.5  mAcc: 40.0"
    assert read_log(write(tmp_path / "a.log", new, other)) == dict(
        file="a.log", loss=[(50, 2.5)], scores={"mIoU": [(1, 0.355)]}
    )
    old = [
        f"2021-05-01 00:00:00,000 - mmdet - INFO - Epoch [{epoch}][50/99]\tlr: 1.978e-05, "
        f"eta: 1 day, loss_cls: 1.0, loss: {3 - epoch}.5"
        for epoch in (1, 2)
    ]
    assert read_log(write(tmp_path / "b.log", *old))["loss"] == [(50, 2.5), (100, 1.5)]
    assert read_log(write(tmp_path / "c.log", "nothing")) is None


def test_a_long_log_is_thinned(tmp_path: Path):
    rows = [dict(mode="train", iter=i, loss=float(i % 2)) for i in range(1, 1201)]
    loss = read_log(write(tmp_path / "x.json", *rows))["loss"]
    assert len(loss) == 300 and loss[-1] == (1200, 0.5)


def test_finding_one(tmp_path: Path):
    config = "retinanet_pvt_s_fpn_1x_coco"
    other = write(tmp_path / f"{config}_640.log.json", "x" * 100)
    assert find_log(tmp_path, "any", config) is None
    assert find_log(tmp_path, f"{config}_640", f"{config}_640") == other
    run = tmp_path / config / "2026"
    write(run / "2026.log", "x" * 1000)
    scalars = write(run / "vis_data" / "scalars.json", "x")
    assert find_log(tmp_path, "any", config) == scalars
