"""What TensorRT takes of ONNX, and its NMS plugin in ONNX's own operators.

TensorRT itself isn't run: a model is checked against the operators that its parser lists for
TensorRT 10.15 (onnx-tensorrt, ``docs/operators.md``).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from mmpvt.deploy.operators import EFFICIENT_NMS
from mmpvt.deploy.preprocessing import Operators, int64s
from mmpvt.errors import ExportError

TOPK_LIMIT = 3840  # TopK's K is below it
_LISTED = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh Attention AveragePool
BatchNormalization BlackmanWindow Cast CastLike Ceil Celu Clip Concat Constant ConstantOfShape
Conv ConvTranspose Cos Cosh CumSum DeformConv DepthToSpace DequantizeLinear Div Dropout Einsum
Elu Equal Erf Exp Expand EyeLike Flatten Floor Gather GatherElements GatherND Gelu Gemm
GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
GroupNormalization GRU HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity If
InstanceNormalization IsInf IsNaN LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax
Loop LRN LSTM LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mish
Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or Pad Pow PRelu QuantizeLinear RandomNormal
RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1 ReduceL2
ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare Relu Reshape Resize ReverseSequence RMSNormalization RNN RoiAlign
RotaryEmbedding Round STFT Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid
Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan
Tanh TensorScatter ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
OPERATORS = frozenset(_LISTED.split())
DATA_DEPENDENT = ("NonMaxSuppression", "NonZero")  # sizes that follow from values


def check(model: ir.Model) -> None:
    """Refuses what TensorRT's parser doesn't list, or lists with a restriction that isn't met."""
    for node in model.graph:
        if reason := _reason(node):
            raise ExportError(f"TensorRT can't take {node.op_type} ({node.name}): {reason}")


def _reason(node: ir.Node) -> str | None:
    name = node.op_type
    if (node.domain, name) == EFFICIENT_NMS:
        return None
    if node.domain or name not in OPERATORS:
        return "its parser has no such operator"
    if name in DATA_DEPENDENT:
        return "its output's size follows from values"
    if any(x is not None and x.dtype == ir.DataType.DOUBLE for x in (*node.inputs, *node.outputs)):
        return "it would compute in float32 what is float64"
    if name == "TopK":
        count = ir.convenience.get_const_tensor(node.inputs[1])
        if count is None or count.numpy().item() >= TOPK_LIMIT:
            return f"it gives fewer than {TOPK_LIMIT} values, and their number is a constant"
    if name == "ScatterND" and node.attributes.get_string("reduction", "none") != "none":
        return "it knows no reduction"
    if name == "GridSample" and node.inputs[0].shape is not None and len(node.inputs[0].shape) != 4:
        return "the input has four dimensions"
    return None


def expand_plugins(model: ir.Model) -> ir.Model:
    """A copy for other runtimes, in which NMS is ONNX's own."""
    copy = ir.from_proto(ir.to_proto(model))
    for node in list(copy.graph):
        if (node.domain, node.op_type) == EFFICIENT_NMS:
            tape = Tape()
            outputs = _nms(tape, node)
            copy.graph.insert_before(node, list(tape.nodes))
            for i, part in enumerate(tape.nodes):
                part.name = f"{node.name}/{i}"
                for j, value in enumerate(part.outputs):
                    value.name = f"{node.name}/{i}_{j}"
            for old, new in zip(node.outputs[1:], outputs, strict=True):
                name, old.name = old.name, None
                ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
                new.name = name
            copy.graph.remove(node, safe=True)
    return copy


def _nms(tape: Tape, node: ir.Node) -> list[ir.Value]:
    """Boxes (batch, K, 4), scores and int32 groups (batch, K), as the plugin gives them."""
    op = Operators(tape)
    boxes, per_group = node.inputs
    scores = op.ReduceMax(per_group, int64s(2), keepdims=0)
    groups = op.ArgMax(per_group, axis=2, keepdims=0)
    apart = boxes
    if not node.attributes.get_int("class_agnostic"):
        step = op.Add(op.ReduceMax(boxes, int64s(1, 2)), np.float32(1))
        offset = op.Unsqueeze(op.Cast(groups, to=ir.DataType.FLOAT), int64s(2))
        apart = op.Add(boxes, op.Mul(offset, step))
    count = node.attributes.get_int("max_output_boxes")
    chosen = op.NonMaxSuppression(
        *(apart, op.Unsqueeze(scores, int64s(1)), int64s(count)),
        np.array([node.attributes.get_float("iou_threshold")], np.float32),
        np.array([0], np.float32),
    )
    places = op.Gather(chosen, int64s(0, 2), axis=1)
    zeros = op.Sub(scores, scores)
    kept = op.ScatterND(zeros, places, op.GatherND(scores, places))
    kept, index = tape.op_multi_out("TopK", [kept, op.Identity(int64s(count))], num_outputs=2)
    corners = op.Expand(op.Unsqueeze(index, int64s(2)), int64s(1, 1, 4))
    labels = op.GatherElements(groups, index, axis=1)
    return [
        op.GatherElements(boxes, corners, axis=1),
        kept,
        op.Cast(labels, to=ir.DataType.INT32),
    ]
