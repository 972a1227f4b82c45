"""The image's way into the network is OpenCV's and MMEngine's, bit for bit."""

from __future__ import annotations

import gc
import re
import runpy
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.models import DetDataPreprocessor
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.models import SegDataPreProcessor
from PIL import Image

from helpers import ROOT
from mmpvt.deploy.operators import OPSET
from mmpvt.deploy.preprocessing import (
    PreprocessingGraph,
    Resize,
    ResizeToMultiple,
    read_image_format,
    read_resizing,
)
from mmpvt.engine.pipeline import TestPipeline
from mmpvt.errors import ExportError

NORM = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
SIZES = [(37, 51), (480, 640), (333, 500), (512, 341), (1000, 30), (64, 64)]


Run = Callable[[np.ndarray], dict[str, np.ndarray]]


@pytest.fixture(params=["onnxruntime", "openvino"])
def load(request: pytest.FixtureRequest) -> Iterator[Callable[..., Run]]:
    """Loads the graph of steps into a runtime."""
    openvino = pytest.importorskip("openvino") if request.param == "openvino" else None
    loaded = []

    def load(*args: object, has_float64: bool = openvino is None) -> Run:
        part = PreprocessingGraph(*args, has_float64=has_float64)
        outputs = list(part.outputs.values())
        graph = ir.Graph([part.image], outputs, nodes=part.nodes, opset_imports={"": OPSET})
        for name, value in part.outputs.items():
            value.name = name
        data = ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString()
        if openvino:
            core = openvino.Core()
            options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
            model = core.compile_model(core.read_model(data), "CPU", options)
        else:
            model = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        loaded.append(model)
        place = len(loaded) - 1

        def run(image: np.ndarray) -> dict[str, np.ndarray]:
            inputs = {"image": np.ascontiguousarray(image[..., ::-1])}
            if openvino:
                found = loaded[place](inputs)
                return {name: found[name].copy() for name in part.outputs}
            names = list(part.outputs)
            return dict(zip(names, loaded[place].run(names, inputs), strict=True))

        return run

    yield load
    loaded.clear()  # a copy of this process, such as later tests make, could not free OpenVINO's
    gc.collect()


def assert_equal(found: np.ndarray, wanted: np.ndarray) -> None:
    """Within a last bit; a byte is 0.017."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=3e-7)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("bgr_to_rgb", [True, False], ids=["rgb", "bgr"])
def test_detectors_pipeline(bgr_to_rgb: bool, load: Callable[..., Run]):
    init_default_scope("mmdet")
    data_preprocessor = DetDataPreprocessor(**NORM, bgr_to_rgb=bgr_to_rgb, pad_size_divisor=32)
    run = load([Resize(200, 333)], data_preprocessor, 32, 0.0, None)
    resize = dict(type="Resize", scale=(333, 200), keep_ratio=True)
    meta = ("img_shape", "scale_factor", "ori_shape")
    pipeline = Compose([resize, dict(type="PackDetInputs", meta_keys=meta)])
    for height, width in SIZES:
        image = noise(height, width)
        data = pipeline(dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2]))
        sample = data["data_samples"]
        batch = dict(inputs=[data["inputs"]], data_samples=[sample])
        wanted = data_preprocessor(batch)["inputs"].numpy()
        found = run(image)
        assert_equal(found["x"], wanted)
        assert tuple(found["size"]) == sample.img_shape
        np.testing.assert_allclose(found["scale"], 1 / np.tile(sample.scale_factor, 2), rtol=1e-6)
        np.testing.assert_array_equal(found["rows"], np.arange(height) + 0.5)


@pytest.mark.parametrize(
    ("resize", "steps"),
    [
        (dict(type="Resize", scale=(64, 96), keep_ratio=False), [Resize(96, 64, keep_ratio=False)]),
        (
            dict(type="Resize", scale=(300, 100), keep_ratio=True),
            [Resize(100, 300), ResizeToMultiple(32)],
        ),
    ],
    ids=["exactly", "twice"],
)
def test_segmenters_pipeline(resize: dict, steps: list, load: Callable[..., Run]):
    init_default_scope("mmseg")
    data_preprocessor = SegDataPreProcessor(**NORM, bgr_to_rgb=True, size=(64, 64))
    run = load(steps, data_preprocessor, 1, 0.0, None)
    more = [dict(type="ResizeToMultiple", size_divisor=32)] if len(steps) == 2 else []
    pipeline = Compose([resize, *more, dict(type="PackSegInputs", meta_keys=("img_shape",))])
    for height, width in SIZES:
        image = noise(height, width)
        data = pipeline(dict(img=image, img_shape=image.shape[:2]))
        batch = dict(inputs=[data["inputs"]], data_samples=[data["data_samples"]])
        wanted = data_preprocessor(batch)["inputs"].numpy()
        assert_equal(run(image)["x"], wanted)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_fitted_into_one_size(height: int, width: int, load: Callable[..., Run]):
    data_preprocessor = DetDataPreprocessor(**NORM, pad_size_divisor=32)
    steps = [Resize(96, 160, either_orientation=False)]
    run = load(steps, data_preprocessor, 32, 0.0, (96, 160))
    found = run(noise(height, width))
    assert found["x"].shape == (1, 3, 96, 160)
    new = found["size"].astype(int)
    assert (new <= (96, 160)).all() and (new == (96, 160)).any()
    resized = cv2.resize(noise(height, width), tuple(new[::-1].tolist()))
    inside = found["x"][0, :, : new[0], : new[1]]
    wanted = (
        torch.tensor(resized.transpose(2, 0, 1)).float() - data_preprocessor.mean
    ) / data_preprocessor.std
    assert_equal(inside, wanted.numpy())
    assert found["x"].sum() == pytest.approx(inside.sum(), rel=1e-3)


def test_files_of_more_bits():
    """OpenCV takes the upper 8 where it converts colours; a pipeline that doesn't keeps all."""
    for how, keeps in (
        (dict(), False),
        (dict(color_type="grayscale"), False),
        (dict(color_type="unchanged"), True),
        (dict(imdecode_backend="tifffile"), True),
    ):
        step = dict(type="LoadImageFromFile", **how)
        config = Config(dict(test_dataloader=dict(dataset=dict(pipeline=[step]))))
        assert read_image_format(config).keeps_bits == keeps


