"""Files for other runtimes than onnxruntime, and batches."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from helpers import ROOT
from mmpvt.deploy import export, operators, tensorrt
from mmpvt.deploy.exporting import Plan, core_of
from mmpvt.deploy.operators import EFFICIENT_NMS
from mmpvt.deploy.programs import _batched_nms, load_program, write_program
from mmpvt.deploy.verification import compare, verify
from mmpvt.errors import UserError
from small_models import KINDS, build, picture

SHAPE = (100, 150)  # no multiple of 32: frames are 128x160


def full(*cases: tuple) -> list:
    return [pytest.param(*case, marks=pytest.mark.full) for case in cases]


@pytest.mark.parametrize(
    ("kind", "shape", "batch"),
    [
        ("fpn", SHAPE, "dynamic"),
        *full(("retinanet", SHAPE, 2), ("mask2former", SHAPE, 1), ("mask_rcnn", SHAPE, "dynamic")),
        *full(("deformable_detr", SHAPE, 1), ("slide", SHAPE, 1)),
        *full(("detr", None, "dynamic"), ("fpn", None, 3), ("retinanet", None, "dynamic")),
        *full(("mask_rcnn", None, 2), ("gfl", SHAPE, 2), ("atss", SHAPE, "dynamic")),
        *full(("cascade", SHAPE, 2), ("mask2former", SHAPE, 2), ("slide", SHAPE, 2)),
    ],
)
def test_a_batch(kind: str, shape: tuple | None, batch: int | str, exported: Callable):
    """Each image's results are PyTorch's of the same batch; sizes differ where they may."""
    made = exported(kind, "v2", shape, runtime="any", batch=batch)
    deviation = verify(str(made.path), made.model, made.config, picture(120, 160), shape)
    images = 2 if batch == "dynamic" else batch
    assert deviation.compared >= 10 * images, deviation
    assert deviation.is_small, deviation
    assert deviation.mask < 0.05, deviation
    assert deviation.unmatched == 0 or kind in ("fpn", "slide"), deviation
    model = onnx.load(made.path)
    assert {(x.domain, x.version) for x in model.opset_import} == {("", 21)}
    assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.parametrize(
    ("kind", "batch"),
    [("mask_rcnn", 2), *full(("mask_rcnn", 1), ("retinanet", 2), ("detr", 2), ("fpn", 2))],
)
def test_tensorrt(kind: str, batch: int, exported: Callable):
    """Every operator is one that its parser lists, and no size follows from values.

    `write` compares what onnxruntime finds, with ONNX's NMS for the plugin, with PyTorch.
    """
    made = exported(kind, "v2", SHAPE, runtime="tensorrt", batch=batch)
    model = ir.load(made.path)
    plugins = [node for node in model.graph if (node.domain, node.op_type) == EFFICIENT_NMS]
    assert len(plugins) == {"retinanet": 1, "mask_rcnn": 2}.get(kind, 0)
    assert {node.domain for node in model.graph} == {"", *(node.domain for node in plugins)}
    for value in (*model.graph.inputs, *model.graph.outputs):
        assert all(isinstance(side, int) for side in value.shape), value
    facts = model.metadata_props
    assert (facts["form"], facts["runtime"], facts["batch"]) == ("batch", "tensorrt", str(batch))


def test_what_tensorrt_lacks_is_named():
    for kind, domain, inputs, attributes, reason in (
        ("NonZero", "", 1, {}, "size follows from values"),
        ("Unique", "", 1, {}, "no such operator"),
        ("MultiHeadAttention", "com.microsoft", 3, {}, "no such operator"),
        ("TopK", "", 2, {}, "fewer than 3840"),
        ("ScatterND", "", 3, {"reduction": "add"}, "no reduction"),
    ):
        x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([5000]))
        node = ir.node(kind, [x] * inputs, attributes, domain=domain, name="decoding/part")
        model = ir.Model(ir.Graph([x], node.outputs, nodes=[node]), ir_version=10)
        with pytest.raises(UserError, match=rf"{node.op_type} \(decoding/part\).*{reason}"):
            tensorrt.check(model)


@pytest.mark.parametrize("kind", ["retinanet", *full(("atss",))])
def test_without_nms(kind: str, exported: Callable):
    """Candidates and the metadata's NMS give what PyTorch finds (`write` compares it)."""
    made = exported(kind, "v2", SHAPE, runtime="any", batch=1, without_nms=True)
    model = ir.load(made.path)
    assert "NonMaxSuppression" not in {node.op_type for node in model.graph}
    nms = json.loads(model.metadata_props["nms"])
    assert nms["type"] == "nms"
    assert nms["iou_threshold"] == made.model.bbox_head.test_cfg.nms.iou_threshold
    assert nms["max_per_img"] == 100


class GatherElements(OpRun):
    """onnx's own takes no more than 64 places."""

    op_domain = ""

    def _run(self, x, index, axis):
        return (np.take_along_axis(x, index, axis),)


