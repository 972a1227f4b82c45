"""Which code runs linear layers, attention and feed-forwards: the one place that chooses.

============  =======================  ===================  ====================  ================
operation     float32 on a CPU         bfloat16 there       either, on a CPU      everything else
              without AMX                                   with AMX
============  =======================  ===================  ====================  ================
linear layer  1x1 convolution (of      ``F.linear``         ``F.linear``          ``F.linear``
              small maps,
              ``F.linear``)
attention     two 1x1 convolutions a   two linear layers a  PyTorch's (chunks of  PyTorch's
              head, in chunks of rows  head, in chunks of   rows: dropout, some
              (small maps: PyTorch's)  rows (likewise)      backward passes)
feed-forward  chunks of tokens, or     likewise             likewise, where maps  the whole map at
              tiles of rows                                 are large             once
============  =======================  ===================  ====================  ================

PyTorch's attention is ``F.scaled_dot_product_attention``.

Why: on an x86 CPU, PyTorch computes float32 matrix products with MKL and convolutions with oneDNN.
On an AMD EPYC with AVX-512 (PyTorch 2.13.0) oneDNN reaches 400 GFLOP/s and MKL 210. A 1x1
convolution of a channels-last map is a linear layer. Chunks keep scores and hidden channels, which
are wide but short-lived, in the processor's cache. PVT-Small's forward pass at 800x1216 takes a
quarter of the plain formula's time, and 0.38 to 0.44 on a Zen 4, on which both are about as fast
(docs/performance.md; ``tools/benchmark.py`` measures it).
In bfloat16 oneDNN's linear layers take two thirds of the time of PyTorch's attention kernel.

AMX (x86's instructions for tiles of a matrix) comes with processors that MKL is written for: there
its products are as fast as oneDNN's, their gradients faster, and PyTorch's attention, which calls
them a tile at a time, takes 0.6 to 0.95 of the time of chunks. Its backward pass is the slower one
in bfloat16, at up to 1.9 times, and where there are fewer heads than threads, which it would leave
idle: there chunks are taken.

Patches side by side pass a linear layer on any CPU, whatever the data type, where the map has fewer
numbers than the weight (:class:`PatchConv`); others are PyTorch's convolution.

The chunks go to threads, one thread a chunk (``parallel.py``), where there are at least two for
each. ``describe`` says which column runs, and so does ``mmpvt env``.

The switches: ``mmpvt.models.kernels.USE_ONEDNN``, False where there is AMX, chooses between the
first two columns and the third.
``mmpvt.models.parallel.USE_THREADS = False`` has each chunk run on all threads.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight
from torch.utils.checkpoint import checkpoint

from mmpvt.models.parallel import for_each


def cpu_instructions() -> Mapping[str, object]:
    """Which instructions the processor has, by PyTorch's names; older versions don't say."""
    return getattr(torch.cpu, "get_capabilities", dict)()


USE_ONEDNN = not (cpu_instructions().get("amx_tile") and torch.backends.mkl.is_available())
CHUNK_BYTES = 6 << 20  # of a chunk's widest tensor: of 2 to 12 MB measured, 4 to 8 are the fastest
WHOLE_BYTES = 20 << 20  # of hidden channels, with AMX: below, the whole map at once is faster
SMALL_BYTES = 512 << 10  # of a head's scores: below, PyTorch's attention is the faster one
ONEDNN_NUMBERS = 20480  # PyTorch gives oneDNN convolutions of more than these (``use_mkldnn``)
CONV_NUMBERS = 250_000  # of what a product takes or gives: below, MKL is the faster one
MIN_ROWS = 4  # of a tile, as its neighbouring rows are computed twice


def uses_onednn(x: Tensor) -> bool:
    """Whether operations on ``x`` run as oneDNN convolutions (the table above, first column).

    Not where ``USE_ONEDNN`` is off, nor in autocast, whose data types oneDNN's linear layers take,
    nor in a graph that is exported or compiled, which shall not depend on the machine that made it.
    """
    return USE_ONEDNN and x.dtype == torch.float32 and _may_be_divided(x)


def _may_be_divided(x: Tensor) -> bool:
    is_float32 = x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return (
        (is_float32 or x.dtype == torch.bfloat16)
        and x.device.type == "cpu"
        and not is_tracing()  # before what torch.compile can't trace
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )


def product_for(x: Tensor) -> Callable[..., Tensor] | None:
    """What multiplies (length, channels) and (out_channels, channels) in chunks of tokens like
    ``x``; None where none are divided."""
    if uses_onednn(x):
        return linear_as_conv
    return F.linear if _may_be_divided(x) else None


def describe(dtype: torch.dtype, device: str = "cpu") -> str:
    """Which column of the table above runs, in words.

    Args:
        dtype (torch.dtype): of the maps.
        device (str): where they are. Default: ``'cpu'``.
    """
    product = product_for(torch.empty(0, dtype=dtype, device=device))
    if product is None:
        return "PyTorch's attention"
    if not USE_ONEDNN:
        return "PyTorch's attention and linear layers"
    return "oneDNN's convolutions" if product is linear_as_conv else "oneDNN's linear layers"


def linear_as_conv(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` of (length, in_channels) ``x`` as a 1x1 convolution."""
    if _is_small(x, len(weight)):
        return F.linear(x, weight, bias)
    # with one thread PyTorch gives oneDNN only dilated convolutions, which of 1x1 changes nothing
    out = F.conv2d(_as_map(x), weight.view(*weight.shape, 1, 1), bias, dilation=2)
    return out.permute(0, 2, 3, 1).view(len(x), len(weight))


