"""Exported models in float16, and in int8, calibrated on images."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass
from onnxruntime import quantization

from mmpvt.deploy.openvino_files import set_metadata, to_openvino
from mmpvt.errors import SetupError
from mmpvt.utils.text import counted

if TYPE_CHECKING:
    import openvino

FLOAT32_NODES = ("preprocessing/", "decoding/")  # begin the names of nodes outside the network
SENSITIVE = ("decoder.", "bbox_head.reg_ffn.")  # of a DETR, and cheap beside its backbone
WEIGHTED = ("Conv", "MatMul", "Gemm")  # what int8 is for
# their types are attributes, or they hold coordinates
FLOAT32_OPS = ("Cast", "Constant", "ConstantOfShape", "RoiAlign", "TopK", "NonMaxSuppression")

Sample = np.ndarray | Mapping[str, np.ndarray]  # an image, or all inputs by name


def to_float16(model: ir.Model) -> ir.Model:
    """A copy whose network computes in float16; input and outputs stay as they are.

    Preprocessing and decoding keep float32 throughout, as coordinates beyond 1024 pixels would be
    rounded to whole ones; so do, for the same reason, RoIAlign and narrow last layers.
    """
    half = ir.from_proto(ir.to_proto(model))
    ShapeInferencePass()(half)  # the types that preprocessing has none of
    graph = half.graph
    float16: dict[ir.Value, ir.Value] = {}  # of float32 values
    for node in list(graph):
        if not takes_float16(node, graph):
            continue
        inputs, outputs = _float16_parameters(node, half.opset_imports)
        for i, value in enumerate(node.inputs):
            if value is None or value.dtype != ir.DataType.FLOAT or not inputs(i):
                continue
            if value not in float16:
                float16[value] = _as_float16(value, node, graph)
            node.replace_input_with(i, float16[value])
        for i, value in enumerate(node.outputs):
            if value.dtype == ir.DataType.FLOAT and outputs(i):
                value.dtype = ir.DataType.FLOAT16
                restored = _cast(value, ir.DataType.FLOAT, value.name)
                ir.convenience.replace_all_uses_with(value, restored)
                restored.producer().replace_input_with(0, value)
                graph.insert_after(node, restored.producer())
                float16[restored] = value
    RemoveUnusedNodesPass()(half)
    half.metadata_props["precision"] = "float16"
    return half


def takes_float16(node: ir.Node, graph: ir.Graph) -> bool:
    """Whether a node computes in float16."""
    if node.name.startswith(FLOAT32_NODES) or node.op_type in FLOAT32_OPS:
        return False
    if any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values()):
        return False
    return not narrows_last(node, graph.initializers)


def _float16_parameters(
    node: ir.Node, opsets: Mapping[str, int]
) -> tuple[Callable[[int], bool], Callable[[int], bool]]:
    """Which inputs and outputs of a node may be float16, by their places."""
    if node.domain not in ("", "ai.onnx"):  # onnxruntime's, which onnx has no schema of
        return lambda i: True, lambda i: True
    schema = onnx.defs.get_schema(node.op_type, opsets[""], "")
    allowed = {
        constraint.type_param_str: "tensor(float16)" in constraint.allowed_type_strs
        for constraint in schema.type_constraints
    }

    def may_be(parameters: Sequence, i: int) -> bool:
        parameter = parameters[min(i, len(parameters) - 1)]  # the last may stand for many
        return allowed.get(parameter.type_str, False)

    return lambda i: may_be(schema.inputs, i), lambda i: may_be(schema.outputs, i)


def _as_float16(value: ir.Value, node: ir.Node, graph: ir.Graph) -> ir.Value:
    """A float32 value in float16, before the node that takes it first."""
    name = f"{value.name}/float16"
    if value.is_initializer():
        limit = np.finfo(np.float16).max
        array = value.const_value.numpy().clip(-limit, limit).astype(np.float16)
        converted = ir.Value(
            name=name,
            type=ir.TensorType(ir.DataType.FLOAT16),
            shape=value.shape,
            const_value=ir.tensor(array, name=name),
        )
        graph.register_initializer(converted)
        return converted
    converted = _cast(value, ir.DataType.FLOAT16, value.name)
    graph.insert_before(node, converted.producer())
    return converted


def _cast(value: ir.Value, to: ir.DataType, name: str | None) -> ir.Value:
    cast = ir.node("Cast", [value], {"to": to}, name=f"{name}/to_{to.name.lower()}")
    (output,) = cast.outputs
    output.name, output.shape = f"{name}/{to.name.lower()}", value.shape
    output.type = ir.TensorType(to)
    return output


def to_int8(
    model: ir.Model, images: Sequence[Sample], report: Callable[[str], None] = print
) -> ir.Model:
    """A copy whose layers with weights take int8 (static quantisation, QDQ).

    Weights are quantised per channel, symmetrically; activations per tensor, to the range that they
    have on ``images``, (height, width, channels), uint8, RGB, or all inputs by name. Linear layers
    give float32, as what follows takes it. Attention's own products, preprocessing and decoding
    keep float32.
    """
    names = [node.name for node in model.graph if takes_int8(node, model.graph.initializers)]
    with tempfile.TemporaryDirectory() as folder, quiet():
        original, quantised = (Path(folder, name) for name in ("float32.onnx", "int8.onnx"))
        ir.save(model, original)
        quantization.quantize_static(
            original,
            quantised,
            _CalibrationImages(images, report),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=list(WEIGHTED),
            nodes_to_quantize=names,
            extra_options=dict(
                MatMulConstBOnly=True,
                OpTypesToExcludeOutputQuantization=["MatMul", "Gemm"],
            ),
        )
        result = ir.from_proto(onnx.load(quantised))
    result.metadata_props.update({**model.metadata_props, "precision": "int8"})
    fuse_integer_matmuls(result)
    return result


def to_openvino_int8(
    model: ir.Model, images: Sequence[Sample], report: Callable[[str], None] = print
) -> openvino.Model:
    """A model for OpenVINO whose layers, and attention's products, take int8 (NNCF's post-training
    quantisation).

    Args:
        model (ir.Model): in float32.
        images (Sequence[ndarray | Mapping[str, ndarray]]): uint8, (height, width, channels), RGB,
            or all inputs by name, of a file that takes batches: activations are quantised to the
            range that they have on these.
        report (Callable): takes a line of progress.

    Returns:
        openvino.Model: :func:`mmpvt.deploy.openvino_files.save_openvino` writes it.

    Raises:
        SetupError: openvino or nncf isn't installed.
    """
    nncf = load_nncf()
    original = to_openvino(model)
    report(f"calibrating on {counted(len(images), 'image')}")
    outside = [f"{re.escape(start)}.*" for start in (*FLOAT32_NODES, *SENSITIVE)]
    with redirect_stdout(io.StringIO()):  # bars of progress
        quantised = nncf.quantize(
            original,
            nncf.Dataset(images, _inputs),
            subset_size=len(images),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
            ignored_scope=nncf.IgnoredScope(patterns=outside, validate=False),
            # SmoothQuant cost a DETR on v2 b0 3.4 points of AP: 88.57 with it, 92.01 without, 91.86
            # in float32
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(convolution=-1, matmul=-1)
            ),
        )
    set_metadata(quantised, {**model.metadata_props, "precision": "int8"})
    return quantised


def load_nncf() -> ModuleType:
    """The package, which sends no telemetry and prints no progress.

    Raises:
        SetupError: it isn't installed.
    """
    before = os.environ.get("NNCF_CI")
    os.environ["NNCF_CI"] = "1"  # read on import: nothing is sent
    try:
        import nncf
    except ModuleNotFoundError as error:
        if error.name != "nncf":
            raise
        raise SetupError(
            "int8 for OpenVINO needs nncf, which isn't installed",
            hint="pip install 'mmpvt[openvino]'",
        ) from error
    finally:
        if before is None:
            del os.environ["NNCF_CI"]
        else:
            os.environ["NNCF_CI"] = before
    nncf.set_log_level(logging.ERROR)
    return nncf


def digest(image: np.ndarray) -> str:
    """What an image is known by in ``calibrated_on``, which int8 files say of themselves."""
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()[:16]


def fuse_integer_matmuls(model: ir.Model) -> None:
    """Fuses each linear layer to one operator from int8 to float32, its bias included.

    onnxruntime does the same on loading, but not to a layer that it has turned into a Gemm first:
    that one would run in float32.
    """
    for node in list(model.graph):
        if node.op_type != "MatMul":
            continue
        sources = [value.producer() for value in node.inputs]
        if any(source is None or source.op_type != "DequantizeLinear" for source in sources):
            continue
        (x, x_scale, x_zero), (weight, scale, zero) = (source.inputs for source in sources)
        last, bias = node, None
        users = node.outputs[0].consumers()
        if len(users) == 1 and users[0].op_type == "Add":
            (added,) = (value for value in users[0].inputs if value is not node.outputs[0])
            if added.is_initializer() and added.shape == scale.shape:
                last, bias = users[0], added
        layer = ir.node(
            "MatMulIntegerToFloat",
            [x, weight, x_scale, scale, x_zero, zero, bias],
            domain="com.microsoft",
            name=node.name,
        )
        layer.outputs[0].name = f"{node.name}/sum"
        model.graph.insert_after(last, layer)
        ir.convenience.replace_all_uses_with(last.outputs[0], layer.outputs[0])
        model.graph.remove([last] if last is node else [last, node], safe=True)
    RemoveUnusedNodesPass()(model)


def takes_int8(node: ir.Node, weights: Mapping[str, ir.Value]) -> bool:
    """Whether a node is a layer to quantise.

    Last layers that narrow, to a box's four numbers, say, decide the result and cost little.
    """
    if node.op_type not in WEIGHTED or node.name.startswith((*FLOAT32_NODES, *SENSITIVE)):
        return False
    return node.inputs[1].name in weights and not narrows_last(node, weights)


def narrows_last(node: ir.Node, weights: Mapping[str, ir.Value]) -> bool:
    """Whether a node is a last layer of fewer channels than it takes, such as a box's four."""
    if node.op_type not in WEIGHTED:
        return False
    weight = weights.get(node.inputs[1].name)
    if weight is None:
        return False
    shape = weight.shape.numpy()
    is_transposed = node.op_type == "Conv" or node.attributes.get_int("transB", 0)
    outputs, inputs = shape[:2] if is_transposed else shape[1::-1]
    is_last = all(user.name.startswith(FLOAT32_NODES) for user in node.outputs[0].consumers())
    return is_last and outputs < inputs


class _CalibrationImages(quantization.CalibrationDataReader):
    def __init__(self, images: Sequence[Sample], report: Callable[[str], None]) -> None:
        self.images = enumerate(images, 1)
        self.total, self.report = len(images), report

    def get_next(self) -> dict[str, np.ndarray] | None:
        for number, image in self.images:
            self.report(f"calibrating: image {number} of {self.total}")
            return dict(_inputs(image))
        return None


def _inputs(sample: Sample) -> Mapping[str, np.ndarray]:
    return {"image": sample} if isinstance(sample, np.ndarray) else sample


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the exporter's warnings, which are about itself."""
    loggers = [logging.getLogger(name) for name in ("root", "torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
