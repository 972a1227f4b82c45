"""The layers of a Pyramid Vision Transformer, each a formula of the papers.

Tokens are (batch, height, width, channels) throughout. Seen as (batch, channels, height, width)
the same memory is a channels-last map, so convolutions and attention share it without a copy.
``kernels.py`` chooses the code that runs the formulas.

Sources: PVT v1, arXiv 2102.12122, section 3; PVT v2, arXiv 2106.13797, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn.modules.module import (
    _global_backward_hooks,
    _global_backward_pre_hooks,
    _global_forward_hooks,
    _global_forward_pre_hooks,
)

from mmpvt.checkpoint.layouts import NORM_EPS
from mmpvt.models.kernels import (
    Linear,
    PatchConv,
    attention,
    chunked,
    fits_chunk,
    gelu_linear,
    is_divided,
    is_tracing,
    maybe_checkpoint,
    product_for,
    row_tiled,
    to_autocast,
)

POOL_SIZE = 7  # of v2's linear attention (PVT v2, section 3.1)


def to_map(tokens: Tensor) -> Tensor:
    """(batch, height, width, channels) tokens seen as a (batch, channels, height, width) map."""
    return tokens.permute(0, 3, 1, 2)


def to_tokens(feature_map: Tensor) -> Tensor:
    """(batch, channels, height, width) map seen as (batch, height, width, channels) tokens."""
    return feature_map.permute(0, 2, 3, 1)


class PatchEmbed(nn.Module):
    """One token for each patch of the map below: a strided convolution and LayerNorm.

    v1's patches don't overlap (PVT v1, section 3.2: kernel = stride, no padding, so a remainder of
    rows or columns is dropped); v2's do (PVT v2, section 3.2: kernel = 2 stride - 1, padded).

    Args:
        in_channels (int): channels of the map below.
        embed_dims (int): channels of a token.
        kernel_size, stride (int): side of a patch and step between patches, in positions of the
            map below.
    """

    def __init__(self, in_channels: int, embed_dims: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        if kernel_size > stride:
            padding = kernel_size // 2
            self.proj = nn.Conv2d(in_channels, embed_dims, kernel_size, stride, padding)
        else:
            self.proj = PatchConv(in_channels, embed_dims, kernel_size)
        self.norm = nn.LayerNorm(embed_dims, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, height, width) map to (batch, h, w, embed_dims) tokens."""
        return self.norm(to_tokens(self.proj(x)))


class SpatialReductionAttention(nn.Module):
    """Attention whose keys and values are computed from a smaller map (PVT v1, section 3.3).

    A convolution makes that map, ``sr_ratio`` times smaller per side; with ``linear``, average
    pooling to 7x7 whatever the input's size (PVT v2, section 3.1).

    Args:
        embed_dims (int): channels of a token.
        num_heads (int): attention heads.
        sr_ratio (int): spatial reduction; 1 for none.
        linear (bool): linear attention. Default: False.
        attn_drop (float): dropout of the attention weights. Default: 0.
        proj_drop (float): dropout after the output projection. Default: 0.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        sr_ratio: int,
        linear: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.linear = linear
        self.attn_drop = attn_drop
        self.q = Linear(embed_dims, embed_dims)
        self.kv = Linear(embed_dims, 2 * embed_dims)
        self.proj = Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop)
        self.sr = None
        if linear or sr_ratio > 1:
            kernel = 1 if linear else sr_ratio
            self.sr = PatchConv(embed_dims, embed_dims, kernel)
            self.norm = nn.LayerNorm(embed_dims, eps=NORM_EPS)

    def reduce(self, x: Tensor) -> Tensor:
        """The tokens that keys and values are computed from, (batch, h, w, embed_dims)."""
        if self.sr is None:
            return x
        if self.linear:
            pooled = F.adaptive_avg_pool2d(to_map(x), POOL_SIZE)
            return F.gelu(self.norm(to_tokens(self.sr(pooled))))
        return self.norm(to_tokens(self.sr(to_map(x))))

    def heads(self, x: Tensor) -> Tensor:
        """(batch, h, w, embed_dims) as (batch, heads, h * w, head_dims)."""
        return x.flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, embed_dims) tokens to tokens of the same shape."""
        if not self.linear:  # whose pooling is better done before rounding
            x = to_autocast(x)
        q = self.heads(self.q(x))
        k, v = map(self.heads, self.kv(self.reduce(x)).chunk(2, -1))
        drop = self.attn_drop if self.training else 0.0
        return self.proj_drop(self.proj(attention(q, k, v, drop).reshape(x.shape)))


