"""Prediction and tests in tiles, as a user runs them."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import mmpvt
from helpers import command, environment
from mmpvt.datasets.loading import LoadImageFromFile
from mmpvt.engine.pipeline import read_image
from mmpvt.engine.tiles import Box
from mmpvt.errors import UserError
from mmpvt.inference import windows

rasterio = pytest.importorskip("rasterio")


@pytest.fixture(scope="module")
def mosaic(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 64 pixels, four times over, as one of 256x192."""
    images = [cv2.imread(str(path)) for path in sorted((shapes / "train2017").iterdir())]
    rows = [np.concatenate([images[(3 * i + j) % 8] for j in range(4)], 1) for i in range(3)]
    path = tmp_path_factory.mktemp("mosaic") / "mosaic.png"
    cv2.imwrite(str(path), np.concatenate(rows, 0))
    return path


@pytest.fixture(scope="module")
def model(tiny_config: Path, trained: Path) -> tuple[Path, Path]:
    return tiny_config, trained / "epoch_2.pth"


def predictions(out: Path) -> list[dict]:
    return json.loads((out / "predictions.json").read_text())


def test_tiles_of_a_mosaic(mosaic: Path, model: tuple, tmp_path: Path, call_tool):
    """Without overlap, tile by tile what each would give as an image; with the whole, more."""
    options = ("--tiles", 64, "--overlap", 0)
    ended = call_tool("predict.py", *model, mosaic, "--out", tmp_path / "tiled", *options)
    assert ended.code == 0, ended.err
    predictor = mmpvt.Predictor(*model, "cpu")
    image = predictor.load(mosaic)
    expected = []
    for top in range(0, 192, 64):
        for left in range(0, 256, 64):
            part = np.ascontiguousarray(image[top : top + 64, left : left + 64])
            boxes = predictor(part).pred_instances
            corners = boxes.bboxes + boxes.bboxes.new_tensor([left, top] * 2)
            expected += zip(boxes.scores.tolist(), corners.tolist(), strict=True)
    found = predictions(tmp_path / "tiled")
    assert len(found) == len(expected) > 100
    scores = sorted((score for score, _ in expected), reverse=True)
    np.testing.assert_allclose([one["score"] for one in found], scores, atol=1e-6)
    assert (tmp_path / "tiled" / "pictures" / "mosaic.jpg").is_file()
    both = mmpvt.Predictor(*model, "cpu", tiles=64, overlap=0, also_whole=True)(mosaic)
    areas = (both.pred_instances.bboxes[:, 2:] - both.pred_instances.bboxes[:, :2]).prod(1)
    assert areas.max() > 64 * 64  # what only the whole image shows


def test_what_is_no_larger_than_a_tile(model, shapes: Path, tmp_path: Path, call_tool):
    """Is predicted on and tested as without tiles, to the last digit."""
    results = []
    for name, options in (("plain", ()), ("tiled", ("--tiles", 64, "--also-whole"))):
        out = tmp_path / name
        images = shapes / "val2017"
        ended = call_tool("predict.py", *model, images, "--out", out / "predicted", *options)
        assert ended.code == 0, ended.err
        ended = call_tool(
            *("test.py", *model, "--data-root", shapes, "--work-dir", out / "work"),
            *("--out", out / "results.pkl", *options),
        )
        assert ended.code == 0, ended.err
        kept = pickle.loads((out / "results.pkl").read_bytes())  # our own, just written
        boxes = [image["pred_instances"]["bboxes"].tolist() for image in kept]
        results.append((predictions(out / "predicted"), boxes))
    assert results[0] == results[1]