@pytest.mark.parametrize("kind", ["fpn", *full(*((kind,) for kind in KINDS if kind != "fpn"))])
def test_onnx_reference(kind: str, exported: Callable):
    """ONNX's own, slow implementation of its operators gives what onnxruntime gives."""
    made = exported(kind, "v2", (64, 64), runtime="any", batch=1)
    model = onnx.load(made.path)
    images = picture(64, 64)[None]
    inputs = dict(images=images, sizes=np.array([[64, 60]]))
    session = onnxruntime.InferenceSession(made.path, providers=["CPUExecutionProvider"])
    reference = ReferenceEvaluator(model, new_ops=[GatherElements])
    for ours, theirs in zip(session.run(None, inputs), reference.run(None, inputs), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_nms_as_a_fixed_point():
    """Of many boxes in one another's way, the same as greedy NMS keeps, in the same order."""
    generator = torch.Generator().manual_seed(0)
    for count, agnostic in ((1, False), (300, True), (700, False)):
        corners = torch.rand(2, count, 2, generator=generator) * 80
        sides = torch.rand(2, count, 2, generator=generator) * 40 + 1
        boxes = torch.cat([corners, corners + sides], dim=2)
        scores = torch.rand(2, count, generator=generator) - 0.1
        groups = torch.randint(0, 3, (2, count), generator=generator)
        options = (boxes, scores, groups, 3, agnostic, 0.4, 100)
        wanted, found = operators.batched_nms(*options), _batched_nms(*options)
        for ours, theirs in zip(found, wanted, strict=True):
            is_kept = wanted[1] > 0
            assert torch.equal(ours[is_kept], theirs[is_kept])
        assert (found[1] <= 0).equal(wanted[1] <= 0)


@pytest.mark.parametrize(
    ("kind", "compiled"), [("retinanet", False), *full(("retinanet", True), ("detr", True))]
)
def test_a_program_of_pytorch(kind: str, compiled: bool, tmp_path: Path):
    model, config = build(kind, "v2")
    path = tmp_path / "model.pt2"
    image = picture(120, 160)
    options = dict(batch=2, compiled=compiled, image=image, report=lambda _: None)
    deviation = write_program(model, config, path, SHAPE, **options)
    assert deviation.compared >= 20
    assert deviation.is_small, deviation
    run, meta = load_program(path)
    assert meta["runtime"] == "pytorch"
    frames = np.zeros((2, 128, 160, 3), np.uint8)
    found = run(dict(images=frames, sizes=np.array([[100, 150], [90, 60]])))
    assert {name: len(x) for name, x in found.items()} == dict(boxes=2, scores=2, labels=2)
    assert list(tmp_path.iterdir()) == [path]
    if compiled and torch.cpu._is_avx512_supported():
        run_onnx = SimpleNamespace(**runpy.run_path(str(ROOT / "tools" / "run_onnx.py")))
        with (
            mock.patch.object(torch.cpu, "_is_avx512_supported", return_value=False),
            pytest.raises(run_onnx.UserError, match="for a processor with AVX512"),
        ):
            run_onnx.Model(path, 1)


def test_a_program_of_another_tool(tmp_path: Path):
    program = torch.export.export(torch.nn.ReLU(), (torch.zeros(2),))
    torch.export.save(program, tmp_path / "model.pt2")
    run_onnx = SimpleNamespace(**runpy.run_path(str(ROOT / "tools" / "run_onnx.py")))
    with pytest.raises(run_onnx.UserError, match="is another kind of model"):
        run_onnx.Model(tmp_path / "model.pt2", 1)


@pytest.mark.full
def test_torch_compile_finds_the_same():
    """The core that is exported, compiled in place of exported."""
    model, config = build("retinanet", "v2")
    core, _ = core_of(Plan(model, config, SHAPE, "any", 1), without_nms=False)
    core.eval()
    inputs = (torch.randn(1, 3, 128, 160), torch.tensor([[100.0, 150.0]]), torch.ones(1, 4))
    with torch.no_grad():
        wanted, found = (
            {name: x[0].numpy() for name, x in zip(core.outputs, run(*inputs), strict=True)}
            # within forward's mode of plain layers PyTorch 2.13 can't compile NumPy's numbers
            for run in (core, torch.compile(core.predict))
        )
    deviation = compare(found, wanted)
    assert deviation.compared == 100
    assert deviation.is_small, deviation


def test_a_two_stage_program_needs_torchvision(tmp_path: Path):
    if hasattr(torch.ops.torchvision, "roi_align"):
        pytest.skip("torchvision's operators are there")
    model, config = build("mask_rcnn", "v2")
    with pytest.raises(UserError, match=r"needs torchvision's RoIAlign.*pip install torchvision"):
        write_program(model, config, tmp_path / "model.pt2", SHAPE, report=lambda _: None)
    assert not list(tmp_path.iterdir())


def test_masks_need_nms():
    model, config = build("mask_rcnn", "v2")
    with pytest.raises(UserError, match="MaskRCNN without its NMS can't be exported"):
        export(model, config, SHAPE, runtime="any", batch=1, without_nms=True)
