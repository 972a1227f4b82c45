"""The test pipeline and the data preprocessor as an ONNX graph: an image is resized, normalised and
padded bit for bit as OpenCV and MMEngine do it.

OpenCV resizes bytes bilinearly in fixed point: a weight is a multiple of 1/2048; rows are summed
after their last four bits are dropped (``modules/imgproc/src/resize.cpp``, ``HResizeLinear`` and
``VResizeLinear``). So does this graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from mmengine.config import Config
from mmengine.model import BaseDataPreprocessor
from mmseg.models import SegDataPreProcessor
from onnx_ir.tape import Tape

from mmpvt.datasets.pipelines import loading_step, transform_name
from mmpvt.engine.pipeline import read_test_pipeline
from mmpvt.errors import ExportError

SCALE = 2048  # a weight of 1 in OpenCV's fixed point
FRACTION = 4096  # a position's fraction is computed in two steps of so many parts
FLOAT, DOUBLE = ir.DataType.FLOAT, ir.DataType.DOUBLE
INT32, INT64 = ir.DataType.INT32, ir.DataType.INT64


@dataclass(frozen=True)
class Resize:
    """MMCV's transform of that name, to height and width in pixels."""

    height: int
    width: int
    keep_ratio: bool = True  # as large as fits into them
    # with keep_ratio, the larger of them is for the image's longer side, as in MMCV
    either_orientation: bool = True


@dataclass(frozen=True)
class ResizeToMultiple:
    """MMSegmentation's transform of that name: each side is rounded up to a multiple."""

    divisor: int


@dataclass(frozen=True)
class ResizeEdge:
    """mmpretrain's transform of that name, by Pillow's bicubic interpolation: the shorter side to
    so many pixels."""

    side: int


@dataclass(frozen=True)
class CenterCrop:
    """mmpretrain's transform of that name, to height and width."""

    size: tuple[int, int]


ResizingStep = Resize | ResizeToMultiple | ResizeEdge | CenterCrop


@dataclass(frozen=True)
class ImageFormat:
    """How an image of 8 bits is decoded."""

    channels: int | None = 3  # None for those that the file has
    is_bgr: bool = True  # blue first; otherwise in the file's order
    is_float: bool = False  # converted to float32 before it is resized
    keeps_bits: bool = False  # where a file has more than 8; else OpenCV takes the upper 8
    is_turned: bool = True  # as its EXIF tag says
    by_pillow: bool = False  # else as OpenCV does


def read_image_format(config: Config) -> ImageFormat:
    """How the test pipeline decodes images; an ExportError where a file's user can't follow."""
    pipeline = read_test_pipeline(config)
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
    kind, backend = step.get("color_type", "color"), step.get("imdecode_backend", "cv2")
    is_bgr = backend != "tifffile"
    is_turned = kind in ("color", "grayscale") and backend in ("cv2", "pillow")
    kind = kind.removesuffix("_ignore_orientation")
    channels = {"color": 3, "grayscale": 1}.get(kind) if is_bgr else None
    return ImageFormat(
        channels=channels,
        is_bgr=is_bgr,
        is_float=bool(step.get("to_float32")),
        keeps_bits=channels is None,
        is_turned=is_turned,
        by_pillow=backend == "pillow",
    )


def read_resizing(config: Config, shape: Sequence[int] | None = None) -> list[ResizingStep]:
    """The resizing of the test pipeline, or to ``shape`` (height and width) in its place.

    Raises:
        ExportError: the pipeline holds a transform that can't be exported; it is named.
    """
    steps: list[ResizingStep] = []
    for transform in read_test_pipeline(config):
        name = transform_name(transform)
        if name.startswith(("Load", "Pack")):
            continue
        if name == "Resize":
            scale = transform.get("scale")
            scale = (scale, scale) if isinstance(scale, int) else scale
            if not isinstance(scale, list | tuple) or len(scale) != 2:
                raise ExportError("Resize without a scale of width and height can't be exported")
            steps.append(Resize(scale[1], scale[0], bool(transform.get("keep_ratio"))))
        elif name == "ResizeToMultiple":
            steps.append(ResizeToMultiple(transform.get("size_divisor", 32)))
        elif name == "ResizeEdge":
            ways = [transform.get(key) for key in ("edge", "backend", "interpolation")]
            if ways != ["short", "pillow", "bicubic"]:
                raise ExportError(
                    f"ResizeEdge with {', '.join(map(str, ways))} can't be exported: short, "
                    "pillow, bicubic can"
                )
            steps.append(ResizeEdge(transform["scale"]))
            continue
        elif name == "CenterCrop":
            size = transform["crop_size"]
            steps.append(CenterCrop((size, size) if isinstance(size, int) else tuple(size)))
        else:
            raise ExportError(f"{name}, a transform of the test pipeline, can't be exported")
        if transform.get("interpolation", "bilinear") != "bilinear":
            raise ExportError(
                f"{name} with {transform['interpolation']} interpolation can't be exported: "
                "bilinear can"
            )
        if transform.get("backend", "cv2") != "cv2":
            raise ExportError(
                f"{name} with backend={transform['backend']!r} can't be exported: cv2 can, whose "
                "pixels are others"
            )
    if shape is None:
        return steps
    if any(isinstance(step, CenterCrop) for step in steps):
        raise ExportError("the images are cropped to one size: leave the shape out")
    keep_ratio = all(step.keep_ratio for step in steps if isinstance(step, Resize))
    return [Resize(shape[0], shape[1], keep_ratio, either_orientation=False)]


