"""A look at all of a config's data, as a user would take it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from helpers import ROOT, need


def test_well(shapes: Path, tiny_config: Path, tmp_path: Path, call_tool):
    ended = call_tool("check_data.py", tiny_config, "--data-root", shapes, "--out", tmp_path)
    assert ended.code == 0, ended.out + ended.err
    assert "8 images, 8 of them can be used" in ended.out
    assert ended.out.rstrip().endswith("all is well")
    assert Image.open(tmp_path / "data.png").width == 2400
    assert [one["data"] for one in json.loads((tmp_path / "data.json").read_text())] == [
        "train",
        "val, test",
    ]


@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_harm(
    kind: str, shapes: Path, tiny_config: Path, tiny_segmenter: Path, tmp_path: Path, call_tool
):
    root = shutil.copytree(shapes, tmp_path / "data")
    config, image = tiny_config, root / "train2017" / "000000000003.jpg"
    if kind == "segmenter":
        config, image = tiny_segmenter, root / "images" / "training" / "000000000003.jpg"
    image.unlink()
    image.write_bytes(b"no image")
    args = ("--data-root", root, "--out", tmp_path, "--workers", 2)
    ended = call_tool("check_data.py", config, *args)
    assert ended.code == 1, ended.out + ended.err
    assert "error: images that can't be read: 1" in ended.out
    assert ended.out.rstrip().endswith("1 error")
    assert f"{image} can't be read as an image" in (tmp_path / "data.json").read_text()


@pytest.mark.parametrize(
    ("config", "data"),
    [("retinanet_pvt_t_fpn_1x_coco", "coco_mini"), ("fpn_pvt_t_ade20k_40k", "ade_mini")],
)
def test_real_data(config: str, data: str, tmp_path: Path, call_tool):
    root = need(ROOT.parent / "shared" / "data" / data)
    path = ROOT / "configs" / f"{config}.py"
    args = ("--data-root", root, "--out", tmp_path, "--splits", "val")
    ended = call_tool("check_data.py", path, *args)
    assert ended.code == 0, ended.out + ended.err


def test_mistakes(tiny_config: Path, shapes: Path, tmp_path: Path, call_tool):
    ended = call_tool("check_data.py", tiny_config, "--data-root", tmp_path / "no")
    assert "there is no such folder" in ended.one_sentence()
    ended = call_tool("check_data.py", tmp_path / "no.py")
    assert "no config at" in ended.one_sentence()
    (tmp_path / "file").write_text("precious")
    args = ("--data-root", shapes, "--out", tmp_path / "file")
    assert "is a file" in call_tool("check_data.py", tiny_config, *args).one_sentence()
    assert (tmp_path / "file").read_text() == "precious"