@pytest.mark.parametrize("kind", ["color", "grayscale", "unchanged", "color_ignore_orientation"])
def test_images_are_turned_as_the_pipeline_turns_them(kind: str, tmp_path: Path):
    """OpenCV takes JPEG's EXIF tag into account or not, TIFF's always."""
    step = dict(type="LoadImageFromFile", color_type=kind)
    config = Config(dict(test_dataloader=dict(dataset=dict(pipeline=[step]))))
    is_turned = read_image_format(config).is_turned
    read = runpy.run_path(str(ROOT / "tools" / "run_onnx.py"))["read_image"]
    exif = Image.Exif()
    exif[0x112] = 6  # a quarter turn
    for name in ("a.jpg", "a.png", "a.tif"):
        Image.new("RGB", (20, 10)).save(tmp_path / name, exif=exif)
        wanted = TestPipeline(config).load(tmp_path / name)
        assert read(tmp_path / name, is_turned=is_turned).shape[:2] == wanted.shape[:2], name


@pytest.mark.parametrize("kind", ["color", "grayscale", "color_ignore_orientation"])
def test_files_that_pillow_decodes(kind: str, tmp_path: Path):
    """Other bytes than OpenCV's of files with an alpha or 16 bits, and greys of JPEG files."""
    step = dict(type="LoadImageFromFile", color_type=kind, imdecode_backend="pillow")
    config = Config(dict(test_dataloader=dict(dataset=dict(pipeline=[step]))))
    image_format = read_image_format(config)
    read = runpy.run_path(str(ROOT / "tools" / "run_onnx.py"))["read_image"]
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)
    exif = Image.Exif()
    exif[0x112] = 6  # a quarter turn
    Image.fromarray(noise).save(tmp_path / "a.tif", exif=exif)
    Image.fromarray(noise[..., :2]).save(tmp_path / "a.png")
    Image.fromarray(noise[..., :3]).save(tmp_path / "a.jpg", exif=exif)
    cv2.imwrite(str(tmp_path / "deep.png"), noise[..., 0].astype(np.uint16) * 3)
    for path in tmp_path.iterdir():
        wanted = TestPipeline(config).load(path)
        wanted = wanted[..., None] if wanted.ndim == 2 else wanted[..., ::-1]
        how = dict(is_turned=image_format.is_turned, by_pillow=image_format.by_pillow)
        assert np.array_equal(read(path, image_format.channels, **how), wanted), path.name


@pytest.mark.parametrize(
    ("transform", "reason"),
    [
        (dict(backend="pillow"), "Resize with backend='pillow' can't be exported: cv2 can"),
        (dict(interpolation="nearest"), "Resize with nearest interpolation can't be exported"),
        (dict(scale=None, scale_factor=0.5), "Resize without a scale of width and height can't"),
        (dict(type="RandomFlip", prob=1.0), "RandomFlip, a transform of the test pipeline, can't"),
    ],
)
def test_what_would_give_other_pixels_is_refused(transform: dict, reason: str):
    step = dict(type="Resize", scale=(64, 96)) | transform
    config = Config(dict(test_dataloader=dict(dataset=dict(pipeline=[step]))))
    with pytest.raises(ExportError, match=re.escape(reason)):
        read_resizing(config)


def test_one_number_as_a_scale():
    """It is height and width, as in MMCV."""
    step = dict(type="Resize", scale=64, keep_ratio=True)
    config = Config(dict(test_dataloader=dict(dataset=dict(pipeline=[step]))))
    assert read_resizing(config) == [Resize(64, 64)]


def test_sizes_without_float64(load: Callable[..., Run]):
    """Where a side comes to a half exactly, MMCV's float64 rounds it either way."""
    data_preprocessor = DetDataPreprocessor(**NORM)
    rng = np.random.default_rng(0)
    for _ in range(8):
        scale = tuple(map(int, rng.integers(20, 200, 2)))
        run = load([Resize(*scale)], data_preprocessor, 1, 0.0, None, has_float64=False)
        for height, width in rng.integers(2, 300, (20, 2)):
            found = run(np.zeros((height, width, 3), np.uint8))["size"].astype(int)
            sides = sorted((height, width))
            ratio = min(Fraction(max(scale), sides[1]), Fraction(min(scale), sides[0]))
            assert found.tolist() == [
                int(side * ratio + Fraction(1, 2)) for side in (height, width)
            ]


def test_weights_of_any_sizes(load: Callable[..., Run]):
    data_preprocessor = DetDataPreprocessor()
    rng = np.random.default_rng(1)
    for _ in range(6):
        height, width = map(int, rng.integers(1, 700, 2))
        run = load([Resize(height, width, False)], data_preprocessor, 1, 0.0, None)
        for _ in range(2):
            shape = map(int, rng.integers(1, 700, 2))
            image = rng.integers(0, 256, (*shape, 3), np.uint8)
            wanted = cv2.resize(image, (width, height))
            np.testing.assert_array_equal(run(image)["x"][0].transpose(1, 2, 0), wanted)
