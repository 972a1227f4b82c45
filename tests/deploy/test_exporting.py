"""An exported file finds what PyTorch does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder, LegacyDeltaXYWHBBoxCoder
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from mmseg.models.decode_heads import PointHead
from torch import nn
from torch.torch_version import TorchVersion

from helpers import ROOT
from mmpvt.deploy import export
from mmpvt.deploy.decoding import border_of, clip_boxes
from mmpvt.deploy.exporting import Plan, calibration_samples, describe, export_network
from mmpvt.deploy.kinds import exportable
from mmpvt.deploy.precision import digest, quiet, to_float16, to_int8
from mmpvt.deploy.preprocessing import round_shape
from mmpvt.deploy.segmentors import refine_points
from mmpvt.deploy.verification import predict, to_rgb, verify
from mmpvt.engine.config import load_config
from mmpvt.errors import ExportError, SetupError, UserError
from mmpvt.visualization.drawing import colours
from small_models import KINDS, build, picture

SIZES = [(120, 160), (97, 64), (333, 500)]
DEFAULT = [("mask_rcnn", "v2"), ("detr", "v1"), ("fpn", "v2")]
REFUSED = ("deformable_detr", "v1")  # at any size: the sides needn't be multiples of 32
WIDE = [case for kind in KINDS for case in ((kind, "v1"), (kind, "v2")) if case != REFUSED]


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        pytest.param(*case, marks=() if case in DEFAULT else pytest.mark.full, id="-".join(case))
        for case in WIDE
    ],
)
def test_any_size(kind: str, version: str, exported: Callable):
    made = exported(kind, version)
    for size in SIZES:
        deviation = verify(str(made.path), made.model, made.config, picture(*size))
        assert deviation.compared > 5, deviation
        assert deviation.is_small, deviation
        assert deviation.unmatched <= 1e-3 * deviation.compared, deviation
        assert deviation.mask < 0.1, deviation  # a pixel of the smallest


def test_an_image_of_one_column(exported: Callable):
    """ONNX's ``pytorch_half_pixel`` resizes to a side of 1 as PyTorch doesn't."""
    made = exported("fpn", "v2")
    deviation = verify(str(made.path), made.model, made.config, picture(120, 1))
    assert deviation.compared == 120 and not deviation.unmatched


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("retinanet", "v2"),
        pytest.param("mask_rcnn", "v1", marks=pytest.mark.full),
        pytest.param("detr", "v2", marks=pytest.mark.full),
        pytest.param("fpn", "v1", marks=pytest.mark.full),
    ],
)
def test_one_size(kind: str, version: str, exported: Callable):
    shape = (100, 150)  # no multiple of 32: the network sees 128x160
    made = exported(kind, version, shape)
    deviation = verify(
        str(made.path), made.model, made.config, picture(120, 160), round_shape(made.config, shape)
    )
    assert deviation.compared > 5, deviation
    assert deviation.is_small, deviation
    outs = run(made.path, picture(333, 120))  # one that leaves most of the frame empty
    if "boxes" in outs:
        assert (outs["boxes"] >= 0).all()
        assert (outs["boxes"] <= np.array([120, 333, 120, 333]) + 1e-3).all()
    else:
        assert outs["label_map"].shape == (333, 120)


@pytest.mark.full
def test_a_kind_of_one_size_only(exported: Callable):
    with pytest.raises(ExportError, match=r"images of any size.*--shape HEIGHT WIDTH"):
        exported(*REFUSED)
    made = exported(*REFUSED, (120, 160))
    assert verify(str(made.path), made.model, made.config, picture(120, 160)).is_small


@pytest.mark.skipif(torch.__version__ < (2, 9), reason="PyTorch 2.8 exports no such pooling at all")
def test_sizes_that_cannot_be_followed():
    """What PyTorch's exporter takes for the example's size is an error, not a file for one size."""
    model, config = build("fpn", "v1")

    def pool(_, __, maps: tuple) -> tuple:
        pooled = F.adaptive_max_pool2d(maps[0], maps[1].shape[-2:])
        return (maps[0], maps[1] + pooled, *maps[2:])

    model.neck.register_forward_hook(pool)
    with pytest.raises(ExportError, match="can't be exported for images of any size") as error:
        export(model, config, report=print)
    assert "--shape" in error.value.hint


@pytest.mark.parametrize("kind", [DeltaXYWHBBoxCoder, LegacyDeltaXYWHBBoxCoder])
def test_boxes_are_clipped_as_the_coder_does(kind: type):
    coder = kind()
    priors = torch.rand(200, 2).repeat(1, 2) * 80 + torch.tensor([0, 0, 30, 30])
    deltas = torch.randn(200, 4)
    wanted = coder.decode(priors, deltas, max_shape=(60, 90))
    sizes = torch.tensor([[60, 90]]) - border_of(coder)
    found = clip_boxes(coder.decode(priors, deltas)[None], sizes)[0]
    torch.testing.assert_close(found, wanted)


def test_a_real_photograph(exported: Callable, coco_mini: Path):
    made = exported("mask_rcnn", "v2")
    photo = cv2.imread(str(next((coco_mini / "val2017").glob("*.jpg"))))
    deviation = verify(str(made.path), made.model, made.config, photo)
    assert deviation.compared > 5
    assert deviation.is_small, deviation


def test_nothing_found(exported: Callable, tmp_path: Path):
    model = ir.load(exported("mask_rcnn", "v2").path)
    (bias,) = (v for v in model.graph.initializers.values() if v.name.endswith("fc_cls.bias"))
    sure = bias.const_value.numpy().copy()
    sure[-1] = 100  # that everything is background
    bias.const_value = ir.tensor(sure)
    ir.save(model, tmp_path / "model.onnx")
    found = run(tmp_path / "model.onnx", picture(90, 130))
    assert found["boxes"].shape == (0, 4)
    assert found["scores"].shape == found["labels"].shape == (0,)
    assert found["masks"].shape == (0, 90, 130)


def test_what_the_file_says_of_itself(exported: Callable):
    meta = session_of(exported("retinanet", "v2", (100, 150)).path).get_modelmeta()
    facts = meta.custom_metadata_map
    assert facts["task"] == "detection"
    assert facts["model"] == "RetinaNet"
    assert facts["backbone"] == "PyramidVisionTransformerV2"
    assert json.loads(facts["input_size"]) == [128, 160]
    assert json.loads(facts["mean"]) == [123.675, 116.28, 103.53]
    assert set(json.loads(facts["versions"])) >= {"mmpvt", "torch", "mmdet"}
    assert facts["precision"] == "float32"


def test_no_scores_of_attention_are_held(exported: Callable):
    """The backbone's attention is one operator a block, which makes them a part at a time."""
    nodes = [n for n in ir.load(exported("fpn", "v2").path).graph if ".attn/" in n.name]
    kinds = [node.op_type for node in nodes]
    assert kinds.count("MultiHeadAttention") == 4
    assert "Softmax" not in kinds


