"""A segmenter is trained and tested by the same tools."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import cv2
import pytest

from helpers import ROOT

TINY = """
_base_ = "{base}"
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=(8, 16, 20, 32), depths=(1, 1, 1, 1))
    ),
    neck=dict(in_channels=[8, 16, 20, 32], out_channels=16),
    decode_head=dict(in_channels=[16, 16, 16, 16], channels=16),
)
train_dataloader = dict(batch_size=2, num_workers=1)
val_dataloader = dict(num_workers=1)
test_dataloader = dict(num_workers=1)
train_cfg = dict(max_iters=4, val_interval=4)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=4))
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "segmenter.py"
    path.write_text(TINY.format(base=ROOT / "configs" / "fpn_pvt_v2_b0_shapes.py"))
    return path


def test_trained_and_tested(tmp_path: Path, shapes: Path, config: Path, run_tool):
    args = ("--data-root", shapes, "--work-dir", tmp_path / "work")
    trained = run_tool("train.py", config, *args)
    assert trained.code == 0, trained.out + trained.err
    assert re.search(r"mIoU: \d", trained.out)
    picture = cv2.imread(str(tmp_path / "work" / "pictures" / "iter_4.jpg"))
    assert picture is not None and picture.std() > 10

    maps = ("--out", tmp_path / "maps")
    tested = run_tool("test.py", config, tmp_path / "work" / "iter_4.pth", *args, *maps)
    assert tested.code == 0, tested.out + tested.err
    assert re.search(r"mIoU: \d", tested.out)
    written = sorted((tmp_path / "maps").glob("*.png"))
    assert len(written) == 4
    labels = cv2.imread(str(written[0]), cv2.IMREAD_UNCHANGED)
    assert labels.shape == (64, 64)


def test_label_map_missing(tmp_path: Path, shapes: Path, config: Path, call_tool):
    root = Path(shutil.copytree(shapes, tmp_path / "broken"))
    (root / "annotations/training/000000000003.png").unlink()
    args = ("--data-root", root, "--work-dir", tmp_path / "work")
    sentence = call_tool("train.py", config, *args).one_sentence()
    assert "1 of 8 files for" in sentence and "000000000003.png" in sentence
