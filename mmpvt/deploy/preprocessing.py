"""The image's way into the network as a graph: resized, normalised and padded, bit for bit as
OpenCV and MMEngine do it.

OpenCV resizes bytes bilinearly in whole numbers: a weight is a multiple of 1/2048; rows are summed
after their last four bits are dropped (``modules/imgproc/src/resize.cpp``, ``HResizeLinear`` and
``VResizeLinear``). So does this graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from mmseg.models import SegDataPreProcessor
from onnx_ir.tape import Tape
from torch import nn

from mmpvt.deploy.sizes import Exactly, Loading, Step, UpToMultiple

SCALE = 2048  # a weight of one, in OpenCV's whole numbers


class Preprocessing:
    """The graph's nodes, from ``image`` to the network's inputs.

    Args:
        steps (Sequence[Step]): resizing.
        normaliser (nn.Module): the model's data preprocessor: mean, std, order of channels.
        divisor (int): the sides that the network sees are multiples of it.
        pad_value (float): what is padded with, after normalisation.
        canvas (Sequence[int] | None): height and width to pad to, in place of ``divisor``.
        channels (int): of the image. Default: 3.
        loading (Loading): how the test pipeline decodes it. Default: by OpenCV, as bytes.

    Attributes:
        image (ir.Value): uint8, (height, width, channels), red first.
        outputs (dict[str, ir.Value]): ``x``, float32, (1, channels, height, width); ``size``,
            float32, (2,), height and width before padding; ``scale``, float32, (4,), of x, y, x, y
            from there to the image's pixels; ``rows`` and ``columns``, float32, the centres of the
            image's pixels.
        nodes (list[ir.Node]): in order.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        normaliser: nn.Module,
        divisor: int,
        pad_value: float,
        canvas: Sequence[int] | None,
        channels: int = 3,
        loading: Loading = Loading(),  # noqa: B008  it is frozen
    ) -> None:
        self._loading, self._channels = loading, channels
        self._tape = Tape()
        self.image = ir.Value(
            name="image",
            type=ir.TensorType(ir.DataType.UINT8),
            shape=ir.Shape(["height", "width", channels]),
        )
        original = self._sides(self.image)
        kind = ir.DataType.FLOAT if loading.is_float else ir.DataType.INT32
        x = self._op("Cast", self.image, to=kind)
        sides = original
        for step in steps:
            sides = self._target(step, sides)
            x = self._resized(x, self._sides(x), sides)
        x = self._normalised(x, normaliser)
        x = self._op("Unsqueeze", x, self._const([0], np.int64))
        size = self._op("Concat", *sides, axis=0)
        sizes = [self._op("Cast", s, to=ir.DataType.DOUBLE) for s in (size, self._joined(original))]
        ratio = self._op("Cast", self._op("Div", sizes[1], sizes[0]), to=ir.DataType.FLOAT)
        height, width = self._op("Split", ratio, num_outputs=2, axis=0, outputs=2)
        self.outputs = {
            "x": self._padded(x, sides, divisor, pad_value, canvas),
            "size": self._op("Cast", size, to=ir.DataType.FLOAT),
            "scale": self._op("Concat", width, height, width, height, axis=0),
            "rows": self._centres(original[0]),
            "columns": self._centres(original[1]),
        }
        self.nodes = list(self._tape.nodes)

    def _op(self, op_type: str, *inputs: ir.Value, outputs: int = 1, **attributes):
        if outputs > 1:
            return self._tape.op_multi_out(op_type, inputs, attributes, num_outputs=outputs)
        return self._tape.op(op_type, inputs, attributes)

    def _const(self, value: object, dtype: type) -> ir.Value:
        return self._op("Constant", value=ir.tensor(np.asarray(value, dtype)))

    def _joined(self, sides: Sequence[ir.Value]) -> ir.Value:
        return self._op("Concat", *sides, axis=0)

    def _sides(self, x: ir.Value) -> list[ir.Value]:
        """Height and width of (height, width, channels), each int64, (1,)."""
        return [self._op("Shape", x, start=i, end=i + 1) for i in (0, 1)]

    def _target(self, step: Step, sides: Sequence[ir.Value]) -> list[ir.Value]:
        """The sides after ``step``, as MMCV's ``rescale_size`` rounds them."""
        if isinstance(step, Exactly):
            return [self._const([side], np.int64) for side in (step.height, step.width)]
        if isinstance(step, UpToMultiple):
            return [self._rounded_up(side, step.divisor) for side in sides]
        doubles = [self._op("Cast", side, to=ir.DataType.DOUBLE) for side in sides]
        frame = [self._const([side], np.float64) for side in (step.height, step.width)]
        measured = doubles
        if step.any_way_round:
            frame = [self._op(kind, *frame) for kind in ("Max", "Min")]
            measured = [self._op(kind, *doubles) for kind in ("Max", "Min")]
        ratios = [self._op("Div", *pair) for pair in zip(frame, measured, strict=True)]
        ratio = self._op("Min", *ratios)
        half = self._const([0.5], np.float64)
        new = [self._op("Add", self._op("Mul", side, ratio), half) for side in doubles]
        return [self._op("Cast", self._op("Floor", x), to=ir.DataType.INT64) for x in new]

    def _rounded_up(self, side: ir.Value, divisor: int) -> ir.Value:
        d = self._const([divisor], np.int64)
        raised = self._op("Add", side, self._const([divisor - 1], np.int64))
        return self._op("Mul", self._op("Div", raised, d), d)

    def _taps(self, old: ir.Value, new: ir.Value, fades: bool) -> tuple[ir.Value, ...]:
        """Of each new position: its two old neighbours and their weights.

        Of bytes the weights are times ``SCALE``.

        Beyond the outermost centres both neighbours are the same; there OpenCV also drops the
        fraction along x, but not along y, which matters to rounding.
        """
        doubles = [self._op("Cast", side, to=ir.DataType.DOUBLE) for side in (old, new)]
        one = self._const([1.0], np.float64)
        step = self._op("Div", one, self._op("Div", doubles[1], doubles[0]))
        positions = self._op("Cast", self._range(new), to=ir.DataType.DOUBLE)
        half = self._const([0.5], np.float64)
        centre = self._op("Mul", self._op("Add", positions, half), step)
        centre = self._op("Cast", self._op("Sub", centre, half), to=ir.DataType.FLOAT)
        floor = self._op("Floor", centre)
        fraction = self._op("Sub", centre, floor)
        first = self._op("Cast", floor, to=ir.DataType.INT64)
        zero, one = self._const(0, np.int64), self._const(1, np.int64)
        last = self._op("Sub", self._op("Squeeze", old), one)
        if fades:
            inside = self._op(
                "And", self._op("GreaterOrEqual", first, zero), self._op("Less", first, last)
            )
            fraction = self._op("Where", inside, fraction, self._const(0, np.float32))
        weights: list[ir.Value] = []
        for part in (self._op("Sub", self._const(1, np.float32), fraction), fraction):
            if self._loading.is_float:
                weights.append(part)
                continue
            scaled = self._op("Round", self._op("Mul", part, self._const(SCALE, np.float32)))
            weights.append(self._op("Cast", scaled, to=ir.DataType.INT32))
        second = self._op("Add", first, one)
        neighbours = [self._op("Clip", index, zero, last) for index in (first, second)]
        return *neighbours, *weights

    def _resized(self, x: ir.Value, old: Sequence[ir.Value], new: Sequence[ir.Value]) -> ir.Value:
        """(height, width, channels), int32 of bytes or float32, to another size."""
        left, right = self._taken(x, 1, old, new)
        if self._loading.is_float:
            x = self._op("Add", left, right)
            return self._op("Add", *self._taken(x, 0, old, new))
        x = self._op("Div", self._op("Add", left, right), self._const(16, np.int32))
        parts = self._taken(x, 0, old, new)
        upper, lower = (self._op("Div", part, self._const(65536, np.int32)) for part in parts)
        total = self._op("Add", self._op("Add", upper, lower), self._const(2, np.int32))
        return self._op("Div", total, self._const(4, np.int32))

    def _taken(
        self, x: ir.Value, axis: int, old: Sequence[ir.Value], new: Sequence[ir.Value]
    ) -> list[ir.Value]:
        """Both neighbours of each new position along an axis, each times its weight."""
        *neighbours, a, b = self._taps(old[axis], new[axis], fades=axis == 1)
        shape = self._const((1, -1, 1) if axis else (-1, 1, 1), np.int64)
        weights = [self._op("Reshape", weight, shape) for weight in (a, b)]
        return [
            self._op("Mul", self._op("Gather", x, index, axis=axis), weight)
            for index, weight in zip(neighbours, weights, strict=True)
        ]

    def _normalised(self, x: ir.Value, normaliser: nn.Module) -> ir.Value:
        """(height, width, channels), red first, to (channels, height, width), normalised."""
        x = self._op("Cast", self._op("Transpose", x, perm=(2, 0, 1)), to=ir.DataType.FLOAT)
        if self._channels > 2 and self._loading.is_bgr != exchanges(normaliser, self._channels):
            order = [2, 1, 0, *range(3, self._channels)]
            x = self._op("Gather", x, self._const(order, np.int64), axis=0)
        if normaliser._enable_normalize:
            for op_type, values in (("Sub", normaliser.mean), ("Div", normaliser.std)):
                x = self._op(op_type, x, self._const(values.view(-1, 1, 1).numpy(), np.float32))
        return x

    def _padded(
        self,
        x: ir.Value,
        sides: Sequence[ir.Value],
        divisor: int,
        value: float,
        canvas: Sequence[int] | None,
    ) -> ir.Value:
        if canvas is None and divisor == 1:
            return x
        if canvas is None:
            whole = [self._rounded_up(side, divisor) for side in sides]
        else:
            whole = [self._const([side], np.int64) for side in canvas]
        missing = [self._op("Sub", *pair) for pair in zip(whole, sides, strict=True)]
        pads = self._joined([self._const([0] * 6, np.int64), *missing])
        return self._op("Pad", x, pads, self._const(value, np.float32))

    def _range(self, count: ir.Value) -> ir.Value:
        start, step = self._const(0, np.int64), self._const(1, np.int64)
        return self._op("Range", start, self._op("Squeeze", count), step)

    def _centres(self, side: ir.Value) -> ir.Value:
        positions = self._op("Cast", self._range(side), to=ir.DataType.FLOAT)
        return self._op("Add", positions, self._const(0.5, np.float32))


def exchanges(normaliser: nn.Module, channels: int) -> bool:
    """Whether the model exchanges red and blue. MMSegmentation does so in three channels only."""
    turns = getattr(normaliser, "_channel_conversion", False) or getattr(
        normaliser, "channel_conversion", False
    )
    return bool(turns) and not (isinstance(normaliser, SegDataPreProcessor) and channels != 3)