@pytest.mark.parametrize(("kind", "shape"), [("retinanet", (100, 150)), ("fpn", None)])
def test_int8_where_there_are_weights(
    kind: str, shape: tuple | None, exported: Callable, tmp_path: Path
):
    """Also as onnxruntime runs it, which makes operators of its own of what it reads."""
    model = to_int8(ir.load(exported(kind, "v2", shape).path), [picture(120, 160)])
    ir.save(model, tmp_path / "small.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "run.onnx")
    onnxruntime.InferenceSession(tmp_path / "small.onnx", options)
    nodes = ir.load(tmp_path / "run.onnx").graph
    layers = [n for n in nodes if n.name.startswith(("backbone.", "neck."))]
    kinds = [node.op_type for node in layers]
    assert kinds.count("MatMulIntegerToFloat") == 4 * 5  # blocks: q, kv, proj, fc1, fc2
    assert kinds.count("QLinearConv") > 10
    assert not {"MatMul", "Gemm", "Conv", "FusedConv", "FusedMatMul"} & set(kinds)


@pytest.mark.parametrize("photos", [1, 3, 5])
def test_calibration_of_a_fixed_batch(photos: int):
    """However few images there are, each batch has as many as the file takes."""
    config = load_config(str(ROOT / "configs" / KINDS["retinanet"][0]))
    meta = dict(form="batch", batch="4", input_size="[96, 128]", divisor="32")
    samples = calibration_samples([picture(96, 128)] * photos, config, meta)
    assert {len(sample["images"]) for sample in samples} == {4}
    assert json.loads(meta["calibrated_on"]) == [digest(to_rgb(picture(96, 128)))] * photos


@pytest.mark.parametrize("palette", ["random", (9, 9, 9), [(1, 2, 3), (4, 5, 6)], None])
def test_colours_are_those_of_predictions(palette: object):
    """MMDetection also takes a palette's name, or one colour."""
    model, config = build("retinanet", "v2")
    model.dataset_meta = dict(classes=("a", "b"), palette=palette)
    plan = Plan(model, config, None, "onnxruntime", None)
    told = json.loads(describe(plan, exportable(model), None)["palette"])
    assert list(map(tuple, told)) == colours(palette, 2)


@pytest.mark.parametrize(("precision", "tolerance"), [("float16", 0.03), ("int8", 0.2)])
def test_smaller_numbers(precision: str, tolerance: float, exported: Callable, tmp_path: Path):
    made = exported("retinanet", "v2", (100, 150))
    model = ir.load(made.path)
    photos = [picture(120, 160), picture(140, 100)]
    small = to_float16(model) if precision == "float16" else to_int8(model, photos)
    ir.save(small, tmp_path / "small.onnx")
    facts = session_of(tmp_path / "small.onnx").get_modelmeta().custom_metadata_map
    assert facts["precision"] == precision
    assert facts["task"] == "detection"
    image = picture(120, 160)
    found = run(tmp_path / "small.onnx", image)
    assert found["scores"].dtype == np.float32
    wanted = predict(made.model, made.config, image)["scores"][:5]
    np.testing.assert_allclose(found["scores"][:5], wanted, atol=tolerance)
    assert (tmp_path / "small.onnx").stat().st_size < made.path.stat().st_size


def change(path: str, value: object) -> Callable:
    def do(config: ConfigDict) -> None:
        config.merge_from_dict({path: value})

    return do


def soft(config: ConfigDict) -> None:
    config.model.test_cfg.nms = ConfigDict(type="soft_nms", iou_threshold=0.5, min_score=0)


def flipped(config: ConfigDict) -> None:
    config.test_dataloader.dataset.pipeline.insert(1, ConfigDict(type="RandomFlip", prob=1.0))


@pytest.mark.parametrize(
    ("kind", "spoil", "part"),
    [
        ("retinanet", soft, "soft_nms"),
        ("retinanet", change("model.test_cfg.nms", None), "nms=None"),
        ("retinanet", flipped, "RandomFlip"),
        ("fpn", change("model.test_cfg.mode", "corners"), "corners"),
        ("mask2former", change("model.test_cfg.panoptic_on", True), "panoptic maps"),
        ("fpn", change("model.data_preprocessor.test_cfg", dict(size=(64, 64))), "size"),
    ],
    ids=["soft-nms", "no-nms", "flip", "mode", "panoptic", "padding"],
)
def test_parts_that_cannot_be_exported(kind: str, spoil: Callable, part: str):
    _, config = build(kind, "v2")
    spoil(config)
    init_default_scope(config.default_scope)
    model = MODELS.build(config.model)
    with pytest.raises(UserError, match=part):
        export(model, config)


def test_a_least_size_in_pixels_that_batches_do_not_know():
    model, config = build("retinanet", "v2")
    model.bbox_head.test_cfg.min_bbox_size = 8
    with pytest.raises(ExportError, match=r"min_bbox_size=8 .* can't be exported for batches"):
        export(model, config, batch=2)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("mmdet::grid_rcnn/grid-rcnn_r50_fpn_gn-head_1x_coco.py", "GridRoIHead"),
        ("mmdet::yolact/yolact_r50_8xb8-55e_coco.py", "YOLACT"),
        ("mmseg::psanet/psanet_r50-d8_4xb4-80k_ade20k-512x512.py", "PSAMask"),
    ],
)
def test_kinds_that_cannot_be_exported(name: str, part: str):
    config = load_config(name.replace("mmpvt::", f"{ROOT}/configs/"))
    config.model.backbone.init_cfg = None
    init_default_scope(config.default_scope)
    with pytest.raises(UserError, match=part):
        export(MODELS.build(config.model), config)