def test_tests_in_tiles(model, shapes: Path, tmp_path: Path, call_tool):
    """A test gives what the predictor gives, against the data set's own annotations."""
    results = tmp_path / "results.pkl"
    ended = call_tool(
        *("test.py", *model, "--data-root", shapes, "--work-dir", tmp_path / "work"),
        *("--out", results, "--tiles", 40, "--also-whole"),
    )
    assert ended.code == 0, ended.err
    assert "bbox_mAP" in ended.out
    predictor = mmpvt.Predictor(*model, "cpu", tiles=40, also_whole=True)
    for image in pickle.loads(results.read_bytes()):
        ours = predictor(image["img_path"]).pred_instances
        np.testing.assert_allclose(ours.bboxes, image["pred_instances"]["bboxes"], atol=1e-3)
        np.testing.assert_allclose(ours.scores, image["pred_instances"]["scores"], atol=1e-5)


def test_label_maps_in_tiles(
    mosaic: Path, shapes: Path, untrained_segmenter, tmp_path: Path, call_tool
):
    out = tmp_path / "out"
    ended = call_tool(
        "predict.py", *untrained_segmenter, mosaic, "--out", out, "--tiles", 64, "--batch", 4
    )
    assert ended.code == 0, ended.err
    labels = cv2.imread(str(out / "label_maps" / "mosaic.png"), cv2.IMREAD_UNCHANGED)
    assert labels.shape == (192, 256) and len(np.unique(labels)) > 1
    predictor = mmpvt.Predictor(*untrained_segmenter, "cpu")
    corner = predictor(np.ascontiguousarray(predictor.load(mosaic)[:64, :64])).pred_sem_seg.data[0]
    assert (labels[:42, :48] == corner[:42, :48].numpy()).mean() > 0.999  # what only it sees
    tested = call_tool(
        *("test.py", *untrained_segmenter, "--data-root", shapes, "--tiles", 40),
        *("--work-dir", tmp_path / "work"),
    )
    assert tested.code == 0, tested.err
    assert "mIoU" in tested.out


def test_careless_tiles(mosaic: Path, model: tuple, tmp_path: Path, shapes: Path, call_tool):
    out = ("--out", tmp_path / "out")
    for options, said in (
        (("--tiles", 0), "--tiles: a tile's side is an int of pixels from 1 on, not 0"),
        (("--tiles", 64, "--overlap", 1), "--overlap: 1.0: the share that tiles have in common"),
        (("--overlap", 0.3), "--overlap: it is for --tiles, which isn't given"),
        (("--also-whole",), "--also-whole: it is for --tiles, which isn't given"),
    ):
        assert said in call_tool("predict.py", *model, mosaic, *out, *options).one_sentence()
        tested = call_tool("test.py", *model, "--data-root", shapes, *options)
        assert said in tested.one_sentence()
    both = call_tool("test.py", *model, "--data-root", shapes, "--tiles", 64, "--tta")
    assert "--tta: tiles aren't augmented" in both.one_sentence()
    assert not (tmp_path / "out").exists()


KINDS = {
    "grey.tif": (1, "uint8", {}),
    "colour.tif": (3, "uint8", dict(compress="deflate", tiled=True, blockxsize=64, blockysize=64)),
    "alpha.tif": (4, "uint8", dict(photometric="rgb", alpha="yes")),
    "multiplied.tif": (4, "uint8", dict(photometric="rgb", alpha="premultiplied")),
    "four.tif": (4, "uint8", dict(photometric="rgb", alpha="no")),
    "deep.tif": (3, "uint16", dict(compress="lzw", photometric="rgb")),
    "deep_alpha.tif": (4, "uint16", dict(photometric="rgb", alpha="yes")),
    "colour.png": (3, "uint8", {}),
    "1.png": (1, "uint8", dict(nbits=1)),
    "4.png": (1, "uint8", dict(nbits=4)),
    "colour.jpg": (3, "uint8", {}),
}


