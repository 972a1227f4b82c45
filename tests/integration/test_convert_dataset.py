"""tools/convert_dataset.py, run as a user would."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from PIL import Image

from annotated import yolo
from mmpvt.datasets.formats import reading


def test_shapes_to_yolo_and_back(call_tool, shapes: Path, tmp_path: Path):
    source = shapes / "annotations" / "instances_train2017.json"
    yolo, coco = tmp_path / "yolo", tmp_path / "coco"
    ended = call_tool("convert_dataset.py", source, yolo, "--to", "yolo", "--val-fraction", 0.25)
    assert ended.code == 0, ended.err
    assert "COCO, 8 images" in ended.out and "into train 6, val 2" in ended.out
    ended = call_tool("convert_dataset.py", yolo / "data.yaml", coco, "--to", "coco")
    assert ended.code == 0, ended.err
    before = json.loads(source.read_text())
    read = [
        CocoDataset(
            data_root=str(coco),
            ann_file=f"annotations/instances_{split}.json",
            data_prefix=dict(img=""),
            metainfo=dict(classes=[c["name"] for c in before["categories"]]),
            pipeline=[],
        )
        for split in ("train", "val")
    ]
    found = {Path(one["img_path"]).name: one for data in read for one in map(data.get_data_info,
             range(len(data)))}  # fmt: skip
    for image in before["images"]:
        wanted = [a for a in before["annotations"] if a["image_id"] == image["id"]]
        instances = found[Path(image["file_name"]).name]["instances"]
        assert len(instances) == len(wanted)
        assert Path(found[Path(image["file_name"]).name]["img_path"]).is_file()
    masks = tmp_path / "masks"
    ended = call_tool("convert_dataset.py", source, masks, "--to", "masks")
    assert ended.code == 0, ended.err
    first = np.asarray(Image.open(next((masks / "masks").rglob("*.png"))))
    assert 0 < first.max() <= len(before["categories"])


def test_not_into_the_data_itself(call_tool, tmp_path: Path):
    yolo(tmp_path / "mine")
    for out in ("mine/out", "mine/images/../labels/out"):
        ended = call_tool("convert_dataset.py", tmp_path / "mine", tmp_path / out, "--to", "coco")
        assert "whose data it would be part of: name a folder outside" in ended.one_sentence()
        assert not (tmp_path / out).exists()


def test_mistakes(call_tool, shapes: Path, tmp_path: Path):
    out = tmp_path / "out"
    ended = call_tool("convert_dataset.py", tmp_path / "none", out, "--to", "coco")
    assert "there is no" in ended.one_sentence()
    ended = call_tool("convert_dataset.py", shapes, shapes, "--to", "coco")
    assert "exists: name a new folder" in ended.one_sentence()
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "a" / "a.png")
    (tmp_path / "a" / "a.txt").write_text("0 2 2 1 1\n")
    ended = call_tool("convert_dataset.py", tmp_path / "a", out, "--to", "coco", "--classes", "x")
    assert "a.txt, line 1" in ended.one_sentence()
    assert "--on-bad-data skip" in ended.err and not out.exists()


@pytest.mark.parametrize("tool", ["convert_dataset.py", "train.py"])
def test_an_interrupted_opening_leaves_nothing(
    tool: str, shapes: Path, tiny_config: Path, tmp_path: Path, call_tool, monkeypatch
):
    """Of an archive, which is unpacked first."""
    archive = shutil.make_archive(str(tmp_path / "data"), "zip", shapes)
    out = tmp_path / "new" / "out"
    args = (archive, out, "--to", "coco", "--format", "coco")
    if tool == "train.py":
        args = (tiny_config, "--data", archive, "--data-format", "coco", "--work-dir", out)
    unpacked = []

    def interrupted(path: Path) -> None:
        unpacked.append(path.is_file())
        raise KeyboardInterrupt

    monkeypatch.setattr(reading, "image_size", interrupted)
    ended = call_tool(tool, *args)
    assert ended.code == 130 and ended.err.startswith("interrupted"), ended.err
    assert unpacked == [True] and not out.parent.exists()