def round_shape(config: Config, shape: Sequence[int] | None) -> tuple[int, int] | None:
    """A fixed height and width, rounded up where the pipeline has a ``ResizeToMultiple``."""
    if shape is None:
        return None
    for step in read_resizing(config):
        if isinstance(step, ResizeToMultiple):
            shape = [-(-side // step.divisor) * step.divisor for side in shape]
    return shape[0], shape[1]


def swaps_channels(
    data_preprocessor: BaseDataPreprocessor, channels: int, image_format: ImageFormat
) -> bool:
    """Whether the network takes red and blue in the other order than RGB."""
    names = ("_channel_conversion", "channel_conversion", "to_rgb")
    swaps = any(getattr(data_preprocessor, name, False) for name in names)
    if channels != 3 and isinstance(data_preprocessor, SegDataPreProcessor):
        swaps = False  # MMSegmentation does so for three channels only
    return channels > 2 and image_format.is_bgr != swaps


class PreprocessingGraph:
    """The graph's nodes, from ``image`` to the network's inputs.

    Args:
        resizing (Sequence[ResizingStep]): of the test pipeline.
        data_preprocessor (BaseDataPreprocessor): the model's: mean, std, order of channels.
        divisor (int): the network's input is padded to multiples of it.
        pad_value (float): of the padding, after normalisation.
        input_shape (Sequence[int] | None): height and width to pad to, in place of ``divisor``.
        channels (int): of the image. Default: 3.
        image_format (ImageFormat): how the test pipeline decodes images. Default: by OpenCV, as
            bytes.
        has_float64 (bool): whether the runtime computes in float64. Otherwise sides are computed in
            integers; where one ends in a half, MMCV's may be a pixel less. Default: True.

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
        resizing: Sequence[ResizingStep],
        data_preprocessor: BaseDataPreprocessor,
        divisor: int,
        pad_value: float,
        input_shape: Sequence[int] | None,
        channels: int = 3,
        image_format: ImageFormat = ImageFormat(),
        has_float64: bool = True,
    ) -> None:
        self._is_float, self._has_float64 = image_format.is_float, has_float64
        op = self._op = Operators()
        self.image = ir.Value(
            name="image",
            type=ir.TensorType(ir.DataType.UINT8),
            shape=ir.Shape(["height", "width", channels]),
        )
        original = sides = self._sides(self.image)
        x = op.Cast(self.image, to=FLOAT if image_format.is_float else INT32)
        for step in resizing:
            if isinstance(step, CenterCrop):
                x = self._crop(x, sides, step.size)
                sides = self._sides(x)
                continue
            sides = self._target(step, sides)
            resize = self._resize_by_pillow if isinstance(step, ResizeEdge) else self._resize
            x = resize(x, self._sides(x), sides)

        x = op.Cast(op.Transpose(x, perm=(2, 0, 1)), to=FLOAT)
        if swaps_channels(data_preprocessor, channels, image_format):
            x = op.Gather(x, int64s(2, 1, 0, *range(3, channels)), axis=0)
        if data_preprocessor._enable_normalize:
            x = op.Sub(x, data_preprocessor.mean.view(-1, 1, 1).float().numpy())
            x = op.Div(x, data_preprocessor.std.view(-1, 1, 1).float().numpy())
        x = op.Unsqueeze(x, int64s(0))
        if input_shape is not None or divisor > 1:
            padded = [self._round_up(side, divisor) for side in sides]
            if input_shape is not None:
                padded = [int64s(side) for side in input_shape]
            missing = [op.Sub(*pair) for pair in zip(padded, sides, strict=True)]
            pads = op.Concat(np.zeros(6, np.int64), *missing, axis=0)
            x = op.Pad(x, pads, np.float32(pad_value))

        size = op.Concat(*sides, axis=0)
        ratio = op.Div(op.Cast(op.Concat(*original, axis=0), to=FLOAT), op.Cast(size, to=FLOAT))
        self.outputs = {
            "x": x,
            "size": op.Cast(size, to=FLOAT),
            "scale": op.Gather(ratio, int64s(1, 0, 1, 0)),
            "rows": op.Add(op.Cast(self._range(original[0]), to=FLOAT), np.float32(0.5)),
            "columns": op.Add(op.Cast(self._range(original[1]), to=FLOAT), np.float32(0.5)),
        }
        self.nodes = list(op.tape.nodes)

    def _sides(self, x: ir.Value) -> list[ir.Value]:
        """Height and width of (height, width, channels), each int64, (1,)."""
        return [self._op.Shape(x, start=i, end=i + 1) for i in (0, 1)]

    def _range(self, count: ir.Value) -> ir.Value:
        return self._op.Range(np.int64(0), self._op.Squeeze(count), np.int64(1))

    def _round_up(self, side: ir.Value, divisor: int) -> ir.Value:
        quotient = self._op.Div(self._op.Add(side, int64s(divisor - 1)), int64s(divisor))
        return self._op.Mul(quotient, int64s(divisor))

    def _target(
        self, step: Resize | ResizeToMultiple | ResizeEdge, sides: Sequence[ir.Value]
    ) -> list[ir.Value]:
        """The sides after ``step``, as MMCV's ``rescale_size`` rounds them."""
        op = self._op
        if isinstance(step, ResizeToMultiple):
            return [self._round_up(side, step.divisor) for side in sides]
        if isinstance(step, ResizeEdge):
            shorter = op.Min(*sides)
            return [self._divide(op.Mul(side, int64s(step.side)), shorter)[0] for side in sides]
        if not step.keep_ratio:
            return [op.Identity(int64s(side)) for side in (step.height, step.width)]
        limits, measured = [step.height, step.width], list(sides)
        if step.either_orientation:
            limits = sorted(limits, reverse=True)
            measured = [op.Max(*sides), op.Min(*sides)]
        if self._has_float64:
            measured = [op.Cast(side, to=DOUBLE) for side in measured]
            ratio = op.Min(
                *(op.Div(np.float64(x), side) for x, side in zip(limits, measured, strict=True))
            )
            scaled = [op.Mul(op.Cast(side, to=DOUBLE), ratio) for side in sides]
            return [op.Cast(op.Floor(op.Add(x, np.float64(0.5))), to=INT64) for x in scaled]
        # the smaller ratio of a limit and a side, as these two
        one, other = (int64s(limit) for limit in limits)
        is_first = op.Less(op.Mul(one, measured[1]), op.Mul(other, measured[0]))
        limit, measure = op.Where(is_first, one, other), op.Where(is_first, *measured)
        doubled = op.Mul(measure, int64s(2))
        halves = [op.Add(op.Mul(op.Mul(side, limit), int64s(2)), measure) for side in sides]
        return [self._divide(half, doubled)[0] for half in halves]

    def _crop(self, x: ir.Value, sides: Sequence[ir.Value], size: tuple[int, int]) -> ir.Value:
        """The middle of (height, width, channels)."""
        op = self._op
        starts = []
        for side, wanted in zip(sides, size, strict=True):
            rest = op.Cast(op.Sub(side, int64s(wanted)), to=FLOAT)
            half = op.Round(op.Div(rest, np.float32(2)))  # to even, as Python's
            starts.append(op.Max(op.Cast(half, to=INT64), int64s(0)))
        ends = [op.Add(start, int64s(wanted)) for start, wanted in zip(starts, size, strict=True)]
        places = (op.Concat(*starts, axis=0), op.Concat(*ends, axis=0))
        return op.Slice(x, *places, int64s(0, 1))

    def _resize_by_pillow(
        self, x: ir.Value, old: Sequence[ir.Value], new: Sequence[ir.Value]
    ) -> ir.Value:
        """(height, width, channels), int32 of bytes, to another size, bicubic with antialiasing."""
        op = self._op
        planes = op.Unsqueeze(op.Transpose(x, perm=(2, 0, 1)), int64s(0))
        planes = op.Cast(planes, to=ir.DataType.UINT8)
        sizes = op.Concat(op.Shape(planes, start=0, end=2), *new, axis=0)
        resized = op.Resize(
            *(planes, None, None, sizes),
            mode="cubic",
            antialias=1,
            cubic_coeff_a=-0.5,
            exclude_outside=1,
        )
        return op.Cast(op.Transpose(op.Squeeze(resized, int64s(0)), perm=(1, 2, 0)), to=INT32)

    def _resize(self, x: ir.Value, old: Sequence[ir.Value], new: Sequence[ir.Value]) -> ir.Value:
        """(height, width, channels), int32 of bytes or float32, to another size."""
        op = self._op
        horizontal = op.Add(*self._weighted(x, 1, old, new))
        if self._is_float:
            return op.Add(*self._weighted(horizontal, 0, old, new))
        parts = self._weighted(op.Div(horizontal, np.int32(16)), 0, old, new)
        # four bits less, as OpenVINO divides integers in float32, which has 24
        parts = [op.BitwiseAnd(part, np.int32(-16)) for part in parts]
        upper, lower = (op.Div(part, np.int32(65536)) for part in parts)
        return op.Div(op.Add(op.Add(upper, lower), np.int32(2)), np.int32(4))

    def _weighted(
        self, x: ir.Value, axis: int, old: Sequence[ir.Value], new: Sequence[ir.Value]
    ) -> list[ir.Value]:
        """Both neighbours of each new position along an axis, each times its weight."""
        shape = int64s(*((1, -1, 1) if axis else (-1, 1, 1)))
        return [
            self._op.Mul(self._op.Gather(x, index, axis=axis), self._op.Reshape(weight, shape))
            for index, weight in self._neighbours(old[axis], new[axis], along_x=axis == 1)
        ]

    def _neighbours(
        self, old: ir.Value, new: ir.Value, along_x: bool
    ) -> list[tuple[ir.Value, ir.Value]]:
        """Two old positions to interpolate each new one from, and their weights.

        Of bytes the weights are times ``SCALE``. Beyond the outermost centres both positions are
        the same; there OpenCV also drops the fraction along x, but not along y, which matters to
        rounding.
        """
        op = self._op
        centre = self._centres(old, new)
        floor = op.Floor(centre)
        fraction = op.Sub(centre, floor)
        first = op.Cast(floor, to=INT64)
        last = op.Sub(op.Squeeze(old), np.int64(1))
        if along_x:
            inside = op.And(op.GreaterOrEqual(first, np.int64(0)), op.Less(first, last))
            fraction = op.Where(inside, fraction, np.float32(0))
        weights = [op.Sub(np.float32(1), fraction), fraction]
        if not self._is_float:
            weights = [op.Cast(op.Round(op.Mul(w, np.float32(SCALE))), to=INT32) for w in weights]
        positions = [first, op.Add(first, np.int64(1))]
        positions = [op.Clip(position, np.int64(0), last) for position in positions]
        return list(zip(positions, weights, strict=True))

    def _centres(self, old: ir.Value, new: ir.Value) -> ir.Value:
        """Where the new positions' centres lie among the old: (i + 1/2) * old / new - 1/2, float32.

        OpenCV computes them in float64, which not every runtime has, and rounds to float32. Here
        the integers and 24 bits of the fractions are exact, and the sum of the two is rounded.
        """
        op, count = self._op, np.int64(FRACTION)
        doubled = op.Add(op.Mul(self._range(new), np.int64(2)), np.int64(1))
        numerator, denominator = op.Add(op.Mul(doubled, old), new), op.Mul(new, np.int64(2))
        above, rest = self._divide(numerator, denominator)
        upper, rest = self._divide(op.Mul(rest, count), denominator)
        lower, rest = self._divide(op.Mul(rest, count), denominator)
        # what is left makes the last bit 1: a fraction isn't taken for the middle of two numbers
        even = op.Sub(np.int64(1), self._divide(lower, np.int64(2))[1])
        left = op.Mul(op.Cast(op.Greater(rest, np.int64(0)), to=INT64), even)
        fraction = op.Cast(op.Add(op.Mul(upper, count), op.Add(lower, left)), to=FLOAT)
        fraction = op.Mul(fraction, np.float32(1 / FRACTION**2))
        return op.Add(op.Cast(op.Sub(above, np.int64(1)), to=FLOAT), fraction)

    def _divide(
        self, dividend: ir.Value, divisor: ir.Value | np.int64
    ) -> tuple[ir.Value, ir.Value]:
        """Quotient and remainder of integers from 0 on.

        OpenVINO divides integers in float32: of the quotients here one may be off by one.
        """
        op = self._op
        quotient = op.Div(dividend, divisor)
        rest = op.Sub(dividend, op.Mul(quotient, divisor))
        more = op.Cast(op.GreaterOrEqual(rest, divisor), to=INT64)
        off = op.Sub(more, op.Cast(op.Less(rest, np.int64(0)), to=INT64))
        return op.Add(quotient, off), op.Sub(rest, op.Mul(off, divisor))


def int64s(*values: int) -> np.ndarray:
    """As ONNX's operators take shapes, axes and indices."""
    return np.array(values, np.int64)


class Operators:
    """ONNX operators, recorded in order: ``op.Add(x, np.int64(1))``; arrays become constants."""

    def __init__(self, tape: Tape | None = None) -> None:
        self.tape = Tape() if tape is None else tape

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]:
        def record(*inputs: ir.Value | np.ndarray | None, **attributes: object) -> ir.Value:
            values = [
                x
                if x is None or isinstance(x, ir.Value)
                else self.tape.op("Constant", [], {"value": ir.tensor(np.asarray(x))})
                for x in inputs
            ]
            return self.tape.op(op_type, values, attributes)

        return record