@pytest.mark.parametrize("name", KINDS)
def test_windows_are_what_is_loaded(name: str, model: tuple, tmp_path: Path, monkeypatch):
    """Parts of a file through rasterio are those of the image that OpenCV decodes."""
    monkeypatch.setattr(windows, "WINDOWED", 100)
    monkeypatch.setattr(windows, "LONGEST_OVERVIEW", 50)
    count, dtype, options = KINDS[name]
    draw = np.random.default_rng(0)
    values = draw.integers(0, np.iinfo(dtype).max, (count, 70, 130), dtype=dtype)
    if name == "colour.jpg":  # the decoders' rounding is small where neighbours are alike
        values = np.stack([cv2.GaussianBlur(band, (0, 0), 9) for band in values])
    values >>= 8 - options["nbits"] if "nbits" in options else 0
    path = tmp_path / name
    kind = {".tif": "GTiff", ".png": "PNG", ".jpg": "JPEG"}[path.suffix]
    settings = dict(width=130, height=70, count=count, dtype=dtype, driver=kind, **options)
    with rasterio.open(path, "w", **settings) as file:
        file.write(values)
    predictor = mmpvt.Predictor(*model, "cpu", tiles=64)
    image = predictor.load(path)
    with windows.open_windows(path, predictor.pipeline) as opened:
        assert isinstance(opened, windows.FileWindows) and opened.shape == (70, 130)
        for box in (Box(0, 0, 64, 64), Box(66, 6, 130, 70), Box(0, 0, 130, 70)):
            part = image[box.top : box.bottom, box.left : box.right]
            read = opened.read(box)
            assert read.shape == part.shape and read.dtype == part.dtype
            assert np.abs(read.astype(int) - part).max() <= (3 if kind == "JPEG" else 0)
        assert opened.overview().shape == (27, 50, 3)
    picture, sample = predictor.predict_in_tiles(path)
    assert picture.shape == (27, 50, 3) and sample.ori_shape == (70, 130)
    assert predictor.draw(picture, sample, 0.0).shape[2] == 3


@pytest.mark.parametrize(
    ("loading", "count", "dtype", "options"),
    [
        (dict(color_type="unchanged"), 4, "uint8", dict(photometric="rgb", alpha="no")),
        (dict(color_type="unchanged"), 4, "uint8", dict(photometric="rgb", alpha="yes")),
        (dict(color_type="unchanged"), 3, "uint16", dict(photometric="rgb")),
        (dict(color_type="unchanged"), 1, "uint8", dict(photometric="miniswhite")),
        (dict(color_type="unchanged"), 1, "uint16", dict(photometric="miniswhite")),
        (dict(color_type="unchanged"), 1, "uint8", dict(nbits=1)),
        (dict(color_type="unchanged"), 1, "uint16", dict(nbits=12)),
        (dict(color_type="unchanged"), 3, "uint8", dict(driver="PNG")),
        (dict(), 1, "uint8", dict(photometric="miniswhite")),
        (dict(), 1, "uint16", dict(photometric="miniswhite")),
        (dict(max_value=4095), 3, "uint16", dict(photometric="rgb", nbits=12)),
    ],
)
def test_windows_are_what_other_loading_gives(
    loading: dict, count: int, dtype: str, options: dict, tmp_path: Path, monkeypatch
):
    monkeypatch.setattr(windows, "WINDOWED", 100)
    path, highest = tmp_path / "a", 2 ** options.get("nbits", 8 * np.dtype(dtype).itemsize)
    values = np.random.default_rng(0).integers(0, highest, (count, 70, 130), dtype=dtype)
    settings = dict(width=130, height=70, count=count, dtype=dtype, interleave="pixel")
    with rasterio.open(path, "w", **dict(settings, driver="GTiff") | options) as file:
        file.write(values)
    reader = LoadImageFromFile(**loading)
    pipeline = SimpleNamespace(
        reader=reader, max_pixels=10**6, load=lambda path: read_image(path, reader)
    )
    with windows.open_windows(path, pipeline) as opened:
        read = opened.read(Box(66, 6, 130, 70))
    loaded = read_image(path, reader)[6:70, 66:130]
    assert read.dtype == loaded.dtype
    np.testing.assert_allclose(read.astype(float), loaded, atol=1)  # rounding, of 16 bits to 8


