"""The test pipeline and the data preprocessor as an ONNX graph: an image is resized, normalised and
padded bit for bit as OpenCV and MMEngine do it.

OpenCV resizes bytes bilinearly in fixed point: a weight is a multiple of 1/2048; rows are summed
after their last four bits are dropped (``modules/imgproc/src/resize.cpp``, ``HResizeLinear`` and
``VResizeLinear``). So does this graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from mmengine.config import Config
from mmseg.models import SegDataPreProcessor
from onnx_ir.tape import Tape
from torch import nn

from mmpvt.engine.pipeline import test_transforms
from mmpvt.engine.pixel_check import loading_step, transform_name
from mmpvt.errors import ExportError

SCALE = 2048  # a weight of 1 in OpenCV's fixed point


@dataclass(frozen=True)
class Resize:
    """MMCV's transform of that name.

    Attributes:
        height, width (int): in pixels.
        keep_ratio (bool): as large as fits into them.
        either_orientation (bool): with ``keep_ratio``, the larger of them is for the image's longer
            side, as in MMCV; otherwise height is for height.
    """

    height: int
    width: int
    keep_ratio: bool = True
    either_orientation: bool = True


@dataclass(frozen=True)
class ResizeToMultiple:
    """MMSegmentation's transform of that name: each side is rounded up to a multiple."""

    divisor: int


@dataclass(frozen=True)
class ImageFormat:
    """How an image of 8 bits is decoded.

    Attributes:
        channels (int | None): None for those that the file has.
        is_bgr (bool): blue first; otherwise in the file's order.
        is_float (bool): converted to float32 before it is resized.
    """

    channels: int | None = 3
    is_bgr: bool = True
    is_float: bool = False


def read_image_format(config: Config) -> ImageFormat:
    """How the test pipeline decodes images.

    Raises:
        ExportError: in a way that an exported file's user can't follow.
    """
    pipeline = test_transforms(config)
    place = loading_step(pipeline)
    if place is None:
        return ImageFormat()
    step = pipeline[place]
    name = transform_name(step)
    if name not in ("LoadImageFromFile", "LoadImageFromNDArray"):
        raise ExportError(
            f"{name}, which loads the test pipeline's images, can't be exported: LoadImageFromFile "
            "can"
        )
    if step.get("max_value") is not None:
        raise ExportError(
            "LoadImageFromFile with max_value can't be exported: it is for images of more than 8 "
            "bits a channel, and an exported file takes 8"
        )
    kind = step.get("color_type", "color").removesuffix("_ignore_orientation")
    is_bgr = step.get("imdecode_backend") != "tifffile"
    channels = {"color": 3, "grayscale": 1}.get(kind) if is_bgr else None
    return ImageFormat(channels, is_bgr, bool(step.get("to_float32")))


def read_resizing(
    config: Config, shape: Sequence[int] | None = None
) -> list[Resize | ResizeToMultiple]:
    """The resizing of the test pipeline.

    Args:
        config (Config): of the model.
        shape (Sequence[int] | None): height and width to take in the place of the pipeline's.

    Returns:
        list[Resize | ResizeToMultiple]: in order.

    Raises:
        ExportError: the pipeline holds a transform that can't be exported; it is named.
    """
    steps: list[Resize | ResizeToMultiple] = []
    for transform in test_transforms(config):
        name = transform_name(transform)
        if name.startswith(("Load", "Pack")):
            continue
        if name == "Resize":
            scale = transform.get("scale")
            if not isinstance(scale, list | tuple) or len(scale) != 2:
                raise ExportError("Resize without a scale of width and height can't be exported")
            steps.append(Resize(scale[1], scale[0], bool(transform.get("keep_ratio"))))
        elif name == "ResizeToMultiple":
            steps.append(ResizeToMultiple(transform.get("size_divisor", 32)))
        else:
            raise ExportError(f"{name}, a transform of the test pipeline, can't be exported")
        if transform.get("interpolation", "bilinear") != "bilinear":
            raise ExportError(
                f"{name} with {transform['interpolation']} interpolation can't be exported: "
                "bilinear can"
            )
    if shape is None:
        return steps
    keep_ratio = all(step.keep_ratio for step in steps if isinstance(step, Resize))
    return [Resize(*shape, keep_ratio, either_orientation=False)]


