"""Which code runs linear layers, attention and feed-forwards: the one place that chooses.

============  ================================  ======================  ============================
operation     float32 on a CPU with oneDNN      bfloat16 there          everything else
============  ================================  ======================  ============================
linear layer  1x1 convolution                   ``F.linear``            ``F.linear``
attention     two 1x1 convolutions a head, in   two linear layers a     ``F.scaled_dot_product_
              chunks of rows (small maps: as    head, in chunks of      attention``
              on the right)                     rows (likewise)
feed-forward  chunks of tokens, or tiles of     the whole map at once   the whole map at once
              rows
============  ================================  ======================  ============================

Why: on an x86 CPU, PyTorch computes float32 matrix products with MKL and convolutions with oneDNN.
On an AMD EPYC with AVX-512 (PyTorch 2.13.0) oneDNN reaches 400 GFLOP/s and MKL 210. A 1x1
convolution of a channels-last map is a linear layer. Chunks keep scores and hidden channels, which
are wide but short-lived, in the processor's cache. PVT-Small's forward pass at 800x1216 takes a
quarter of the plain formula's time, and 0.42 of it on a Zen 4, on which both are about as fast
(docs/performance.md; ``tools/benchmark.py`` measures it).
In bfloat16 oneDNN's linear layers take two thirds of the time of PyTorch's attention kernel.

The switch: ``mmpvt.models.kernels.USE_ONEDNN = False`` takes the last column everywhere. Where
MKL is as fast as oneDNN, that is 0.8 to 0.9 times as long, with more memory.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight
from torch.utils.checkpoint import checkpoint

USE_ONEDNN = True
CHUNK_BYTES = 6 << 20  # of a chunk's widest tensor: of 2 to 12 MB measured, 4 to 8 are the fastest
SMALL_BYTES = 512 << 10  # of a head's scores: below, PyTorch's attention is the faster one
ONEDNN_NUMBERS = 20480  # PyTorch gives oneDNN convolutions of more than these (``use_mkldnn``)
MIN_ROWS = 4  # of a tile, as its neighbouring rows are computed twice


def uses_onednn(x: Tensor) -> bool:
    """Whether operations on ``x`` run as oneDNN convolutions (the table above, first column).

    Not in autocast, whose data types oneDNN's linear layers take, nor in a graph that is exported
    or compiled, which shall not depend on the machine that made it.
    """
    is_float32 = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return is_float32 and _is_for_onednn(x)


def _is_for_onednn(x: Tensor) -> bool:
    return (
        USE_ONEDNN
        and x.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
        and not _is_tracing()
    )


def linear_as_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` of (length, in_channels) ``x`` as a 1x1 convolution."""
    if x.numel() <= ONEDNN_NUMBERS:
        return F.linear(x, weight, bias)
    # with one thread PyTorch gives oneDNN only dilated convolutions, which of 1x1 changes nothing
    out = F.conv2d(_as_map(x), weight.view(*weight.shape, 1, 1), bias, dilation=2)
    return out.permute(0, 2, 3, 1).view(len(x), len(weight))


def _as_map(x: Tensor) -> Tensor:
    """(length, channels) as a channels-last (1, channels, 1, length) map, by its strides."""
    return x.view(1, 1, *x.shape).permute(0, 3, 1, 2)


class Linear(nn.Linear):
    """``nn.Linear``, as a convolution where that is faster."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) to (..., out_features)."""
        if not uses_onednn(x):
            return super().forward(x)
        rows = x.reshape(-1, self.in_features).contiguous()
        return linear_as_conv(rows, self.weight, self.bias).view(*x.shape[:-1], -1)


def to_autocast(x: Tensor) -> Tensor:
    """``x`` in the data type that autocast computes in, for operations that would each cast it."""
    kind = x.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return x.to(torch.get_autocast_dtype(kind))
    return x


