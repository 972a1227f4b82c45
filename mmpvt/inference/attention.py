"""The attention of a position of an image: weights of every block, as heat maps.

The weights are recomputed for the position's query from the input of each attention layer, by a
forward hook; the layers themselves are not changed.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmpvt.engine.pipeline import TestPipeline, check_array, evaluating, read_image
from mmpvt.errors import UserError
from mmpvt.models.archs import IMAGENET_MEAN, IMAGENET_STD, NUM_STAGES, STRIDES
from mmpvt.models.backbone import PyramidBackbone
from mmpvt.models.complexity import is_classifier
from mmpvt.models.layers import SpatialReductionAttention
from mmpvt.visualization.drawing import viewable
from mmpvt.visualization.heat_maps import draw_heat, side_by_side

if TYPE_CHECKING:
    from mmpvt.inference.predictor import Predictor


@dataclass(frozen=True, eq=False)
class Attention:
    """One position's attention in every block of a backbone."""

    image: np.ndarray  # RGB, (height, width, 3), uint8
    position: tuple[int, int]  # y and x, in the image's pixels
    tokens: list[tuple[int, int]]  # row and column of the position's token in each stage
    # of each stage, (blocks, heads, h, w) over its map of keys, float32; each head's sum is 1
    weights: list[np.ndarray]
    cells: list[tuple[float, float]]  # height and width of a key's cell, in the image's pixels

    def heat_map(self, stage: int, block: int = -1, head: int | None = None) -> np.ndarray:
        """A block's attention over the image.

        A strided convolution makes no key of the remaining rows and columns at the lower and right
        edges that don't fill its stride: the attention there is 0.

        Args:
            stage (int): from 0.
            block (int): of that stage, from 0. Default: the last.
            head (int | None): from 0. Default: the mean of all.

        Returns:
            np.ndarray: (height, width), float32: the weight of the key a pixel lies in,
            interpolated between the keys' centres.

        Raises:
            UserError: there is no such stage, block or head.
        """
        if not 0 <= stage < len(self.weights):
            raise UserError(f"stage {stage}: this model has {len(self.weights)}, from 0")
        blocks, num_heads = self.weights[stage].shape[:2]
        if not -blocks <= block < blocks:
            raise UserError(f"block {block}: stage {stage} has {blocks}, from 0")
        if head is not None and not -num_heads <= head < num_heads:
            raise UserError(f"head {head}: stage {stage} has {num_heads}, from 0")
        heads = self.weights[stage][block]
        weights = heads.mean(0) if head is None else heads[head]
        (rows, columns), (tall, wide) = weights.shape, self.cells[stage]
        height, width = size = self.image.shape[:2]
        y, x = (np.arange(height) + 0.5) / tall - 0.5, (np.arange(width) + 0.5) / wide - 0.5
        x, y = (np.broadcast_to(v.astype(np.float32), size) for v in (x, y[:, None]))
        heat = cv2.remap(weights, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        heat[round(rows * tall) :] = 0
        heat[:, round(columns * wide) :] = 0
        return heat

    def picture(self, block: int = -1, head: int | None = None) -> np.ndarray:
        """Heat maps over the image with the position marked, a column a stage.

        The colour scale ends at the highest weight, or at twice the uniform weight where all are
        lower: uniform attention has no bright places.

        Args:
            block (int): of each stage, from 0. Default: the last.
            head (int | None): from 0. Default: the mean of all.

        Returns:
            np.ndarray: RGB, uint8.

        Raises:
            UserError: a stage has no such block or head.
        """
        columns = []
        for stage, weights in enumerate(self.weights):
            blocks, heads, rows, cols = weights.shape
            heat = self.heat_map(stage, block, head)
            which = f"heads: {heads}" if head is None else f"head {head % heads + 1} of {heads}"
            title = f"stage {stage + 1}, block {block % blocks + 1} of {blocks}"
            uniform = 1 / (rows * cols)
            share = f"up to {100 * heat.max():.2g}% (even: {100 * uniform:.2g}%)"
            caption = (title, f"{which}, {rows}x{cols} keys, {share}")
            vmax = max(float(heat.max()), 2 * uniform)
            columns.append(draw_heat(self.image, heat, vmax, self.position, caption))
        return side_by_side(columns)


def visualize_attention(
    model: nn.Module | Predictor,
    image: str | os.PathLike | np.ndarray | Tensor,
    position: Sequence[float],
) -> Attention:
    """The attention of a position of an image, in each stage and block of a PVT backbone.

    The weights are softmax(q k^T / sqrt(d)) of the position's query (PVT v1, section 3.3; PVT v2,
    section 3.1 for the linear variant, whose keys are 7x7 pooled regions).

    Args:
        model (nn.Module | Predictor): a backbone, or a detector or segmenter on one. One with its
            config beside it, as MMDetection's and MMSegmentation's ``init`` functions and
            :class:`mmpvt.Predictor` give it, has the image prepared as in testing; others read it
            at its own size, normalised by the model's own or ImageNet's mean and deviation.
        image (str | PathLike | np.ndarray | Tensor): a file; a (height, width, 3) BGR array,
            uint8; or a (3, height, width) tensor that the backbone takes as it is.
        position (Sequence[float]): y and x in pixels of that image.

    Returns:
        Attention: the weights of all blocks and heads; its methods give heat maps and a picture.

    Raises:
        UserError: there is no PVT in the model, the image can't be read, or the position is
            outside of it.

    Example:
        >>> from mmpvt import visualize_attention
        >>> from mmpvt.models import PyramidVisionTransformerV2
        >>> found = visualize_attention(PyramidVisionTransformerV2('b0'), 'cat.jpg', (120, 80))
        >>> [w.shape for w in found.weights]  # of a 224x224 image
        [(2, 1, 7, 7), (2, 2, 7, 7), (2, 5, 7, 7), (2, 8, 7, 7)]
    """
    network: Any = getattr(model, "model", model)  # a Predictor's
    backbone = next((m for m in network.modules() if isinstance(m, PyramidBackbone)), None)
    if backbone is None:
        raise UserError(f"{type(network).__name__} holds no PVT backbone")
    shown, inputs, resized, window = _prepare(network, image)
    if window is not None:
        position = window.place(position)
    y, x = _checked_position(position, shown.shape[:2])
    scale = [new / old for new, old in zip(resized, shown.shape[:2], strict=True)]
    point = [(value + 0.5) * factor for value, factor in zip((y, x), scale, strict=True)]
    records: list[list[_Record]] = [[] for _ in range(backbone.num_stages)]

    def record(stage: int, attn: Any, args: tuple) -> None:
        (tokens,) = args
        if getattr(backbone, "with_cls_token", False) and stage == NUM_STAGES - 1:
            grid = [side // STRIDES[stage] for side in inputs.shape[2:]]
            tokens = tokens[:, 0, 1:].unflatten(1, grid)  # the class token has no position
        records[stage].append(_attend(attn, tokens, STRIDES[stage], point))

    with ExitStack() as hooks, torch.no_grad(), evaluating(backbone):
        for stage in range(backbone.num_stages):
            for block in getattr(backbone, f"block{stage + 1}"):
                hook = functools.partial(record, stage)
                hooks.enter_context(block.attn.register_forward_pre_hook(hook))
        backbone(inputs.to(next(backbone.parameters())))
    return Attention(
        image=shown,
        position=(y, x),
        tokens=[stage[0].token for stage in records],
        weights=[np.stack([record.weights for record in stage]) for stage in records],
        cells=[tuple(np.divide(stage[0].cell, scale).tolist()) for stage in records],
    )


class _Record(NamedTuple):
    """Of one block: the query's row and column, a key's sides in input pixels, (heads, h, w)."""

    token: tuple[int, int]
    cell: tuple[float, ...]
    weights: np.ndarray


def _attend(
    attn: SpatialReductionAttention, x: Tensor, stride: int, point: Sequence[float]
) -> _Record:
    """A position's weights over the keys, from an attention layer's (1, h, w, dims) tokens."""
    grid = x.shape[1:3]
    row, column = (
        min(int(value // stride), side - 1) for value, side in zip(point, grid, strict=True)
    )
    reduced = attn.reduce(x)
    keys = reduced.shape[1:3]
    q = attn.heads(attn.q(x[:, row : row + 1, column : column + 1]))
    k = attn.heads(attn.kv(reduced).chunk(2, -1)[0])
    scores = (q.float() @ k.float().mT)[0, :, 0] * q.shape[-1] ** -0.5
    # a convolution's keys cover an integer number of tokens, a pooling's a fraction of the map
    if attn.linear:
        cell = tuple(side / n * stride for side, n in zip(grid, keys, strict=True))
    else:
        cell = (float(stride * (attn.sr.stride[0] if attn.sr else 1)),) * 2
    weights = scores.softmax(-1).unflatten(-1, keys)
    return _Record((row, column), cell, weights.cpu().numpy())


class _Window(NamedTuple):
    """The part of an image that a classifier sees: it is resized, and its middle cropped."""

    shape: tuple[int, int]  # height and width of the image
    resized: tuple[int, ...]
    cropped: tuple[int, ...]

    def place(self, position: Sequence[float]) -> tuple[float, ...]:
        """A position of the image, in pixels of the part; a UserError where it isn't in it."""
        place = []
        for value, old, new, side in zip(
            _checked_position(position, self.shape), self.shape, self.resized, self.cropped,
            strict=True,
        ):  # fmt: skip
            place.append((value + 0.5) * new / old - max(0, round((new - side) / 2)))
        if not all(0 <= value < side for value, side in zip(place, self.cropped, strict=True)):
            raise UserError(
                "the position is outside of the middle part of the image that the classifier sees"
            )
        return tuple(place)


def _prepare(
    model: nn.Module, image: str | os.PathLike | np.ndarray | Tensor
) -> tuple[np.ndarray, Tensor, tuple[int, ...], _Window | None]:
    """The image to show, RGB; the backbone's input, (1, 3, h, w); the image's size in that; of a
    classifier, which part of the image is shown."""
    if isinstance(image, Tensor):
        inputs = image.unsqueeze(0) if image.ndim == 3 else image
        if inputs.ndim != 4 or len(inputs) != 1:
            raise UserError(f"one image is a (3, height, width) tensor, not {tuple(image.shape)}")
        return _as_picture(inputs[0]), inputs, tuple(inputs.shape[2:]), None
    config = getattr(model, "cfg", None)
    pipeline = TestPipeline(config) if config is not None else None
    if isinstance(image, (str, os.PathLike)):
        image = pipeline.load(image) if pipeline else read_image(image)
    else:
        image = pipeline.check_given(image) if pipeline else check_array(image)
    shown = viewable(image)
    if pipeline:
        data = pipeline.prepare(image)
    else:
        image = image if image.ndim == 3 else image[..., None]
        tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        data = dict(inputs=tensor, data_samples=BaseDataElement())
    preprocess = getattr(model, "data_preprocessor", None)
    if preprocess is not None:
        batch = {key: [value] for key, value in data.items()}
        inputs = preprocess(batch, False)["inputs"]
    else:
        if len(data["inputs"]) != 3:
            raise UserError(
                f"an image of {len(data['inputs'])} channels: give it as a normalised tensor, "
                "(channels, height, width)"
            )
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        inputs = ((data["inputs"].flip(0) - mean) / std).unsqueeze(0)
    size, window = tuple(data["inputs"].shape[1:]), None
    if pipeline and is_classifier(model):
        scale = data["data_samples"].metainfo.get("scale_factor") or (1.0, 1.0)  # of x and y
        resized = tuple(round(n * s) for n, s in zip(shown.shape, scale[::-1], strict=False))
        window = _Window(shown.shape[:2], resized, size)
        shown = viewable(data["inputs"].permute(1, 2, 0).numpy())
    return shown, inputs, size, window


def _as_picture(tensor: Tensor) -> np.ndarray:
    """A tensor of any range as RGB, uint8."""
    low, high = tensor.min(), tensor.max()
    values = (tensor - low) / (high - low).clamp(min=1e-6) * 255
    values = values[:3] if len(values) > 2 else values[[0, 0, 0]]
    return values.permute(1, 2, 0).detach().cpu().numpy().astype(np.uint8)


def _checked_position(position: Sequence[float], size: Sequence[int]) -> tuple[int, int]:
    try:
        y, x = (int(value) for value in position)
    except (TypeError, ValueError) as error:
        raise UserError(f"a position is two numbers, y and x, not {position!r}") from error
    if not (0 <= y < size[0] and 0 <= x < size[1]):
        raise UserError(
            f"the position y={y}, x={x} is outside of the image, which is {size[0]} pixels high "
            f"and {size[1]} wide"
        )
    return y, x
