"""How the heavy operations run: PyTorch's fused kernels, and what is faster than them on a CPU.

On a CPU PyTorch gives the float32 products of linear layers and attention to MKL, and those of
convolutions to oneDNN, which can be twice as fast (docs/performance.md) and adds the bias on the
way. A linear layer is a 1x1 convolution of a channels-last map, so there it runs as one. And what
is wide but short-lived (attention's scores, a feed-forward's hidden channels) is made a chunk at a
time, small enough for the processor's cache, and made again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = 6 << 20  # of a chunk's widest tensor: it stays in common last-level caches
SMALL_BYTES = 512 << 10  # of a head's scores: below, a chunk's calls cost more than they save
MIN_ROWS = 4  # of a band: the rows beside it are computed twice


def takes_convolutions(x: Tensor) -> bool:
    """Whether oneDNN's convolutions are the fastest way for ``x``: float32 on a CPU.

    Not in autocast, whose data types oneDNN's linear layers take, nor while a graph is recorded.
    """
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and not torch.is_autocast_enabled("cpu")
        and not is_recorded()
    )


def conv_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` as a 1x1 convolution.

    Args:
        x (Tensor): (length, in_channels).
        weight (Tensor): (out_channels, in_channels).
        bias (Tensor | None): (out_channels,).

    Returns:
        Tensor: (length, out_channels).
    """
    feature_map = x.view(1, 1, *x.shape).permute(0, 3, 1, 2)  # channels-last, by its strides
    out = F.conv2d(feature_map, weight.view(*weight.shape, 1, 1), bias)
    return out.permute(0, 2, 3, 1).view(len(x), len(weight))


class Linear(nn.Linear):
    """``nn.Linear``, but a convolution where that is faster."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        if not takes_convolutions(x):
            return super().forward(x)
        rows = x.reshape(-1, self.in_features).contiguous()
        return conv_linear(rows, self.weight, self.bias).view(*x.shape[:-1], -1)


def attention(q: Tensor, k: Tensor, v: Tensor, drop: float = 0.0) -> Tensor:
    """Scaled dot-product attention that never holds all scores at once.

    Args:
        q (Tensor): queries, (batch, heads, length, dims).
        k, v (Tensor): keys and values, (batch, heads, keys, dims).
        drop (float): dropout of the attention weights. Default: 0.

    Returns:
        Tensor: (batch, length, heads, dims).
    """
    score_bytes = q.shape[2] * k.shape[2] * q.element_size()
    if not takes_convolutions(q) or score_bytes < SMALL_BYTES:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=drop).transpose(1, 2)

    def weigh(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = conv_linear(q, k).softmax(-1)
        return conv_linear(F.dropout(weights, drop) if drop else weights, v)

    length = chunk_length(k.shape[2], q)
    heads = (x.contiguous().flatten(0, 1).unbind() for x in (q, k * k.shape[-1] ** -0.5, v.mT))
    outs = [RowChunks.apply(weigh, length, *head) for head in zip(*heads, strict=True)]
    return torch.stack(outs, 1).unflatten(1, q.shape[:2]).transpose(0, 1)


class RowChunks(torch.autograd.Function):
    """A function of rows, each for itself, some at a time; only its inputs are stored.

    Results are written into tensors made beforehand: pieces kept between the chunks would leave
    holes in the heap that the next chunk doesn't fit, until the process has grown by all of them.

    Args:
        function (Callable): of (some, in_channels) rows and of ``shared``; to (some, channels).
        length (int): how many rows at a time.
        x (Tensor): (length, in_channels).
        shared (Tensor): further arguments, the same for every chunk.
    """

    @staticmethod
    def forward(
        ctx, function: Callable[..., Tensor], length: int, x: Tensor, *shared: Tensor
    ) -> Tensor:
        ctx.function, ctx.length = function, length
        ctx.random_state = torch.get_rng_state()
        ctx.save_for_backward(x, *shared)
        out = None
        for start in range(0, len(x), length):
            some = function(x[start : start + length], *shared)
            out = some.new_empty(len(x), some.shape[1]) if out is None else out
            out[start : start + length] = some
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *shared = ctx.saved_tensors
        shared = [tensor.detach().requires_grad_() for tensor in shared]
        totals = [torch.empty_like(x), *map(torch.zeros_like, shared)]
        parts = (tensor.split(ctx.length) for tensor in (x, gradient, totals[0]))
        with torch.random.fork_rng(devices=()), torch.enable_grad():
            torch.set_rng_state(ctx.random_state)
            for some, some_gradient, target in zip(*parts, strict=True):
                inputs = [some.detach().requires_grad_(), *shared]
                out = ctx.function(*inputs)
                first, *others = torch.autograd.grad(out, inputs, some_gradient)
                target.copy_(first)
                for total, other in zip(totals[1:], others, strict=True):
                    total.add_(other)
        return None, None, *totals


def chunk_length(width: int, x: Tensor) -> int:
    """How many tokens fit a chunk, if each is ``width`` numbers of the type of ``x``."""
    return max(CHUNK_BYTES // (width * x.element_size()), 1)


def in_chunks(function: Callable[[Tensor], Tensor], x: Tensor, width: int) -> Tensor:
    """``function`` of tokens, each for itself, a cache's worth at a time.

    Args:
        function (Callable): of (some, channels) tokens.
        x (Tensor): tokens, (..., channels).
        width (int): numbers that the function makes of a token, at its widest.

    Returns:
        Tensor: (..., out_channels).
    """
    length = chunk_length(width, x)
    tokens = x.reshape(-1, x.shape[-1])
    if len(tokens) <= length:
        return function(x)
    outs = [recomputed(function, some) for some in tokens.split(length)]
    return torch.cat(outs).view(*x.shape[:-1], -1)


def in_bands(function: Callable[[Tensor, slice], Tensor], x: Tensor, width: int) -> Tensor:
    """``function`` of tokens, each with its eight neighbours, a cache's worth of rows at a time.

    Args:
        function (Callable): of (batch, rows, width, channels) tokens and of which rows to keep:
            the others are there as neighbours.
        x (Tensor): tokens, (batch, height, width, channels).
        width (int): numbers that the function makes of a token, at its widest.

    Returns:
        Tensor: (batch, height, width, out_channels).
    """
    rows = max(chunk_length(width, x) // x.shape[2], MIN_ROWS)
    if len(x) * x.shape[1] <= rows:
        return function(x, slice(None))
    return torch.cat([_image_in_bands(function, image, rows) for image in x.split(1)])


def _image_in_bands(
    function: Callable[[Tensor, slice], Tensor], image: Tensor, rows: int
) -> Tensor:
    bands = image.split(rows, dim=1)  # not slices, each of which has a gradient of full size
    outs = []
    for i, band in enumerate(bands):
        above = [b[:, -1:] for b in bands[max(i - 1, 0) : i]]
        below = [b[:, :1] for b in bands[i + 1 : i + 2]]
        keep = slice(len(above), len(above) + band.shape[1])
        outs.append(recomputed(function, torch.cat([*above, band, *below], dim=1), keep))
    return torch.cat(outs, dim=1)


def recomputed(function: Callable[..., Tensor], *args: object) -> Tensor:
    """``function(*args)``; what it makes on the way is made again in the backward pass."""
    if not torch.is_grad_enabled() or is_recorded():  # a compiler chooses by itself what to store
        return function(*args)
    return checkpoint(function, *args, use_reentrant=False)


def is_recorded() -> bool:
    """Whether PyTorch is recording a graph, to compile or to export it."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()