def _is_small(x: Tensor, out_channels: int) -> bool:
    numbers = len(x) * max(x.shape[1], out_channels)
    return x.numel() <= ONEDNN_NUMBERS or numbers <= CONV_NUMBERS


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
        return linear_as_conv(rows, self.weight, self.bias).view(*x.shape[:-1], self.out_features)


class PatchConv(nn.Conv2d):
    """A convolution of patches side by side: its kernel is its stride, and nothing is padded.

    On a CPU a map of fewer numbers than the weight passes a linear layer. For a channels-last map
    PyTorch copies a convolution's weight to that order, each time, and that takes longer than the
    products of such a map. So do maps of few channels in bfloat16, on any CPU: with AMX, oneDNN's
    convolution of PyTorch 2.13 gives wrong numbers there (16 channels in patches of 4, 8 in 8).

    Args:
        in_channels, out_channels (int): channels.
        patch_size (int): side of a patch.
    """

    def __init__(self, in_channels: int, out_channels: int, patch_size: int) -> None:
        super().__init__(in_channels, out_channels, patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) to (batch, out_channels, height / patch_size, width /
        patch_size), rounded down."""
        side = self.stride[0]
        if self._is_wrong_as_convolution(x):  # in a graph for any size, too
            patches = x.unfold(2, side, side).unfold(3, side, side)
            patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3)
        # such a graph shall not depend on a size: traced before the sizes are compared
        elif is_tracing() or x.device.type != "cpu" or not 0 < x.numel() < self.weight.numel():
            return super().forward(x)
        else:
            height, width = (size - size % side for size in x.shape[2:])
            patches = F.pixel_unshuffle(x[:, :, :height, :width], side).permute(0, 2, 3, 1)
        return F.linear(patches, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)

    def _is_wrong_as_convolution(self, x: Tensor) -> bool:
        is_rounded = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
        # 32 numbers of bfloat16 are a row of AMX's tiles; wrong were rows of patches of two or more
        is_few = self.in_channels < 32 and self.in_channels * self.stride[0] >= 64
        return x.device.type == "cpu" and is_rounded and is_few


def to_autocast(x: Tensor) -> Tensor:
    """``x`` in the data type that autocast computes in, for operations that would each cast it."""
    kind = x.device.type
    if torch.compiler.is_compiling():  # which casts once anyway; PyTorch 2.4 can't compile this
        return x
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return x.to(torch.get_autocast_dtype(kind))
    return x


def gelu_linear(hidden: Tensor, weight: Tensor, bias: Tensor, overwrite: bool = False) -> Tensor:
    """``F.linear(F.gelu(hidden), weight, bias)`` that stores ``hidden`` alone for the backward
    pass, which computes GELU again. Where no gradients are recorded it may ``overwrite``
    ``hidden``, which halves the memory.

    ``torch.utils.checkpoint`` stores as little, but its Python code takes as long as a small
    model's kernels on a GPU (docs/performance.md).
    """
    if torch.is_grad_enabled() and not is_tracing():
        return _GeluLinear.apply(hidden, weight, bias)
    gelu = torch.ops.aten.gelu_ if overwrite else F.gelu
    return F.linear(gelu(hidden), weight, bias)


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
        of_hidden = None
        if needs_hidden:
            of_activated = (rows @ weight).view(hidden.shape)
            # autograd's graph of this one operator takes longer than its kernel on a GPU
            of_hidden = torch.ops.aten.gelu_backward(of_activated, hidden)
        return (
            of_hidden,
            rows.mT @ F.gelu(hidden).flatten(0, -2) if needs_weight else None,
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
    product = product_for(q)
    fused = not (USE_ONEDNN or drop)  # PyTorch's kernel, which holds all scores where some drop
    undivided = product is None or score_bytes < SMALL_BYTES
    if undivided or (fused and not _needs_own_backward(q, k)):
        return F.scaled_dot_product_attention(q, k, v, dropout_p=drop).transpose(1, 2)

    scaled = k * k.shape[-1] ** -0.5
    inputs = (x.contiguous() for x in (q, scaled, v.mT))
    return _Attention.apply(product, drop, fused, *inputs).transpose(1, 2)


def _needs_own_backward(q: Tensor, k: Tensor) -> bool:
    """PyTorch's has a thread for each image's head, and is slow in bfloat16."""
    is_slow = q.dtype == torch.bfloat16 or len(q) * q.shape[1] < torch.get_num_threads()
    return is_slow and torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)


class _Attention(torch.autograd.Function):
    """Attention of some queries of a head at a time, whose scores are computed again in the
    backward pass.

    Results go into tensors allocated beforehand: with pieces kept between the chunks the heap
    fragmented, and an image of 1600x2666 took 4.7 GB in place of 0.4 (docs/performance.md).
    """

    @staticmethod
    def forward(
        ctx,
        product: Callable[..., Tensor],
        drop: float,
        fused: bool,
        q: Tensor,
        k: Tensor,
        values: Tensor,
    ) -> Tensor:
        """(batch, heads, queries, dims) of (batch, heads, queries, dims), scaled
        (batch, heads, keys, dims) and (batch, heads, dims, keys); by PyTorch's kernel if
        ``fused``. In memory queries come before heads."""
        rows = _slices(q.shape[2], _chunk_length(k.shape[2], q))
        pieces = list(itertools.product(range(q.shape[0]), range(q.shape[1]), rows))
        ctx.options = product, drop, pieces
        ctx.random_state = torch.get_rng_state() if drop else None
        ctx.save_for_backward(q, k, values)
        if fused:
            return F.scaled_dot_product_attention(q, k, values.mT.contiguous(), scale=1.0)
        out = torch.empty_permuted(q.shape, (0, 2, 1, 3), dtype=q.dtype, device=q.device)

        def attend(piece: tuple[int, int, slice]) -> None:
            weights = _weights(product, q[piece], k[piece[:2]], drop)
            out[piece] = product(weights, values[piece[:2]])

        for_each(attend, pieces, draws=drop > 0)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        product, drop, pieces = ctx.options
        q, k, values = ctx.saved_tensors
        back = values.mT.contiguous()
        of_queries = torch.empty_like(q)
        # of many chunks: in bfloat16 their sums would lose the last ones
        of_keys, of_values = (torch.zeros_like(x, dtype=torch.float32) for x in (k, values))

        def differentiate(piece: tuple[int, int, slice]) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                queries, keys = (x.detach().requires_grad_() for x in (q[piece], k[piece[:2]]))
                weights = _weights(product, queries, keys, drop)
            chunk = gradient[piece].contiguous()
            of_values = _weight_gradient(product, chunk, weights.detach())
            of_weights = product(chunk, back[piece[:2]])
            of_queries[piece], of_keys = torch.autograd.grad(weights, (queries, keys), of_weights)
            return of_keys, of_values

        def collect(piece: tuple[int, int, slice], found: tuple[Tensor, Tensor]) -> None:
            for total, part in zip((of_keys, of_values), found, strict=True):
                total[piece[:2]] += part

        with torch.random.fork_rng(devices=(), enabled=drop > 0):
            if drop:
                torch.set_rng_state(ctx.random_state)
            for_each(differentiate, pieces, collect, draws=drop > 0)
        return None, None, None, of_queries, of_keys.to(q.dtype), of_values.to(q.dtype)


def _weights(product: Callable[..., Tensor], q: Tensor, k: Tensor, drop: float) -> Tensor:
    """(queries, keys), what attention sums values with; softmax computes in float32, whatever the
    type."""
    weights = product(q, k).softmax(-1)
    return F.dropout(weights, drop) if drop else weights


def _weight_gradient(product: Callable[..., Tensor], gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of the weight of ``product(x, weight)``."""
    if product is F.linear or _is_small(gradient, x.shape[1]):
        return gradient.mT @ x
    size = (gradient.shape[1], x.shape[1], 1, 1)
    found = conv2d_weight(_as_map(x), size, _as_map(gradient), dilation=2)
    return found.view(size[:2])