def gelu_linear(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``F.linear(F.gelu(hidden), weight, bias)`` that stores ``hidden`` alone for the backward
    pass, which computes GELU again.

    ``torch.utils.checkpoint`` stores as little, but its Python code takes as long as a small
    model's kernels on a GPU (docs/performance.md).
    """
    if torch.is_grad_enabled() and not _is_tracing():
        return _GeluLinear.apply(hidden, weight, bias)
    return F.linear(F.gelu(hidden), weight, bias)


class _GeluLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        # autocast would cast the weight to this type, and keeps its copy, too
        weight, bias = weight.to(hidden.dtype), bias.to(hidden.dtype)
        ctx.save_for_backward(hidden, weight)
        return F.linear(F.gelu(hidden), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        with torch.enable_grad():
            hidden = hidden.detach().requires_grad_()
            activated = F.gelu(hidden)
        return (
            torch.autograd.grad(activated, hidden, gradient @ weight)[0] if needs_hidden else None,
            rows.mT @ activated.detach().flatten(0, -2) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )


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
    product: Callable[..., Tensor] | None = None
    if uses_onednn(q):
        product = linear_as_conv
    elif q.dtype == torch.bfloat16 and _is_for_onednn(q):
        product = F.linear
    if product is None or score_bytes < SMALL_BYTES:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=drop).transpose(1, 2)

    length = _chunk_length(k.shape[2], q)
    heads = (x.contiguous().flatten(0, 1).unbind() for x in (q, k * k.shape[-1] ** -0.5, v.mT))
    outs = [_Head.apply(product, length, drop, *head) for head in zip(*heads, strict=True)]
    return torch.stack(outs, 1).unflatten(1, q.shape[:2]).transpose(0, 1)


class _Head(torch.autograd.Function):
    """A head's attention of ``length`` queries at a time, whose scores are computed again in the
    backward pass.

    Results go into tensors allocated beforehand: with pieces kept between the chunks the heap
    fragmented, and an image of 1600x2666 took 4.7 GB in place of 0.4 (docs/performance.md).
    """

    @staticmethod
    def forward(
        ctx,
        product: Callable[..., Tensor],
        length: int,
        drop: float,
        q: Tensor,
        k: Tensor,
        values: Tensor,
    ) -> Tensor:
        """(queries, dims) of (queries, dims), scaled (keys, dims) and (dims, keys)."""
        ctx.options = product, length, drop
        ctx.random_state = torch.get_rng_state() if drop else None
        ctx.save_for_backward(q, k, values)
        for start in range(0, len(q), length):
            chunk = product(_weights(product, q[start : start + length], k, drop), values)
            if start == 0:
                out = chunk.new_empty(len(q), chunk.shape[1])
            out[start : start + length] = chunk
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        product, length, drop = ctx.options
        q, k, values = ctx.saved_tensors
        k, rows = k.detach().requires_grad_(), values.mT.contiguous()
        # of many chunks: in bfloat16 their sums would lose the last ones
        total = torch.empty_like(q)
        totals = [torch.zeros_like(x, dtype=torch.float32) for x in (k, values)]
        chunks = (x.split(length) for x in (q, gradient, total))
        with torch.random.fork_rng(devices=(), enabled=drop > 0):
            if drop:
                torch.set_rng_state(ctx.random_state)
            for queries, chunk, target in zip(*chunks, strict=True):
                with torch.enable_grad():
                    queries = queries.detach().requires_grad_()
                    weights = _weights(product, queries, k, drop)
                totals[1].add_(_weight_gradient(product, chunk, weights.detach()))
                first, second = torch.autograd.grad(weights, (queries, k), product(chunk, rows))
                target.copy_(first)
                totals[0].add_(second)
        return None, None, None, total, *(t.to(q.dtype) for t in totals)


def _weights(product: Callable[..., Tensor], q: Tensor, k: Tensor, drop: float) -> Tensor:
    """(queries, keys), what attention sums values with; softmax computes in float32, whatever the
    type."""
    weights = product(q, k).softmax(-1)
    return F.dropout(weights, drop) if drop else weights


def _weight_gradient(product: Callable[..., Tensor], gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of the weight of ``product(x, weight)``."""
    if product is F.linear or gradient.numel() <= ONEDNN_NUMBERS:
        return gradient.mT @ x
    size = (gradient.shape[1], x.shape[1], 1, 1)
    found = conv2d_weight(_as_map(x), size, _as_map(gradient), dilation=2)
    return found.view(size[:2])


def chunked(
    function: Callable[[Tensor], Tensor], x: Tensor, width: int, with_cp: bool = True
) -> Tensor:
    """``function`` of tokens, each for itself, as many at a time as fit the cache.

    Args:
        function (Callable): (n, channels) tokens to (n, out_channels).
        x (Tensor): tokens, (..., channels).
        width (int): channels of the function's widest intermediate tensor.
        with_cp (bool): activation checkpointing of each chunk. Default: True.

    Returns:
        Tensor: (..., out_channels).
    """
    length = _chunk_length(width, x)
    tokens = x.reshape(-1, x.shape[-1])
    if len(tokens) <= length:
        return function(x)
    outs = [maybe_checkpoint(function, chunk, with_cp=with_cp) for chunk in tokens.split(length)]
    return torch.cat(outs).view(*x.shape[:-1], -1)


def row_tiled(
    function: Callable[[Tensor, slice], Tensor], x: Tensor, width: int, with_cp: bool = True
) -> Tensor:
    """``function`` of tokens, each with its eight neighbours, in tiles of rows that fit the cache.

    Args:
        function (Callable): of (batch, rows, width, channels) tokens and of the slice of rows to
            return: the others are their neighbours.
        x (Tensor): tokens, (batch, height, width, channels).
        width (int): channels of the function's widest intermediate tensor.
        with_cp (bool): activation checkpointing of each tile. Default: True.

    Returns:
        Tensor: (batch, height, width, out_channels).
    """
    rows = max(_chunk_length(width, x) // x.shape[2], MIN_ROWS)
    if len(x) * x.shape[1] <= rows:
        return function(x, slice(None))
    images = []
    for image in x.split(1):
        tiles = image.split(rows, dim=1)  # not slices, each of which has a gradient of full size
        outs = []
        for i, tile in enumerate(tiles):
            above = [t[:, -1:] for t in tiles[max(i - 1, 0) : i]]
            below = [t[:, :1] for t in tiles[i + 1 : i + 2]]
            keep = slice(len(above), len(above) + tile.shape[1])
            padded = torch.cat([*above, tile, *below], dim=1)
            outs.append(maybe_checkpoint(function, padded, keep, with_cp=with_cp))
        images.append(torch.cat(outs, dim=1))
    return torch.cat(images)


def maybe_checkpoint(function: Callable[..., Tensor], *args: object, with_cp: bool) -> Tensor:
    """``function(*args)``, with activation checkpointing if asked for and gradients are recorded.

    Not while tracing: a compiler chooses by itself what to store.
    """
    if with_cp and torch.is_grad_enabled() and not _is_tracing():
        return checkpoint(function, *args, use_reentrant=False)
    return function(*args)


def _chunk_length(width: int, x: Tensor) -> int:
    """How many tokens of ``width`` channels, of the type of ``x``, fit a chunk."""
    return max(CHUNK_BYTES // (width * x.element_size()), 1)


def _is_tracing() -> bool:
    # torch.jit's __all__ lacks is_tracing
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
