"""Smaller numbers: float16, and int8 calibrated on images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxruntime import quantization
from onnxruntime.transformers.float16 import convert_float_to_float16

from mmpvt.deploy.exporting import OUTSIDE, quiet

DELICATE = ("decoder.", "bbox_head.reg_ffn.")  # of a DETR, and cheap beside its backbone
QUANTISED = "DequantizeLinear"  # what gives a quantised tensor to an operator
WEIGHTED = ("Conv", "MatMul", "Gemm")  # what int8 is for


def to_float16(model: ir.Model) -> ir.Model:
    """A copy in float16; preprocessing, decoding, input and outputs stay as they are.

    Args:
        model (ir.Model): of :func:`mmpvt.deploy.exporting.export`.
    """
    outside = [node.name for node in model.graph if node.name.startswith(OUTSIDE)]
    with quiet():
        half = convert_float_to_float16(
            ir.to_proto(model),
            keep_io_types=True,
            node_block_list=outside,
        )
    return _described(half, model, "float16")


def to_int8(
    model: ir.Model, images: Sequence[np.ndarray], report: Callable[[str], None] = print
) -> ir.Model:
    """A copy whose layers with weights take int8.

    Weights are quantised a channel at a time, symmetrically; activations a tensor at a time, to the
    range that they have on ``images``. Linear layers give float32, as what follows takes it.
    Attention's own products, preprocessing and decoding keep float32.

    Args:
        model (ir.Model): of :func:`mmpvt.deploy.exporting.export`.
        images (Sequence[ndarray]): uint8, (height, width, channels), red first.
        report (Callable): takes a line of progress.
    """
    names = [node.name for node in model.graph if takes_int8(node, model.graph.initializers)]
    with tempfile.TemporaryDirectory() as folder, quiet():
        whole, small = (Path(folder, name) for name in ("whole.onnx", "small.onnx"))
        ir.save(model, whole)
        quantization.quantize_static(
            whole,
            small,
            _Images(images, report),
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
        quantised = _described(onnx.load(small), model, "int8")
    multiply_integers(quantised)
    return quantised


def multiply_integers(model: ir.Model) -> None:
    """Makes each linear layer one operator from int8 to float32, its bias included.

    onnxruntime does the same on loading, but not to a layer that it has first made a Gemm of: that
    one would be calculated in float32.

    Args:
        model (ir.Model): quantised; it is changed.
    """
    for node in list(model.graph):
        if node.op_type != "MatMul":
            continue
        sources = [value.producer() for value in node.inputs]
        if any(source is None or source.op_type != QUANTISED for source in sources):
            continue
        (x, x_scale, x_zero), (weight, scale, zero) = (source.inputs for source in sources)
        done, bias = node, None
        users = node.outputs[0].consumers()
        if len(users) == 1 and users[0].op_type == "Add":
            (added,) = (value for value in users[0].inputs if value is not node.outputs[0])
            if added.is_initializer() and added.shape == scale.shape:
                done, bias = users[0], added
        layer = ir.node(
            "MatMulIntegerToFloat",
            [x, weight, x_scale, scale, x_zero, zero, bias],
            domain="com.microsoft",
            name=node.name,
        )
        layer.outputs[0].name = f"{node.name}/sum"
        model.graph.insert_after(done, layer)
        ir.convenience.replace_all_uses_with(done.outputs[0], layer.outputs[0])
        model.graph.remove([done] if done is node else [done, node], safe=True)
    RemoveUnusedNodesPass()(model)


def takes_int8(node: ir.Node, weights: Mapping[str, ir.Value]) -> bool:
    """Whether a node is a layer that is worth int8, and bears it.

    What decides is left alone: last layers that narrow, to a box's four numbers, say. They cost
    little.
    """
    if node.op_type not in WEIGHTED or node.name.startswith((*OUTSIDE, *DELICATE)):
        return False
    weight = weights.get(node.inputs[1].name)
    if weight is None:
        return False
    shape = weight.shape.numpy()
    is_dense = node.op_type == "MatMul" or (node.op_type == "Gemm" and not _is_turned(node))
    outputs, inputs = shape[1::-1] if is_dense else shape[:2]
    is_last = all(user.name.startswith(OUTSIDE) for user in node.outputs[0].consumers())
    return not (is_last and outputs < inputs)


def _is_turned(node: ir.Node) -> bool:
    return "transB" in node.attributes and node.attributes["transB"].as_int() == 1


class _Images(quantization.CalibrationDataReader):
    """Hands images to the calibration, one at a time."""

    def __init__(self, images: Sequence[np.ndarray], report: Callable[[str], None]) -> None:
        self.images = iter(images)
        self.total = len(images)
        self.report = report
        self.done = 0

    def get_next(self) -> dict[str, np.ndarray] | None:
        image = next(self.images, None)
        if image is None:
            return None
        self.done += 1
        self.report(f"calibrating: image {self.done} of {self.total}")
        return {"image": image}


def _described(proto: onnx.ModelProto, original: ir.Model, precision: str) -> ir.Model:
    model = ir.from_proto(proto)
    model.metadata_props.update(original.metadata_props)
    model.metadata_props["precision"] = precision
    return model