class FeedForward(nn.Module):
    """Two linear layers with GELU between, each token for itself (PVT v1, section 3.2).

    Args:
        embed_dims (int): channels of a token.
        hidden_dims (int): channels between the layers.
        drop (float): dropout after each layer. Default: 0.
        with_cp (bool): activation checkpointing: what comes after the hidden channels (of large
            maps on a CPU, they as well) is computed again in the backward pass instead of stored.
            The results are the same, but for rounding. Default: True.
    """

    # how tokens are divided where that is faster
    tiled: ClassVar[Callable[..., Tensor]] = staticmethod(chunked)

    def __init__(
        self, embed_dims: int, hidden_dims: int, drop: float = 0.0, with_cp: bool = True
    ) -> None:
        super().__init__()
        self.fc1 = Linear(embed_dims, hidden_dims)
        self.fc2 = Linear(hidden_dims, embed_dims)
        self.drop = nn.Dropout(drop)
        self.with_cp = with_cp

    def hidden(self, x: Tensor) -> Tensor:
        """(..., embed_dims) to (..., hidden_dims), before the activation."""
        return self.fc1(x)

    def output(self, hidden: Tensor) -> Tensor:
        """(..., hidden_dims) to (..., embed_dims)."""
        return self.drop(self.fc2(self.drop(F.gelu(hidden))))

    def activated(self, x: Tensor) -> Tensor:
        """(..., embed_dims) to (..., hidden_dims), after the activation."""
        return F.gelu(self.hidden(x))

    def forward(self, x: Tensor) -> Tensor:
        """(..., embed_dims) tokens to tokens of the same shape."""
        drops = self.training and self.drop.p > 0
        stores = torch.is_grad_enabled() and not self.with_cp
        # not called as a module in what follows, which an adapter in its place or a hook would miss
        is_plain = type(self.fc2) is Linear and not (drops or stores or _has_hooks(self.fc2))
        x = to_autocast(x)
        if is_plain and product_for(x) is not None:
            width = self.fc2.in_features  # what stands in fc1's place may not say its own
            if fits_chunk(x, width):
                return self.output(self.hidden(x))
            if is_divided(x, width) and self._has_plain_layers():
                own = [p for name, p in self.named_parameters() if not name.startswith("fc2.")]
                return self.tiled(self.activated, x, own, self.fc2.weight, self.fc2.bias)
        hidden = self.hidden(x)
        if is_plain:
            needed = torch.is_grad_enabled() or is_tracing()
            overwrite = not needed and self._has_plain_layers()
            return gelu_linear(hidden, self.fc2.weight, self.fc2.bias, overwrite)
        return maybe_checkpoint(self.output, hidden, with_cp=self.with_cp)

    def _has_plain_layers(self) -> bool:
        """Not where hooks would see some tokens in place of all, or keep what is overwritten, nor
        where an adapter replaces a layer: it may draw random numbers, or count its calls."""
        kinds = (FeedForward, ConvFeedForward, DepthwiseConv, Linear, nn.Conv2d, nn.Dropout)
        return all(type(m) in kinds and not _has_hooks(m) for m in self.modules()) and not any(
            parameter._backward_hooks for parameter in self.parameters()
        )


def _has_hooks(module: nn.Module) -> bool:
    forward = module._forward_hooks or module._forward_pre_hooks
    backward = module._backward_hooks or module._backward_pre_hooks
    every = _global_forward_hooks or _global_forward_pre_hooks  # _has_any_global_hook: PyTorch 2.5
    return bool(
        forward or backward or every or _global_backward_hooks or _global_backward_pre_hooks
    )


class DepthwiseConv(nn.Module):
    """A 3x3 convolution of each channel for itself, padded with zeros."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dims, dims, 3, padding=1, groups=dims)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, dims) tokens to tokens of the same shape."""
        return to_tokens(self.dwconv(to_map(x)))


class ConvFeedForward(FeedForward):
    """Feed-forward with a depth-wise convolution before GELU (PVT v2, section 3.3).

    Args:
        embed_dims, hidden_dims, drop, with_cp: of :class:`FeedForward`.
        relu (bool): ReLU before the convolution, as in the linear variant. Default: False.
    """

    tiled = staticmethod(row_tiled)

    def __init__(
        self,
        embed_dims: int,
        hidden_dims: int,
        drop: float = 0.0,
        with_cp: bool = True,
        relu: bool = False,
    ) -> None:
        super().__init__(embed_dims, hidden_dims, drop, with_cp)
        self.dwconv = DepthwiseConv(hidden_dims)
        self.relu = relu

    def hidden(self, x: Tensor) -> Tensor:
        """(batch, height, width, embed_dims) to (batch, height, width, hidden_dims)."""
        x = self.fc1(x)
        if self.relu:
            x = F.relu(x, inplace=True)
        return self.dwconv(x)

    def activated(self, x: Tensor, rows: slice = slice(None)) -> Tensor:
        """(batch, height, width, embed_dims) to ``rows`` of (batch, height, width, hidden_dims),
        after the activation."""
        return F.gelu(self.hidden(x)[:, rows])


class ResidualDropPath(DropPath):
    """A shortcut around a branch that is dropped at random (stochastic depth, arXiv 1603.09382).

    The random numbers are those of mmcv's ``DropPath``; dropping, scaling and the sum take one pass
    over memory in place of three.

    Args:
        drop_prob (float): probability, in training, that an image's branch is dropped. Default:
            0.1.
    """

    def forward(self, x: Tensor, branch: Tensor) -> Tensor:
        """``x + DropPath(branch)``, both of the same shape, images first."""
        if not (self.training and self.drop_prob):
            return x + branch
        keep = 1 - self.drop_prob
        shape = (len(x), *(1,) * (x.ndim - 1))
        kept = (torch.rand(shape, dtype=branch.dtype, device=branch.device) + keep).floor()
        return torch.addcmul(x, branch, kept, value=1 / keep)


class Block(nn.Module):
    """Attention, then feed-forward, each after LayerNorm and around a shortcut.

    Args:
        embed_dims (int): channels of a token.
        attn (nn.Module): tokens to tokens.
        mlp (nn.Module): tokens to tokens.
        drop_path (float): probability, in training, that an image's branch is dropped. Default: 0.
    """

    def __init__(
        self, embed_dims: int, attn: nn.Module, mlp: nn.Module, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.mlp = mlp
        self.drop_path = ResidualDropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, embed_dims) tokens to tokens of the same shape."""
        x = self.drop_path(x, self.attn(self.norm1(x)))
        return self.drop_path(x, self.mlp(self.norm2(x)))