def test_large_files_that_are_not_loaded(tmp_path: Path, monkeypatch):
    """In windows neither: 8 bits where more are meant, bands whose colours GDAL alone knows."""
    monkeypatch.setattr(windows, "WINDOWED", 100)
    path = tmp_path / "a.tif"
    settings = dict(driver="GTiff", width=130, height=70, count=3, dtype="uint8")
    for loading, photometric, said in (
        (dict(max_value=4095), "rgb", "is an image of 8 bits"),
        (dict(), "minisblack", "holds 3 bands without a colour"),
    ):
        with rasterio.open(path, "w", photometric=photometric, **settings) as file:
            file.colorinterp = [
                rasterio.enums.ColorInterp[name] for name in ("blue", "green", "red")
            ]
            file.write(np.ones((3, 70, 130), np.uint8))
        pipeline = SimpleNamespace(reader=LoadImageFromFile(**loading), max_pixels=10**6)
        with pytest.raises(UserError, match=said), windows.open_windows(path, pipeline):
            pass


def test_large_files_that_cannot_be_read(model: tuple, tmp_path: Path, monkeypatch):
    """Truncated; of numbers that are no picture's; pointing elsewhere; without rasterio."""
    predictor = mmpvt.Predictor(*model, "cpu", tiles=64)
    monkeypatch.setattr(windows, "WINDOWED", 100)
    path = tmp_path / "a.tif"
    settings = dict(width=130, height=70, count=1, driver="GTiff")
    with rasterio.open(path, "w", dtype="uint8", **settings) as file:
        file.write(np.ones((1, 70, 130), np.uint8))
    content = path.read_bytes()
    path.write_bytes(content[:-2000])
    with pytest.raises(UserError, match="can't be read as an image"):
        predictor(path)
    with rasterio.open(tmp_path / "b.tif", "w", dtype="uint8", **dict(settings, count=5)) as file:
        file.write(np.ones((5, 70, 130), np.uint8))
    with pytest.raises(UserError, match="holds 5 bands without a colour"):
        predictor(tmp_path / "b.tif")
    path.write_bytes(content)
    monkeypatch.setattr(windows, "LARGEST", 5000)
    with pytest.raises(UserError, match="too large an image: 130x70 pixels"):
        predictor(path)
    monkeypatch.setattr(predictor.pipeline, "max_pixels", 50)
    monkeypatch.setattr(windows.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"rasterio.*isn't installed: pip install 'mmpvt\[tiles\]'"):
        predictor(path)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["detector", "segmenter"])
def test_memory_of_a_huge_image(kind: str, model: tuple, untrained_segmenter, tmp_path: Path):
    """A GeoTIFF of 20,000x20,000 pixels in under 2 GB."""
    path, side = tmp_path / "huge.tif", 20_000
    options = dict(compress="deflate", tiled=True, blockxsize=512, blockysize=512)
    settings = dict(width=side, height=side, count=3, dtype="uint8", driver="GTiff", **options)
    draw = np.random.default_rng(0)
    strip = draw.integers(0, 255, (3, 512, side), dtype=np.uint8) & 0xF0
    with rasterio.open(path, "w", **settings) as file:
        for top in range(0, side, 512):
            height = min(512, side - top)
            file.write(strip[:, :height], window=((top, top + height), (0, side)))
    its = model if kind == "detector" else untrained_segmenter
    out = tmp_path / "out"
    line = command("predict.py", *its, path, "--out", out, "--tiles", 1024)
    # a process' peak begins with that of the one that started it: here a small one
    start = (
        "import resource, subprocess, sys; code = subprocess.run(sys.argv[1:]).returncode\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(code)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", start, *line],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert ended.returncode == 0, ended.stderr
    peak = int(ended.stdout.split()[-1]) * (1 if sys.platform == "darwin" else 1024)
    assert peak < 2 * 10**9
    assert (out / "pictures" / "huge.jpg").stat().st_size > 10_000