def fits_chunk(x: Tensor, width: int) -> bool:
    """Whether tokens like (..., channels) ``x`` of ``width`` channels need not be divided."""
    return _bytes(x, width) <= CHUNK_BYTES


def is_divided(x: Tensor, width: int) -> bool:
    """Whether chunks of tokens like (..., channels) ``x`` of ``width`` channels are faster than
    the whole map, where it doesn't fit one."""
    return USE_ONEDNN or _bytes(x, width) > WHOLE_BYTES


def _bytes(x: Tensor, width: int) -> int:
    return x.numel() // x.shape[-1] * width * x.element_size()


def chunked(
    function: Callable[..., Tensor],
    x: Tensor,
    parameters: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor,
) -> Tensor:
    """``F.linear(function(x), weight, bias)`` of tokens, each for itself, as many at a time as fit
    the cache; what the function gives is computed again in the backward pass.

    Args:
        function (Callable): (n, channels) tokens to (n, hidden_channels). It draws no random
            numbers.
        x (Tensor): tokens, (..., channels).
        parameters (Sequence[Tensor]): those that the function uses.
        weight, bias (Tensor): (channels, hidden_channels) and (channels,).

    Returns:
        Tensor: of the shape of ``x``.
    """
    tokens = x.reshape(-1, x.shape[-1])
    pieces = [(rows, rows) for rows in _slices(len(tokens), _chunk_length(weight.shape[1], x))]
    return _Divided.apply(function, pieces, tokens, weight, bias, *parameters).view(x.shape)


