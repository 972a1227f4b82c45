"""Exported files on OpenVINO, in float16 and in int8."""

from __future__ import annotations

import multiprocessing
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
import onnx_ir as ir
import pytest

from helpers import ROOT
from mmpvt.deploy.openvino_files import read_metadata, save_openvino, to_openvino
from mmpvt.deploy.precision import FLOAT32_NODES, to_float16, to_openvino_int8
from mmpvt.deploy.verification import compare, predict, to_rgb
from mmpvt.errors import SetupError
from small_models import picture

if TYPE_CHECKING:
    from conftest import Exported

PHOTOS = [to_rgb(picture(120, 160)), to_rgb(picture(140, 100))]
run_onnx = SimpleNamespace(**runpy.run_path(str(ROOT / "tools" / "run_onnx.py")))


def apart(check: Callable, *args: object) -> None:
    """Checks in a copy of this process: copies that later tests make of one in which OpenVINO's
    threads were started crash.
    """
    process = multiprocessing.get_context("fork").Process(target=check, args=args)
    process.start()
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        pytest.param("retinanet", "v1", marks=pytest.mark.full),
        *(("mask_rcnn", "v2"), ("detr", "v1"), ("fpn", "v2")),
    ],
)
def test_openvino_finds_what_pytorch_does(
    kind: str, version: str, exported: Callable, tmp_path: Path
):
    """Of an ONNX file, and of OpenVINO's own with the same facts in it."""
    apart(check_openvino, exported(kind, version), tmp_path)


def check_openvino(made: Exported, tmp_path: Path) -> None:
    own = tmp_path / "model.xml"
    save_openvino(to_openvino(ir.load(made.path)), own)
    models = [run_onnx.Model(path, 1, "openvino") for path in (made.path, own)]
    facts = run_onnx.Model(made.path, 1).runtime.meta
    assert models[0].runtime.meta == facts
    assert models[1].runtime.meta == {**facts, "runtime": "openvino"}
    # of sizes that needn't be resized: OpenVINO takes doubles as floats, so that a few bytes then
    # differ by one, which decides much in a network of random weights
    is_segmenter = "label_map" in models[0].names
    for size in ((120, 160), (97, 64)) if is_segmenter else ((160, 224), (224, 160)):
        expected = predict(made.model, made.config, picture(*size))
        for model in models:
            (found,) = model([to_rgb(picture(*size))])
            deviation = compare(found, expected)
            assert deviation.is_small and deviation.compared > 5, deviation


@pytest.mark.parametrize(("kind", "version"), [("detr", "v1")])
def test_float16_rounds_the_network_alone(
    kind: str, version: str, exported: Callable, tmp_path: Path
):
    """Boxes in the decoding, of hundreds of pixels, keep float32: they stay within 0.1 pixels."""
    made = exported(kind, version)
    model = to_float16(ir.load(made.path))
    ir.save(model, tmp_path / "half.onnx")
    for node in model.graph:
        if node.name.startswith(FLOAT32_NODES) and node.op_type != "Cast":
            kinds = [value.dtype for value in (*node.inputs, *node.outputs) if value is not None]
            assert ir.DataType.FLOAT16 not in kinds, node
    halves = [x for x in model.graph.initializers.values() if x.dtype == ir.DataType.FLOAT16]
    assert len(halves) > 50
    image = picture(333, 500)
    (found,) = run_onnx.Model(tmp_path / "half.onnx", 1)([to_rgb(image)])
    expected = predict(made.model, made.config, image)
    deviation = compare(found, expected)
    assert deviation.box < 0.1 and deviation.score < 5e-3, deviation
    assert deviation.unmatched <= 0.1 * deviation.compared, deviation


def test_int8_of_openvino(exported: Callable, tmp_path: Path):
    apart(check_int8, exported("retinanet", "v2", (100, 150)), tmp_path)


def check_int8(made: Exported, tmp_path: Path) -> None:
    quantised = to_openvino_int8(ir.load(made.path), PHOTOS, lambda line: None)
    save_openvino(quantised, tmp_path / "model.xml")
    facts = read_metadata(quantised)
    assert facts["precision"] == "int8" and facts["task"] == "detection"
    layers = [op for op in quantised.get_ops() if op.get_type_name() in ("Convolution", "MatMul")]
    sources = [op.input_value(0).get_node().get_type_name() for op in layers]
    assert sources.count("FakeQuantize") > 30
    model = run_onnx.Model(tmp_path / "model.xml", 1)
    (found,) = model([PHOTOS[0]])
    wanted = predict(made.model, made.config, picture(120, 160))["scores"][:5]
    np.testing.assert_allclose(found["scores"][:5], wanted, atol=0.2)
    size = (tmp_path / "model.bin").stat().st_size
    save_openvino(to_openvino(ir.load(made.path)), tmp_path / "half.xml", half=True)
    assert size < (tmp_path / "half.bin").stat().st_size < made.path.stat().st_size


def test_missing_packages(exported: Callable):
    apart(check_missing_packages, exported("fpn", "v2"))


def check_missing_packages(made: Exported) -> None:
    for package in ("nncf", "openvino"):
        with (
            mock.patch.dict(sys.modules, {package: None}),
            pytest.raises(SetupError, match=f"need.* {package}, which isn't installed"),
        ):
            to_openvino_int8(ir.load(made.path), PHOTOS)