@pytest.mark.parametrize(("kind", "version"), DEFAULT)
def test_the_model_is_left_as_it_was(kind: str, version: str, exported: Callable):
    """Its modules' attributes, modes included, and what it predicts."""
    made = exported(kind, version)
    (found, attributes), (found_after, attributes_after) = made.before, made.after
    assert attributes_after == attributes
    for name, array in found.items():
        np.testing.assert_array_equal(found_after[name], array)


def test_upsampling_by_a_fraction_is_named():
    model, config = build("fpn", "v2")
    upsampling = next(m for m in model.decode_head.modules() if type(m).__name__ == "Upsample")
    upsampling.scale_factor = 1.5
    with pytest.raises(UserError, match=r"Upsample by 1.5 can't be exported: integer factors can"):
        export(model, config)


class Masked(nn.Module):
    """Attention that leaves some positions out."""

    outputs = ("found",)

    def forward(self, x):
        return F.scaled_dot_product_attention(x, x, x, torch.zeros(1, 1, 3, 3))


def test_attention_with_a_mask_is_named(monkeypatch: pytest.MonkeyPatch):
    plan = Plan(*build("retinanet", "v2"), (64, 64), "onnxruntime", None)
    monkeypatch.setattr(
        plan, "example", lambda shape: ({"x": torch.zeros(1, 1, 3, 4)}, {"x": None})
    )
    with pytest.raises(UserError, match="attention with a mask can't be exported"):
        export_network(Masked(), plan)


