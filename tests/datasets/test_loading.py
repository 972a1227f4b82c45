"""Images and label maps that can't be used are named."""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from helpers import ROOT
from mmpvt import UserError
from mmpvt.datasets.loading import (
    FileProblem,
    LoadImageFromFile,
    LoadSegAnnotations,
    placeholder_images,
)
from mmpvt.errors import BadFileError


@pytest.fixture
def results(tmp_path: Path) -> dict:
    paths = dict(img_path=str(tmp_path / "a.jpg"), seg_map_path=str(tmp_path / "a.png"))
    cv2.imwrite(paths["img_path"], np.zeros((20, 30, 3), np.uint8))
    write_map(paths, np.full((20, 30), 3))
    return dict(paths, reduce_zero_label=True, seg_fields=[])


def write_map(results: dict, labels: np.ndarray) -> None:
    cv2.imwrite(results["seg_map_path"], labels.astype(np.uint8))


def load(results: dict, num_classes: int | None = 150) -> dict:
    return LoadSegAnnotations(num_classes=num_classes)(LoadImageFromFile()(results))


def test_whole(results: dict):
    loaded = load(results)
    assert (loaded["gt_seg_map"] == 2).all() and loaded["gt_seg_map"].shape == (20, 30)
    write_map(results, np.zeros((20, 30)))
    assert (load(results)["gt_seg_map"] == 255).all()


def test_another_size(results: dict):
    write_map(results, np.zeros((10, 30)))
    with pytest.raises(UserError, match=r"a\.png is of another size .*a\.jpg: 10x30, not 20x30"):
        load(results)


def test_value_outside_the_classes(results: dict):
    write_map(results, np.array([[7] * 30] * 20))
    expected = (
        r"value 7, and the model's 6 classes end at 6; files whose labels don't count from 1 "
    )
    with pytest.raises(UserError, match=expected):
        load(results, num_classes=6)
    write_map(results, np.array([[6] * 30] * 20))
    assert (load(results, num_classes=6)["gt_seg_map"] == 5).all()


@pytest.mark.parametrize("content", [None, b"", b"no image"], ids=["missing", "empty", "text"])
@pytest.mark.parametrize("key", ["img_path", "seg_map_path"])
def test_unreadable(key: str, content: bytes | None, results: dict):
    path = Path(results[key])
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{path.name} (can't be read as|is missing)"):
        load(results)


@pytest.mark.parametrize("color_type", ["color", "grayscale", "unchanged"])
def test_more_than_eight_bits(color_type: str, tmp_path: Path):
    path = str(tmp_path / "a.png")
    stored = np.arange(600, dtype=np.uint16).reshape(20, 30) * 7
    cv2.imwrite(path, stored)
    loader = LoadImageFromFile(max_value=4095, color_type=color_type)
    image = loader(dict(img_path=path, height=20, width=30))["img"]
    assert image.dtype == np.float32
    assert image.shape == ((20, 30, 3) if color_type == "color" else (20, 30))
    first = image[..., 0] if image.ndim == 3 else image
    np.testing.assert_allclose(first, (stored * (255 / 4095)).clip(0, 255), rtol=1e-6)
    assert first.max() == 255 and len(np.unique(first)) == 586  # 4095 and above: 255
    with placeholder_images():
        assert loader(dict(img_path=path))["img"].ndim == image.ndim


def test_problems_are_told_by_kind(results: dict):
    """A report counts them by kind, whatever the sentence says."""
    stored = np.full((20, 30, 3), (3, 2, 1), np.uint8)
    cv2.imwrite(results["seg_map_path"], stored)
    with pytest.raises(BadFileError) as caught:
        load(results)
    error = caught.value
    assert error.problem is FileProblem.COLOURS and error.where == results["seg_map_path"]
    assert "list them in the order" in error.hint and "list them" not in error.what
    write_map(results, np.full((10, 30), 3))
    with pytest.raises(BadFileError) as caught:
        load(results)
    assert caught.value.problem is FileProblem.MAP_SIZE
    Path(results["img_path"]).unlink()
    with pytest.raises(BadFileError) as caught:
        load(results)
    assert caught.value.problem is FileProblem.MISSING_IMAGE
    assert len({problem.kind for problem in FileProblem}) == len(FileProblem)


def test_eight_bits_where_more_are_meant(results: dict):
    with pytest.raises(UserError, match=r"is an image of 8 bits, and .* max_value=4095"):
        LoadImageFromFile(max_value=4095)(results)
    with pytest.raises(UserError, match="takes the backend cv2 or tifffile"):
        LoadImageFromFile(max_value=4095, imdecode_backend="pillow")


def test_float_pixels(tmp_path: Path):
    path = str(tmp_path / "a.tif")
    stored = np.random.default_rng(0).random((20, 30, 3)).astype(np.float32)
    cv2.imwrite(path, stored)
    with pytest.raises(UserError, match=r"holds float32 values, .* take color_type='unchanged'"):
        LoadImageFromFile()(dict(img_path=path))
    with pytest.raises(UserError, match="holds float32 values"):  # and where its size is known
        LoadImageFromFile()(dict(img_path=path, height=20, width=30))
    image = LoadImageFromFile(max_value=1)(dict(img_path=path))["img"]
    np.testing.assert_allclose(image, stored * 255, rtol=1e-6)


def test_files_that_are_stored_band_after_band(tmp_path: Path):
    """Of more than 8 bits OpenCV makes anything of them, without a word; it reads 8 bits."""
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "a.tif"
    stored = np.random.default_rng(0).integers(0, 256, (4, 20, 30), np.uint8)
    for dtype in ("uint8", "uint16", "float32"):
        kind = dict(driver="GTiff", photometric="RGB", alpha="no", interleave="band", dtype=dtype)
        with rasterio.open(path, "w", count=4, height=20, width=30, **kind) as file:
            file.write(stored.astype(dtype))
        loader = LoadImageFromFile(color_type="unchanged")
        if dtype == "uint8":
            image = loader(dict(img_path=str(path)))["img"]
            np.testing.assert_array_equal(image.transpose(2, 0, 1), stored[[2, 1, 0, 3]])
            continue
        for bad in (loader, LoadImageFromFile(max_value=4095)):
            with pytest.raises(BadFileError, match="is stored band after band, which OpenCV"):
                bad(dict(img_path=str(path)))


def test_files_of_several_images(tmp_path: Path):
    """A stack is refused, by run_onnx.py, too; a smaller copy of the image, or its mask, isn't."""
    run_onnx = runpy.run_path(str(ROOT / "tools" / "run_onnx.py"))
    path = tmp_path / "a.tif"
    image = Image.fromarray(np.zeros((20, 30), np.uint8))

    def write(second: Image.Image, kind: int) -> None:
        part = second.copy()
        part.encoderinfo = dict(tiffinfo={254: kind})
        image.save(path, save_all=True, append_images=[part])

    for second, kind in ((image.resize((15, 10)), 0), (image, 4)):
        write(second, kind)
        LoadImageFromFile()(dict(img_path=str(path)))
        run_onnx["read_image"](path)
    write(image, 0)
    with pytest.raises(BadFileError, match="several images of one size"):
        LoadImageFromFile(color_type="unchanged")(dict(img_path=str(path)))
    with pytest.raises(run_onnx["UserError"], match="several images of one size"):
        run_onnx["read_image"](path)


def test_files_of_12_bits(tmp_path: Path):
    """OpenCV makes 16 of them; ``max_value`` is of what the file holds."""
    rasterio = pytest.importorskip("rasterio")
    path = tmp_path / "a.tif"
    stored = np.random.default_rng(0).integers(0, 4096, (1, 20, 30), np.uint16)
    settings = dict(driver="GTiff", dtype="uint16", nbits=12, count=1, height=20, width=30)
    with rasterio.open(path, "w", **settings) as file:
        file.write(stored)
    image = LoadImageFromFile(max_value=4095)(dict(img_path=str(path)))["img"]
    np.testing.assert_allclose(image[..., 0], stored[0] * (255 / 4095), rtol=1e-6)


def test_placeholders_have_the_images_channels(tmp_path: Path):
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, np.zeros((20, 30, 4), np.uint8))
    loader = LoadImageFromFile(color_type="unchanged", channels=4)
    with placeholder_images():
        assert loader(dict(img_path=path))["img"].shape == (64, 64, 4)
    assert LoadImageFromFile(color_type="unchanged")(dict(img_path=path))["img"].shape[2] == 4
    with pytest.raises(BadFileError, match=r"channels of .*a.png is 4, and the model takes 1 or 3"):
        LoadImageFromFile(color_type="unchanged", accepted=[1, 3])(dict(img_path=path))


