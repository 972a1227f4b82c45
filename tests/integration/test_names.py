"""Files and classes of names that crash OpenCV, drive a terminal or forge a line, in every tool."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from helpers import Started, save_untrained

ODD = os.fsdecode(b"caf\xe9 \x1b]0;owned\x07\x1b[31m\n[fake] \xe2\x80\xae$x_{")
SHOWN = r"caf\xe9 \x1b]0;owned\x07\x1b[31m\n[fake] \u202e$x_{"
WRITTEN = ODD.replace("\udce9", r"\xe9")  # in JSON, and its results' name
CLASSES = ("cir\x1b[2Jcle", "squ\nerror: fake", "tri\u202eangle", "s\ud800r", "r\udce9g", "$x_{")
CLASS_SHOWN = r"cir\x1b[2Jcle"
FORGED = re.compile("\x1b|\u202e|^\\[fake\\]|^error: fake", re.M)
DETECTOR = """
data = dict(data_root={root!a}, metainfo=dict(classes={classes!a}))
train_dataloader.update(batch_size=2, dataset=dict(pipeline=_base_.train_pipeline, **data))
val_dataloader.update(batch_size=2, dataset=dict(pipeline=_base_.test_pipeline, **data))
train_dataloader.update(num_workers=0, persistent_workers=False)
val_dataloader.update(num_workers=0, persistent_workers=False)
val_evaluator = dict(classwise=True, ann_file={root!a} + "/annotations/instances_val2017.json")
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=1, val_interval=1)
"""
SEGMENTER = """
data = dict(
    type="mmseg.BaseSegDataset",
    data_root={root!a},
    img_suffix=".jpg",
    seg_map_suffix=".png",
    reduce_zero_label=True,
    metainfo=dict(classes={classes!a}),
)
for_all = dict(num_workers=0, persistent_workers=False, dataset=data)
train_dataloader.update(for_all)
val_dataloader.update(for_all)
test_dataloader.update(for_all)
"""


class Odd(NamedTuple):
    """A data set with an image of an odd name in each split, and models of odd classes."""

    root: Path
    detector: tuple[Path, Path]
    segmenter: tuple[Path, Path]


@pytest.fixture(scope="module")
def odd(
    shapes: Path,
    tiny_config: Path,
    tiny_segmenter: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Odd:
    folder = tmp_path_factory.mktemp("odd") / os.fsdecode(b"d\xe9\x1b[31m")
    root = shutil.copytree(shapes, folder / "data")
    for split, part in (("train", "training"), ("val", "validation")):
        file = root / "annotations" / f"instances_{split}2017.json"
        content = json.loads(file.read_text())
        for category, name in zip(content["categories"], CLASSES, strict=True):
            category["name"] = name
        first = content["images"][0]
        name = first["file_name"]
        first["file_name"] = f"{ODD}.jpg"
        file.write_text(json.dumps(content))
        (root / f"{split}2017" / name).rename(root / f"{split}2017" / f"{ODD}.jpg")
        images, maps = root / "images" / part, root / "annotations" / part
        (images / name).rename(images / f"{ODD}.jpg")
        (maps / name).with_suffix(".png").rename(maps / f"{ODD}.png")
    pairs = []
    for base, end in ((tiny_config, DETECTOR), (tiny_segmenter, SEGMENTER)):
        config = folder / base.name
        config.write_text(base.read_text() + end.format(root=str(root), classes=CLASSES))
        pairs.append((config, save_untrained(config, config.with_suffix(".pth"))))
    return Odd(root, *pairs)


@pytest.fixture
def run(start_tool) -> Callable[..., str]:
    """Runs a tool in a copy of this process; what it printed, made sure that nothing is forged."""

    def run_to_end(tool: str, *args: object, code: int = 0) -> str:
        process: Started = start_tool(tool, *args)
        assert process.wait() == code, process.text[-3000:]
        text = "\n".join(
            line
            for line in process.text.splitlines()
            if not line.startswith("Loads checkpoint by")  # printed by MMEngine itself
        )
        assert not FORGED.search(text) and "Traceback" not in text, text[-3000:]
        return text

    return run_to_end


@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_predict(kind: str, odd: Odd, tmp_path: Path, run):
    out = tmp_path / os.fsdecode(b"out\xe9")
    broken = tmp_path / f"{ODD} broken.jpg"
    broken.write_text("no image")
    config, checkpoint = getattr(odd, kind)
    text = run("predict.py", config, checkpoint, odd.root / "val2017", broken, "--out", out)
    assert f"{SHOWN} broken.jpg can't be read as an image" in text
    assert "4 images" in text and r"see /" in text and r"out\xe9" in text
    predictions = json.loads((out / "predictions.json").read_bytes().decode("utf-8"))
    assert f"{WRITTEN}.jpg" in {one["file_name"] for one in predictions}
    (out / "categories.json").read_bytes().decode("utf-8")
    assert Image.open(out / "pictures" / f"{WRITTEN}.jpg").size == (480, 480)
    assert all((out / one["label_map"]).is_file() for one in predictions if "label_map" in one)
    listed = [entry["name"] for entry in json.loads((out / "categories.json").read_bytes())]
    assert listed[0] == CLASSES[0] and listed[4] == r"r\xe9g"


@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_test_with_pictures(kind: str, odd: Odd, tmp_path: Path, run):
    config, checkpoint = getattr(odd, kind)
    show = tmp_path / os.fsdecode(b"show\xe9")
    args = ("--work-dir", tmp_path / os.fsdecode(b"w\xe9"), "--show-dir", show)
    text = run("test.py", config, checkpoint, *args)
    assert CLASS_SHOWN in text
    assert len(list(show.glob("*.jpg"))) == 4
    assert (show / f"{WRITTEN}.jpg").is_file()
    assert list(tmp_path.glob("w*/pictures/test.jpg"))


def test_train_and_resume(odd: Odd, tmp_path: Path, run):
    """Class names stand in tables and figures, images in what is skipped, paths everywhere."""
    config, _ = odd.detector
    work_dir = tmp_path / os.fsdecode(b"work\xe9\x1b[31m")
    image = odd.root / "train2017" / f"{ODD}.jpg"
    content = image.read_bytes()
    image.write_text("no image")
    try:
        args = (config, "--work-dir", work_dir, "--on-bad-data", "skip")
        run("train.py", *args)
    finally:
        image.write_bytes(content)
    log = next(work_dir.glob("*/*.log")).read_bytes().decode("utf-8")
    assert not FORGED.search(log)
    assert f"coco/{CLASS_SHOWN}_precision" in log
    assert SHOWN in log and "skipped in training, number 1" in log
    text = run("train.py", *args, "--resume", "--cfg-options", "train_cfg.max_epochs=2")
    assert "resumed epoch: 1, iter: 4" in text
    assert (work_dir / "epoch_2.pth").is_file()


@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_check_data(kind: str, odd: Odd, tmp_path: Path, run):
    config, _ = getattr(odd, kind)
    image = odd.root / "val2017" / f"{ODD}.jpg"
    out = tmp_path / os.fsdecode(b"out\xe9")
    if kind == "segmenter":
        image = odd.root / "images" / "validation" / f"{ODD}.jpg"
    text = run("check_data.py", config, "--out", out, "--workers", 1)
    assert text.rstrip().endswith("all is well")
    content = image.read_bytes()
    image.write_text("no image")
    try:
        run("check_data.py", config, "--out", out, "--workers", 1, code=1)
    finally:
        image.write_bytes(content)
    listed = (out / "data.json").read_bytes().decode("utf-8")
    assert r"caf\\xe9" in listed and "can't be read as an image" in listed


def test_reproduce(odd: Odd, tmp_path: Path, run):
    folder = tmp_path / os.fsdecode(b"checkpoints\xe9")
    folder.mkdir()
    name = f"{ODD}.pth"
    shutil.copy(odd.detector[1], folder / name)
    shutil.copy(odd.segmenter[1], folder / f"{ODD} of nothing.pth")
    out = tmp_path / os.fsdecode(b"report\xe9")
    args = ("--checkpoints", folder, "--out", out, "--device", "cpu")
    args += ("--map", f"{name}={odd.detector[0]}")
    text = run("reproduce.py", *args)
    assert f"{SHOWN}: box AP" in text and f"{SHOWN} of nothing: skipped" in text
    for file in ("index.html", "results.md", "results.json"):
        written = (out / file).read_bytes().decode("utf-8")
        assert "\x1b" not in written and r"\xe9" in written
    again = run("reproduce.py", *args)
    assert f"{SHOWN}: tested before" in again


@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="needs mmpvt[export]")
def test_export(odd: Odd, tmp_path: Path, run):
    import onnx

    out = tmp_path / f"{ODD}.onnx"
    image = odd.root / "val2017" / f"{ODD}.jpg"
    text = run("export.py", *odd.detector, "--out", out, "--shape", 64, 64, "--check", image)
    assert f"{SHOWN}.onnx, " in text
    told = {p.key: p.value for p in onnx.load_from_string(out.read_bytes()).metadata_props}
    assert r"d\xe9" in told["config"]


def test_mistakes_are_one_line(odd: Odd, tmp_path: Path, run):
    missing = tmp_path / f"{ODD}\nerror: fake"
    for tool, args in (
        ("predict.py", (*odd.detector, missing, "--out", tmp_path / "out")),
        ("test.py", (odd.detector[0], missing)),
        ("train.py", (missing,)),
        ("check_data.py", (odd.detector[0], "--data-root", missing)),
        ("export.py", (odd.detector[0], missing, "--out", tmp_path / "a.onnx")),
        ("get_flops.py", (missing,)),
        ("convert_checkpoint.py", (missing, tmp_path / "a.pth", "--to", "timm")),
        ("swap_backbone.py", (missing, "--arch", "b0")),
        ("reproduce.py", ("--checkpoints", missing, "--out", tmp_path / "report")),
    ):
        lines = run(tool, *args, code=2).splitlines()
        assert lines[-1].startswith("error: ") and rf"{SHOWN}\nerror: fake" in lines[-1], lines
