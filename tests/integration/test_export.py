"""A trained model is exported and run as a user would: without PyTorch."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_masks

from helpers import ROOT, Ended

WITHOUT_TORCH = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("LOADED", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def run_onnx(*args: object) -> Ended:
    """tools/run_onnx.py in a process that says what it imported."""
    line = [sys.executable, "-c", WITHOUT_TORCH, ROOT / "tools" / "run_onnx.py", *args]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    env.pop("PYTHONPATH", None)
    done = subprocess.run(
        list(map(str, line)), env=env, cwd="/", capture_output=True, text=True, check=False
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def sure(trained: Path, tmp_path_factory) -> Path:
    """A checkpoint whose scores are higher than two epochs make them, so that there are some."""
    path = tmp_path_factory.mktemp("sure") / "sure.pth"
    checkpoint = torch.load(trained / "epoch_2.pth", weights_only=False)  # our own, just written
    checkpoint["state_dict"]["bbox_head.retina_cls.bias"] += 4
    torch.save(checkpoint, path)
    return path


@pytest.fixture(scope="module")
def exported(sure: Path, tiny_config: Path, tmp_path_factory, run_tool) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    ended = run_tool("export.py", tiny_config, sure, "--out", path, "--shape", 64, 64)
    assert ended.code == 0, ended.out + ended.err
    assert re.search(r"\b0 of [1-9]\d* detections over 0\.05 are missing;", ended.out)
    return path


def test_runs_without_pytorch(exported: Path, shapes: Path, tmp_path: Path):
    photos = shapes / "images" / "validation"
    photos = photos if photos.is_dir() else next(p.parent for p in shapes.rglob("*.png"))
    ended = run_onnx(exported, photos, "--out", tmp_path / "results", "--score", 0)
    assert ended.code == 0, ended.err
    (loaded,) = (line for line in ended.out.splitlines() if line.startswith("LOADED"))
    assert "onnxruntime" in loaded.split()
    heavy = ("torch", "mmpvt", "mmcv", "mmengine", "mmdet", "mmseg", "cv2", "onnx", "onnx_ir")
    assert not set(heavy) & set(loaded.split())

    found = json.loads((tmp_path / "results" / "predictions.json").read_text())
    assert found
    assert {"image_id", "category_id", "bbox", "score"} <= found[0].keys()
    pictures = sorted((tmp_path / "results" / "pictures").glob("*.jpg"))
    images = [p for p in photos.iterdir() if p.suffix in (".png", ".jpg")]
    assert len(pictures) == len(images)
    assert cv2.imread(str(pictures[0])).std() > 10


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("model.onnx", ("--batch", "dynamic", "--runtime", "any")),
        pytest.param("model.xml", (), marks=pytest.mark.full),
        pytest.param("model.pt2", ("--batch", 2), marks=pytest.mark.full),
        pytest.param("model.pt2", ("--compile", "--without-nms"), marks=pytest.mark.full),
    ],
)
def test_other_files_find_the_same(
    name: str,
    options: tuple,
    exported: Path,
    sure: Path,
    tiny_config: Path,
    shapes: Path,
    tmp_path: Path,
    run_tool,
):
    """Batches, OpenVINO's and PyTorch's files give what the image's own form gives."""
    path = tmp_path / name
    ended = run_tool(*("export.py", tiny_config, sure, "--out", path, "--shape", 64, 64, *options))
    assert ended.code == 0, ended.err
    found = []
    for model, out in ((exported, "wanted"), (path, "found")):
        count = 3 if "dynamic" in options and model == path else 2 if 2 in options else 1
        batch = ("--batch", count if model == path else 1)
        args = (shapes / "val2017", "--out", tmp_path / out, "--score", 0, *batch)
        ended = run_onnx(model, *args)
        assert ended.code == 0, ended.err
        found.append(json.loads((tmp_path / out / "predictions.json").read_text()))
    wanted, ours = found
    assert len(ours) == len(wanted) > 10
    for one in wanted:
        assert any(
            one["image_id"] == other["image_id"]
            and one["category_id"] == other["category_id"]
            and abs(one["score"] - other["score"]) < 1e-3
            and np.allclose(one["bbox"], other["bbox"], atol=0.5)
            for other in ours
        ), one


def test_broken_images_are_skipped(exported: Path, tmp_path: Path):
    photos = tmp_path / "photos" / "deep"
    photos.mkdir(parents=True)
    (photos / "text.jpg").write_text("no image")
    Image.fromarray(np.full((50, 80), 90, np.uint8)).save(photos / "grey.png")
    ended = run_onnx(exported, tmp_path / "photos", "--out", tmp_path / "results")
    assert ended.code == 0, ended.err
    assert "text.jpg: it can't be read as an image" in ended.err
    assert (tmp_path / "results" / "pictures" / "grey.jpg").is_file()