def test_tifffile(tmp_path: Path):
    if importlib.util.find_spec("tifffile") is None:
        with pytest.raises(UserError, match="needs the package tifffile: pip install tifffile"):
            LoadImageFromFile(imdecode_backend="tifffile")
        return
    import tifffile

    path = tmp_path / "a.tif"
    stored = np.random.default_rng(0).integers(0, 4096, (40, 50, 5), np.uint16)
    loader = LoadImageFromFile(imdecode_backend="tifffile")
    for pixels, order in ((stored, "contig"), (stored.transpose(2, 0, 1), "separate")):
        tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig=order)
        image = loader(dict(img_path=str(path), height=40, width=50))["img"]
        np.testing.assert_array_equal(image, stored)
    path.write_bytes(b"no image")
    with pytest.raises(UserError, match="can't be read as an image"):
        loader(dict(img_path=str(path)))


def test_values(results: dict):
    write_map(results, np.array([[0, 255] * 15] * 20))
    results["reduce_zero_label"] = False
    loaded = LoadImageFromFile()(results)
    labels = LoadSegAnnotations(num_classes=2, values=[0, 255])(loaded)["gt_seg_map"]
    assert labels.tolist() == [[0, 1] * 15] * 20
    with pytest.raises(UserError, match=r"holds the value 0, which is not among .* values"):
        LoadSegAnnotations(num_classes=2, values=[1, 255])(loaded)
    labels = LoadSegAnnotations(num_classes=2, values=[0, 1])(loaded)["gt_seg_map"]
    assert labels.tolist() == [[0, 255] * 15] * 20
    for wrong in ([0, 0], [[0, 0, 0], 1], [[1, 2]]):
        with pytest.raises(UserError, match="values are numbers or RGB colours, each once"):
            LoadSegAnnotations(values=wrong)
    with pytest.raises(UserError, match="values are 2, and the model has 1 classes"):
        LoadSegAnnotations(num_classes=1, values=[0, 255])
    cv2.imwrite(results["seg_map_path"], np.full((20, 30, 3), (3, 2, 1), np.uint8))
    with pytest.raises(UserError, match=r"holds the colour \(1, 2, 3\), which is not among"):
        LoadSegAnnotations(values=[[0, 0, 0], [3, 2, 1]])(loaded)