def round_shape(config: Config, shape: Sequence[int] | None) -> tuple[int, int] | None:
    """A fixed height and width, rounded up where the pipeline has a ``ResizeToMultiple``."""
    if shape is None:
        return None
    for step in read_resizing(config):
        if isinstance(step, ResizeToMultiple):
            shape = [-(-side // step.divisor) * step.divisor for side in shape]
    return tuple(shape)


class PreprocessingGraph:
    """The graph's nodes, from ``image`` to the network's inputs.

    Args:
        resizing (Sequence[Resize | ResizeToMultiple]): of the test pipeline.
        data_preprocessor (nn.Module): the model's: mean, std, order of channels.
        divisor (int): the network's input is padded to multiples of it.
        pad_value (float): of the padding, after normalisation.
        input_shape (Sequence[int] | None): height and width to pad to, in place of ``divisor``.
        channels (int): of the image. Default: 3.
        image_format (ImageFormat): how the test pipeline decodes images. Default: by OpenCV, as
            bytes.

    Attributes:
        image (ir.Value): uint8, (height, width, channels), RGB.
        outputs (dict[str, ir.Value]): ``x``, float32, (1, channels, height, width); ``size``,
            float32, (2,), height and width before padding; ``scale``, float32, (4,), of x, y, x, y
            from there to the image's pixels; ``rows`` and ``columns``, float32, the centres of the
            image's pixels.
        nodes (list[ir.Node]): in order.
    """

    def __init__(
        self,
        resizing: Sequence[Resize | ResizeToMultiple],
        data_preprocessor: nn.Module,
        divisor: int,
        pad_value: float,
        input_shape: Sequence[int] | None,
        channels: int = 3,
        image_format: ImageFormat = ImageFormat(),
    ) -> None:
        self._format, self._channels = image_format, channels
        self._tape = Tape()
        self.image = ir.Value(
            name="image",
            type=ir.TensorType(ir.DataType.UINT8),
            shape=ir.Shape(["height", "width", channels]),
        )
        original = self._sides(self.image)
        dtype = ir.DataType.FLOAT if image_format.is_float else ir.DataType.INT32
        x = self._op("Cast", self.image, to=dtype)
        sides = original
        for step in resizing:
            sides = self._target(step, sides)
            x = self._resize(x, self._sides(x), sides)
        x = self._normalise(x, data_preprocessor)
        x = self._op("Unsqueeze", x, self._const([0], np.int64))
        size = self._op("Concat", *sides, axis=0)
        sizes = [self._double(s) for s in (size, self._op("Concat", *original, axis=0))]
        ratio = self._op("Cast", self._op("Div", sizes[1], sizes[0]), to=ir.DataType.FLOAT)
        height, width = self._op("Split", ratio, num_outputs=2, axis=0, outputs=2)
        self.outputs = {
            "x": self._pad(x, sides, divisor, pad_value, input_shape),
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

    def _double(self, x: ir.Value) -> ir.Value:
        return self._op("Cast", x, to=ir.DataType.DOUBLE)

    def _sides(self, x: ir.Value) -> list[ir.Value]:
        """Height and width of (height, width, channels), each int64, (1,)."""
        return [self._op("Shape", x, start=i, end=i + 1) for i in (0, 1)]

    def _target(self, step: Resize | ResizeToMultiple, sides: Sequence[ir.Value]) -> list[ir.Value]:
        """The sides after ``step``, as MMCV's ``rescale_size`` rounds them."""
        if isinstance(step, ResizeToMultiple):
            return [self._round_up(side, step.divisor) for side in sides]
        if not step.keep_ratio:
            return [self._const([side], np.int64) for side in (step.height, step.width)]
        doubles = [self._double(side) for side in sides]
        limits = [self._const([side], np.float64) for side in (step.height, step.width)]
        measured = doubles
        if step.either_orientation:
            limits = [self._op(kind, *limits) for kind in ("Max", "Min")]
            measured = [self._op(kind, *doubles) for kind in ("Max", "Min")]
        ratios = [self._op("Div", *pair) for pair in zip(limits, measured, strict=True)]
        ratio = self._op("Min", *ratios)
        half = self._const([0.5], np.float64)
        new = [self._op("Add", self._op("Mul", side, ratio), half) for side in doubles]
        return [self._op("Cast", self._op("Floor", x), to=ir.DataType.INT64) for x in new]

    def _round_up(self, side: ir.Value, divisor: int) -> ir.Value:
        d = self._const([divisor], np.int64)
        raised = self._op("Add", side, self._const([divisor - 1], np.int64))
        return self._op("Mul", self._op("Div", raised, d), d)

    def _taps(self, old: ir.Value, new: ir.Value, along_x: bool) -> tuple[ir.Value, ...]:
        """Of each new position: its two old neighbours and their weights.

        Of bytes the weights are times ``SCALE``.

        Beyond the outermost centres both neighbours are the same; there OpenCV also drops the
        fraction along x, but not along y, which matters to rounding.
        """
        one = self._const([1.0], np.float64)
        step = self._op("Div", self._double(new), self._double(old))
        step = self._op("Div", one, step)
        half = self._const([0.5], np.float64)
        centre = self._op("Mul", self._op("Add", self._double(self._range(new)), half), step)
        centre = self._op("Cast", self._op("Sub", centre, half), to=ir.DataType.FLOAT)
        floor = self._op("Floor", centre)
        fraction = self._op("Sub", centre, floor)
        first = self._op("Cast", floor, to=ir.DataType.INT64)
        zero, one = self._const(0, np.int64), self._const(1, np.int64)
        last = self._op("Sub", self._op("Squeeze", old), one)
        if along_x:
            inside = self._op(
                "And", self._op("GreaterOrEqual", first, zero), self._op("Less", first, last)
            )
            fraction = self._op("Where", inside, fraction, self._const(0, np.float32))
        weights: list[ir.Value] = []
        for part in (self._op("Sub", self._const(1, np.float32), fraction), fraction):
            if self._format.is_float:
                weights.append(part)
                continue
            scaled = self._op("Round", self._op("Mul", part, self._const(SCALE, np.float32)))
            weights.append(self._op("Cast", scaled, to=ir.DataType.INT32))
        second = self._op("Add", first, one)
        neighbours = [self._op("Clip", index, zero, last) for index in (first, second)]
        return *neighbours, *weights

    def _resize(self, x: ir.Value, old: Sequence[ir.Value], new: Sequence[ir.Value]) -> ir.Value:
        """(height, width, channels), int32 of bytes or float32, to another size."""
        left, right = self._weighted(x, 1, old, new)
        if self._format.is_float:
            x = self._op("Add", left, right)
            return self._op("Add", *self._weighted(x, 0, old, new))
        x = self._op("Div", self._op("Add", left, right), self._const(16, np.int32))
        parts = self._weighted(x, 0, old, new)
        upper, lower = (self._op("Div", part, self._const(65536, np.int32)) for part in parts)
        total = self._op("Add", self._op("Add", upper, lower), self._const(2, np.int32))
        return self._op("Div", total, self._const(4, np.int32))

    def _weighted(
        self, x: ir.Value, axis: int, old: Sequence[ir.Value], new: Sequence[ir.Value]
    ) -> list[ir.Value]:
        """Both neighbours of each new position along an axis, each times its weight."""
        *neighbours, a, b = self._taps(old[axis], new[axis], along_x=axis == 1)
        shape = self._const((1, -1, 1) if axis else (-1, 1, 1), np.int64)
        weights = [self._op("Reshape", weight, shape) for weight in (a, b)]
        return [
            self._op("Mul", self._op("Gather", x, index, axis=axis), weight)
            for index, weight in zip(neighbours, weights, strict=True)
        ]

    def _normalise(self, x: ir.Value, data_preprocessor: nn.Module) -> ir.Value:
        """(height, width, channels), RGB, to (channels, height, width), normalised."""
        x = self._op("Cast", self._op("Transpose", x, perm=(2, 0, 1)), to=ir.DataType.FLOAT)
        swaps = swaps_channels(data_preprocessor, self._channels)
        if self._channels > 2 and self._format.is_bgr != swaps:
            order = [2, 1, 0, *range(3, self._channels)]
            x = self._op("Gather", x, self._const(order, np.int64), axis=0)
        if data_preprocessor._enable_normalize:
            mean, std = data_preprocessor.mean, data_preprocessor.std
            for op_type, values in (("Sub", mean), ("Div", std)):
                x = self._op(op_type, x, self._const(values.view(-1, 1, 1).numpy(), np.float32))
        return x

    def _pad(
        self,
        x: ir.Value,
        sides: Sequence[ir.Value],
        divisor: int,
        value: float,
        input_shape: Sequence[int] | None,
    ) -> ir.Value:
        if input_shape is None and divisor == 1:
            return x
        if input_shape is None:
            padded = [self._round_up(side, divisor) for side in sides]
        else:
            padded = [self._const([side], np.int64) for side in input_shape]
        missing = [self._op("Sub", *pair) for pair in zip(padded, sides, strict=True)]
        pads = self._op("Concat", self._const([0] * 6, np.int64), *missing, axis=0)
        return self._op("Pad", x, pads, self._const(value, np.float32))

    def _range(self, count: ir.Value) -> ir.Value:
        start, step = self._const(0, np.int64), self._const(1, np.int64)
        return self._op("Range", start, self._op("Squeeze", count), step)

    def _centres(self, side: ir.Value) -> ir.Value:
        positions = self._op("Cast", self._range(side), to=ir.DataType.FLOAT)
        return self._op("Add", positions, self._const(0.5, np.float32))


def swaps_channels(data_preprocessor: nn.Module, channels: int) -> bool:
    """Whether the model swaps red and blue; MMSegmentation does so for three channels only."""
    swaps = getattr(data_preprocessor, "_channel_conversion", False) or getattr(
        data_preprocessor, "channel_conversion", False
    )
    return bool(swaps) and not (
        isinstance(data_preprocessor, SegDataPreProcessor) and channels != 3
    )