class Clamped(nn.Module):
    """One value clamped twice, in two ways, as reference points of a Deformable DETR are."""

    outputs = ("found",)

    def forward(self, x):
        y = x.sigmoid()
        return y.clamp(0, 1).clamp(min=0.3) + y.clamp(0, 1).clamp(min=0.6)


def test_bounds_of_clamps_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    plan = Plan(*build("retinanet", "v2"), (64, 64), "onnxruntime", None)
    monkeypatch.setattr(plan, "example", lambda shape: ({"x": torch.zeros(3)}, {"x": None}))
    ir.save(export_network(Clamped(), plan), tmp_path / "model.onnx")
    x = np.array([-2, 0, 3], np.float32)
    (found,) = session_of(tmp_path / "model.onnx").run(None, {"x": x})
    np.testing.assert_allclose(found, Clamped()(torch.from_numpy(x)).numpy(), rtol=1e-5)


class Refined(nn.Module):
    """What PointRend does to logits."""

    def __init__(self) -> None:
        super().__init__()
        options = dict(in_channels=[4], in_index=[0], channels=4, num_classes=3, num_fcs=1)
        self.head = PointHead(**options, norm_cfg=None, align_corners=False)
        self.cfg = ConfigDict(subdivision_steps=1, subdivision_num_points=9, scale_factor=2)

    def forward(self, maps, out):
        return refine_points(self.head, (maps,), out, self.cfg)


def test_points_are_refined_at_any_size(tmp_path: Path):
    model = Refined().eval()
    sides = {axis: torch.export.Dim(f"side{axis}", min=2, max=64) for axis in (2, 3)}
    inputs = (torch.randn(1, 4, 8, 12), torch.randn(1, 3, 8, 12))
    with quiet():
        program = torch.onnx.export(model, inputs, dynamo=True, dynamic_shapes=(sides, sides))
    program.save(tmp_path / "model.onnx")
    inputs = (torch.randn(1, 4, 10, 7), torch.randn(1, 3, 10, 7))
    session = session_of(tmp_path / "model.onnx")
    names = [each.name for each in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))
    np.testing.assert_allclose(found, model(*inputs).detach().numpy(), atol=1e-5)


def session_of(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def run(path: Path, image: np.ndarray) -> dict[str, np.ndarray]:
    session = session_of(path)
    rgb = np.ascontiguousarray(image[..., ::-1])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"image": rgb}), strict=True))


def test_an_old_torch(monkeypatch: pytest.MonkeyPatch):
    model, config = build("retinanet", "v2")
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.5.1"))
    with pytest.raises(SetupError, match=r"needs PyTorch 2\.6 or newer.*2\.5\.1.*: pip install"):
        export(model, config)