def row_tiled(
    function: Callable[..., Tensor],
    x: Tensor,
    parameters: Sequence[Tensor],
    weight: Tensor,
    bias: Tensor,
) -> Tensor:
    """:func:`chunked`, of functions of each token with its eight neighbours: in tiles of rows.

    Args:
        function (Callable): of (batch, rows, width, channels) tokens and of the slice of rows to
            return: the others are their neighbours.
        x (Tensor): tokens, (batch, height, width, channels).
        parameters, weight, bias: of :func:`chunked`.

    Returns:
        Tensor: of the shape of ``x``.
    """
    batch, height = x.shape[:2]
    length = max(_chunk_length(weight.shape[1], x) // x.shape[2], MIN_ROWS)
    pieces: list[tuple] = []
    for image, rows in itertools.product(range(batch), _slices(height, length)):
        start, stop = max(rows.start - 1, 0), min(rows.stop + 1, height)
        keep = slice(rows.start - start, rows.stop - start)
        one = slice(image, image + 1)
        pieces.append(((one, slice(start, stop)), (one, rows), keep))
    return _Divided.apply(function, pieces, x, weight, bias, *parameters)


class _Divided(torch.autograd.Function):
    """A linear layer of what ``function`` gives of each piece of ``x``.

    A piece is where its input lies in ``x``, where its result does, and the function's other
    arguments.
    """

    @staticmethod
    def forward(
        ctx,
        function: Callable[..., Tensor],
        pieces: Sequence[tuple],
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        product = product_for(x) or F.linear
        is_autocast = torch.is_autocast_enabled("cpu")  # which each thread says for itself

        def hidden(part: Tensor, *rest: slice) -> Tensor:
            # PyTorch 2.4 takes what is cached here, without gradients, in the backward pass, too
            with torch.autocast("cpu", x.dtype, is_autocast, cache_enabled=False):
                return function(part, *rest)

        ctx.product, ctx.hidden, ctx.pieces = product, hidden, pieces
        ctx.save_for_backward(x, weight, bias, *parameters)
        out = torch.empty_like(x)
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)

        def run(piece: tuple) -> None:
            source, target, *rest = piece
            activated = hidden(x[source], *rest).flatten(0, -2)
            out[target] = product(activated, weight, bias).view(out[target].shape)

        for_each(run, pieces)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        product = ctx.product
        x, *_ = tensors = ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        # of many pieces: in bfloat16 their sums would lose the last ones
        totals = {
            i: torch.zeros_like(t, dtype=torch.float32) for i, t in enumerate(tensors) if needed[i]
        }
        of_function = [i for i in (0, *range(3, len(needed))) if needed[i]]
        back = tensors[1].T.to(x.dtype).contiguous()

        def differentiate(piece: tuple) -> dict[int, Tensor]:
            source, target, *rest = piece
            with torch.enable_grad():
                part = x[source].detach().requires_grad_(needed[0])
                activated = ctx.hidden(part, *rest)
            rows, columns = (t.flatten(0, -2) for t in (gradient[target], activated.detach()))
            found = {}
            if needed[1]:
                found[1] = _weight_gradient(product, rows, columns)
            if needed[2]:
                found[2] = rows.sum(0, dtype=torch.float32)
            if of_function:
                inputs = [tensors[i] if i else part for i in of_function]
                of_activated = product(rows, back).view(activated.shape)
                gradients = torch.autograd.grad(activated, inputs, of_activated)
                found |= zip(of_function, gradients, strict=True)
            return found

        def collect(piece: tuple, found: dict[int, Tensor]) -> None:
            for i, part in found.items():
                total = totals[i] if i else totals[i][piece[0]]
                total += part

        for_each(differentiate, ctx.pieces, collect)
        gradients = (totals[i].to(t.dtype) if needed[i] else None for i, t in enumerate(tensors))
        return None, None, *gradients


def maybe_checkpoint(function: Callable[..., Tensor], *args: object, with_cp: bool) -> Tensor:
    """``function(*args)``, with activation checkpointing if asked for and gradients are recorded.

    Not while tracing: a compiler chooses by itself what to store.
    """
    if with_cp and torch.is_grad_enabled() and not is_tracing():
        return checkpoint(function, *args, use_reentrant=False)
    return function(*args)


def _chunk_length(width: int, x: Tensor) -> int:
    """How many tokens of ``width`` channels, of the type of ``x``, fit a chunk."""
    return max(CHUNK_BYTES // (width * x.element_size()), 1)


def _slices(total: int, most: int) -> list[slice]:
    """0 to ``total``, in as few slices of like length as ``most`` allows."""
    count = max(-(-total // most), 1)
    bounds = [i * total // count for i in range(count + 1)]
    return list(itertools.starmap(slice, itertools.pairwise(bounds)))


def is_tracing() -> bool:
    """Whether a graph is being made, by a compiler or for export."""
    # torch.jit's __all__ lacks is_tracing
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]