def test_careless_arguments_of_run_onnx(exported: Path, tmp_path: Path):
    other = tmp_path / "other.onnx"
    other.write_text("no model")
    (tmp_path / "empty").mkdir()
    plain = tmp_path / "plain.onnx"
    model = onnx.load(exported)
    del model.metadata_props[:]
    onnx.save(model, plain)
    for args, sentence in (
        ((tmp_path / "none.onnx", tmp_path), "no model at"),
        ((other, tmp_path), "can't be read as an ONNX model"),
        ((plain, tmp_path), "take one that tools/export.py wrote"),
        ((exported, tmp_path / "nowhere"), "there is no file or folder"),
        ((exported, tmp_path / "empty"), "no images in"),
    ):
        ended = run_onnx(*args, "--out", tmp_path / "results")
        assert sentence in ended.one_sentence()
    assert not (tmp_path / "results").exists()


def test_benchmark(exported: Path, sure: Path, tiny_config: Path, shapes: Path, run_tool):
    annotations = shapes / "annotations" / "instances_val2017.json"
    args = (tiny_config, sure, exported, "--images", shapes / "val2017")
    ended = run_tool(
        *("benchmark_onnx.py", *args, "--annotations", annotations, "--runs", 1, "--threads", 1),
        *("--runtimes", "onnxruntime", "openvino"),
    )
    assert ended.code == 0, ended.err
    assert "RetinaNet, 4 images, 1 threads, medians of 1 runs" in ended.out
    pytorch, *ours = (
        [cell.strip() for cell in line.split("|")[1:-1]] for line in ended.out.splitlines()[-3:]
    )
    assert pytorch[0] == "PyTorch" and float(pytorch[2]) > 0
    for row, runtime in zip(ours, ("onnxruntime", "openvino"), strict=True):
        assert row[:2] == [f"model.onnx, {runtime}", "float32"] and float(row[2]) > 0
        assert abs(float(pytorch[3]) - float(row[3])) < 0.1
        assert row[4].startswith("0 of ")
    ended = run_tool("benchmark_onnx.py", *args[:3], "--images", shapes / "none", timeout=60)
    assert "there is no such file" in ended.one_sentence()


def test_masks_in_cocos_run_lengths():
    encode_runs = runpy.run_path(str(ROOT / "tools" / "run_onnx.py"))["encode_runs"]
    rng = np.random.default_rng(0)
    for share in (0, 0.02, 0.5, 0.98, 1):
        for _ in range(20):
            mask = rng.random(rng.integers(1, 60, 2)) < share
            wanted = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
            assert encode_runs(mask) == wanted.decode()


def test_careless_arguments_of_export(trained: Path, tiny_config: Path, tmp_path: Path, call_tool):
    checkpoint = trained / "epoch_2.pth"
    out = tmp_path / "model.onnx"
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty").mkdir()
    for args, sentence in (
        (("--out", tmp_path / "model.pth"), "--out takes a file ending in .onnx, .xml or .pt2"),
        (("--out", tmp_path / "none" / "model.onnx"), "there is no folder"),
        (("--out", out, "--shape", 8, 64), "at least 32 pixels"),
        (("--out", out, "--runtime", "tensorrt"), "add --shape HEIGHT WIDTH"),
        (("--out", tmp_path / "model.pt2"), "a file for pytorch takes images of one size"),
        (("--out", out, "--runtime", "any", "--int8", tmp_path), "is onnxruntime's, not any's"),
        (("--out", tmp_path / "model.xml", "--runtime", "any"), "--runtime any takes an .onnx"),
        (("--out", out, "--compile"), "--compile is for a .pt2 file"),
        (("--out", out, "--without-nms"), "add --batch N"),
        (("--out", out, "--batch", "0"), "--batch takes a number from 1 to 256, or dynamic, not 0"),
        (("--out", out, "--check", tmp_path / "none.jpg"), "there is no such file"),
        (("--out", out, "--int8", tmp_path / "text.jpg"), "can't be read as an image"),
        (("--out", out, "--int8", tmp_path / "empty"), "no images under"),
        (
            ("--out", out, "--cfg-options", "model.test_cfg.nms.type=nms_match"),
            "nms_match in the model's test_cfg can't be exported",
        ),
    ):
        ended = call_tool("export.py", tiny_config, checkpoint, *args)
        assert sentence in ended.one_sentence()
    missing = call_tool("export.py", tiny_config, tmp_path / "none.pth", "--out", out)
    assert "no checkpoint at" in missing.one_sentence()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "text.jpg"]
