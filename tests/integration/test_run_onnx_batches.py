"""tools/run_onnx.py without the graph's help: resizing, NMS and masks in NumPy, in batches, and on
OpenVINO as on onnxruntime."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import mmcv
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import batched_nms
from PIL import Image

from helpers import ROOT, Ended
from mmpvt.deploy.forms import paste_masks
from onnx_files import SHARES, save, save_batched

SCRIPT = ROOT / "tools" / "run_onnx.py"
ours = SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def run_onnx(*args: object, start: str = "") -> Ended:
    """The script as a process, after ``start``."""
    code = f"{start}\nimport runpy, sys; runpy.run_path(sys.argv[0], run_name='__main__')"
    boot = f"import sys; sys.argv = sys.argv[1:]\n{code}"
    line = [sys.executable, "-c", boot, str(SCRIPT), *map(str, args)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=120, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def photos(folder: Path, *sizes: tuple[int, int]) -> Path:
    folder.mkdir()
    for i, (width, height) in enumerate(sizes):
        noise = np.random.default_rng(i).integers(0, 2, (height, width, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    return folder


# --- as OpenCV, Pillow, PyTorch and MMCV do it


def test_resizing_gives_opencvs_bytes():
    rng = np.random.default_rng(0)
    for _ in range(60):
        old, new = rng.integers(1, 130, 2), rng.integers(1, 130, 2)
        if rng.random() < 0.2:
            new = old * 2 if rng.random() < 0.5 else np.maximum(old // 2, 1)
        image = rng.integers(0, 256, (*old, rng.choice([1, 3, 4])), np.uint8)
        wanted = cv2.resize(image, tuple(map(int, new[::-1]))).reshape(*new, -1)
        np.testing.assert_array_equal(ours.resize_bilinear(image, *map(int, new)), wanted)
        labels = image[..., 0]
        wanted = cv2.resize(labels, tuple(map(int, new[::-1])), interpolation=cv2.INTER_NEAREST)
        np.testing.assert_array_equal(ours.nearest(labels, *map(int, new)), wanted)


def test_steps_give_mmcvs_sizes_and_pillows_bytes():
    rng = np.random.default_rng(1)
    for _ in range(40):
        height, width = map(int, rng.integers(10, 200, 2))
        image = rng.integers(0, 256, (height, width, 3), np.uint8)
        scale = tuple(map(int, rng.integers(10, 200, 2)))
        step = dict(step="Resize", height=scale[1], width=scale[0], keep_ratio=True)
        np.testing.assert_array_equal(
            ours.resize(image, [step | dict(either_orientation=True)]), mmcv.imrescale(image, scale)
        )
        edge = int(rng.integers(10, 60))
        shorter = min(height, width)
        size = (width * edge // shorter, height * edge // shorter)
        wanted = mmcv.imresize(image, size, interpolation="bicubic", backend="pillow")
        top, left = (max(0, round((side - 9) / 2)) for side in wanted.shape[:2])
        steps = [dict(step="ResizeEdge", side=edge), dict(step="CenterCrop", size=[9, 9])]
        np.testing.assert_array_equal(
            ours.resize(image, steps), wanted[top : top + 9, left : left + 9]
        )


@pytest.mark.parametrize(
    "config",
    [
        dict(type="nms", iou_threshold=0.5, max_per_img=100),
        dict(type="nms", iou_threshold=0.6, max_per_img=7, class_agnostic=True),
        dict(type="soft_nms", iou_threshold=0.3, method="linear", min_score=0.05, max_per_img=40),
        dict(type="soft_nms", method="gaussian", sigma=0.4, min_score=1e-3, max_per_img=25),
        dict(type="soft_nms", iou_threshold=0.5, method="naive", min_score=0.01, max_per_img=-1),
    ],
    ids=lambda config: f"{config['type']} {config.get('method', '')}",
)
def test_suppression_is_mmcvs(config: dict):
    options = {key: value for key, value in config.items() if key != "max_per_img"}
    agnostic = options.pop("class_agnostic", False)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        corners = rng.uniform(0, 60, (150, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(1, 40, (150, 2))], 1)
        boxes = boxes.astype(np.float32)
        scores = rng.permutation(np.linspace(0.01, 1, 150)).astype(np.float32)
        labels = rng.integers(0, 3, 150)
        tensors = map(torch.from_numpy, (boxes, scores, labels))
        wanted, _ = batched_nms(*tensors, options, class_agnostic=agnostic)
        most = config["max_per_img"] if config["max_per_img"] >= 0 else None
        kept, lowered = ours.suppress(boxes, scores, labels, ours.Suppression(**config))
        np.testing.assert_allclose(lowered, wanted[:most, 4], rtol=1e-5)
        np.testing.assert_allclose(boxes[kept], wanted[:most, :4], atol=1e-4)


def test_masks_are_pasted_and_resized_as_in_pytorch():
    rng = np.random.default_rng(2)
    for _ in range(20):
        height, width = map(int, rng.integers(5, 90, 2))
        mask = rng.random(rng.integers(2, 30, 2)).astype(np.float32)
        box = np.sort(rng.uniform(-10, 90, (2, 2)), 0).reshape(4).astype(np.float32)
        rows, columns = (torch.arange(side) + 0.5 for side in (height, width))
        wanted = paste_masks(
            torch.from_numpy(mask)[None], torch.from_numpy(box)[None], rows, columns
        )
        found = ours.paste(mask, box, height, width)
        np.testing.assert_allclose(found, wanted[0], atol=1e-5)
        wanted = F.interpolate(torch.from_numpy(mask)[None, None], (height, width), mode="bilinear")
        np.testing.assert_allclose(ours.interpolate(mask, height, width), wanted[0, 0], atol=1e-5)


# --- batches


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("batch", "wanted"), [(None, 1), (None, 3), (2, None)])
def test_batches_of_any_sizes(runtime: str, batch: int | None, wanted: int | None, tmp_path: Path):
    """Each image's boxes are the same shares of it, and masks of the two halves of its first."""
    halves = np.zeros((3, 1, 2), np.float32)
    halves[..., 0] = 1
    model = save_batched(
        tmp_path / "m.onnx", "instance segmentation", batch, constants=dict(masks=halves)
    )
    sizes = [(40, 30), (33, 70), (96, 64), (20, 20), (11, 50)]
    folder = photos(tmp_path / "photos", *sizes)
    (folder / "2b.png").write_text("no image")
    args = ("--batch", wanted) if wanted else ()
    ended = run_onnx(
        model, folder, "--out", tmp_path / "out", "--runtime", runtime, "--threads", 1, *args
    )
    assert ended.code == 0 and "5 images in" in ended.out and "1 skipped" in ended.out, ended.err
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(found) == 2 * len(sizes)
    for i, record in enumerate(found):
        width, height = sizes[i // 2]
        x1, y1, x2, y2 = (SHARES[i % 2] * [width, height, width, height]).tolist()
        assert record["image_id"] == i // 2 and record["category_id"] == 17 + i % 2
        assert record["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], rel=1e-5)
        assert record["segmentation"]["size"] == [height, width]


@pytest.mark.parametrize("sides", [None, (64, 96)])
def test_label_maps_are_cropped_and_resized(sides: tuple | None, tmp_path: Path):
    model = save_batched(tmp_path / "m.onnx", "semantic segmentation", None, sides)
    folder = photos(tmp_path / "photos", (40, 30), (70, 33), (96, 64))
    ended = run_onnx(model, folder, "--out", tmp_path / "out", "--batch", 2)
    assert ended.code == 0, ended.err
    for path in folder.iterdir():
        red = cv2.imread(str(path))[..., 2]
        resized = mmcv.imrescale(red, (64, 96))
        wanted = cv2.resize(resized, red.shape[::-1], interpolation=cv2.INTER_NEAREST)
        found = np.array(Image.open(tmp_path / "out" / "label_maps" / path.name))
        np.testing.assert_array_equal(found, wanted)


def test_no_image_is_padded_for_another(tmp_path: Path):
    """Attention would see it: only those that have one padded size share a run."""
    model = runpy.run_path(str(ROOT / "tools" / "run_onnx.py"))["Model"](
        save_batched(tmp_path / "m.onnx", "semantic segmentation", divisor=32, resizing=[])
    )
    shapes, run = [], model.runtime.run
    model.runtime.run = lambda inputs: shapes.append(inputs["images"].shape) or run(inputs)
    sizes = [(20, 60), (60, 20), (32, 33), (60, 30)]
    found = model([np.full((*size, 3), i % 2, np.uint8) for i, size in enumerate(sizes)])
    assert shapes == [(2, 32, 64, 3), (2, 64, 32, 3)]
    for i, (one, size) in enumerate(zip(found, sizes, strict=True)):
        assert one["label_map"].shape == size and (one["label_map"] == i % 2).all()


def test_candidates_without_nms(tmp_path: Path):
    boxes = np.array([[0, 0, 20, 20], [1, 0, 20, 20], [1, 0, 20, 20], [40, 40, 60, 60]], np.float32)
    constants = dict(
        boxes=boxes,
        scores=np.array([0.5, 0.8, 0.7, 0.0], np.float32),
        labels=np.array([0, 0, 1, 1], np.int32),
    )
    nms = dict(type="nms", iou_threshold=0.5, class_agnostic=False, max_per_img=100)
    model = save_batched(tmp_path / "m.onnx", constants=constants, nms=nms)
    folder = photos(tmp_path / "photos", (96, 64))
    assert run_onnx(model, folder, "--out", tmp_path / "out").code == 0
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [(r["category_id"], round(r["score"], 3)) for r in found] == [(17, 0.8), (18, 0.7)]


def test_an_image_that_fails_alone_is_skipped_alone(tmp_path: Path):
    model = save_batched(tmp_path / "m.onnx", "semantic segmentation")  # has two classes
    folder = photos(tmp_path / "photos", (40, 30), (96, 64))
    Image.new("RGB", (40, 30), (7, 0, 0)).save(folder / "1b.png")
    ended = run_onnx(model, folder, "--out", tmp_path / "out", "--batch", 3)
    assert ended.code == 0 and "2 images in" in ended.out, ended.err
    assert "1b.png: the model gives label 7, and it has 2 classes" in ended.err


@pytest.mark.parametrize(
    ("meta", "sentence"),
    [
        (dict(resizing=[dict(step="Resize", height=10**9, width=5)]), "no list of steps"),
        (dict(resizing=[dict(step="CenterCrop", size=3)]), "no list of steps"),
        (dict(resizing=[]), "larger images than it takes"),
        (dict(divisor=0), "no integer as divisor"),
        (dict(mask_threshold="[]"), "no mask_frame and mask_threshold"),
        (dict(nms=dict(type="nms", threshold=1)), "no such nms"),
        (dict(nms=dict(type="soft_nms", method="gaussian", sigma=0)), "no such nms"),
        (dict(nms=[[]]), "no such nms"),
        (dict(form="video"), "another kind of model"),
    ],
)
def test_bad_metadata_of_batches(meta: dict, sentence: str, tmp_path: Path, call_tool):
    model = save_batched(tmp_path / "m.onnx", sides=(64, 96), **meta)
    folder = photos(tmp_path / "photos", (200, 30))
    ended = call_tool("run_onnx.py", model, folder, "--out", tmp_path / "out")
    assert sentence in ended.err and ended.code == 2 and "Traceback" not in ended.err, ended.err


def test_careless_batches_and_runtimes(tmp_path: Path):
    alone = save(tmp_path / "alone.onnx")
    pairs = save_batched(tmp_path / "pairs.onnx", batch=2)
    (tmp_path / "broken.xml").write_text("<net")
    folder = photos(tmp_path / "photos", (40, 30))
    for args, sentence in (
        ((alone, "--batch", 2), "takes one image at a time; export it with --batch"),
        ((pairs, "--batch", 3), "takes batches of 2"),
        ((pairs, "--batch", 0), "--batch 0: from 1 to 1024"),
        ((tmp_path / "broken.xml",), "can't be read as a model of openvino's"),
        ((tmp_path / "broken.xml", "--runtime", "onnxruntime"), "run it with --runtime openvino"),
    ):
        ended = run_onnx(args[0], folder, "--out", tmp_path / "out", *args[1:])
        assert sentence in ended.one_sentence()
    for runtime in ("onnxruntime", "openvino"):
        ended = run_onnx(
            *(alone, folder, "--out", tmp_path / "out", "--runtime", runtime),
            start=f"sys.modules[{runtime!r}] = None",
        )
        sentence = f"{runtime} isn't installed: pip install {runtime}"
        assert sentence in ended.one_sentence()
