"""The published formula, written plainly: what a fast implementation is measured against.

Attention is two matrix products and a softmax between them, all scores held at once; each layer
copies between maps (batch, channels, height, width) and sequences (batch, length, channels). The
tensors are named as in :mod:`mmpvt.models`, whose weights load as they are.

Sources: PVT v1, arXiv 2102.12122, section 3; PVT v2, arXiv 2106.13797, section 3.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmpvt.models.archs import NUM_STAGES, STRIDES, Arch


def to_sequence(feature_map: Tensor) -> Tensor:
    """(batch, channels, height, width) to (batch, height * width, channels)."""
    return feature_map.flatten(2).transpose(1, 2)


def to_map(x: Tensor, height: int, width: int) -> Tensor:
    """(batch, height * width, channels) to (batch, channels, height, width)."""
    return x.transpose(1, 2).reshape(x.shape[0], -1, height, width).contiguous()


class PatchEmbed(nn.Module):
    def __init__(self, in_channels: int, dims: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        padding = kernel_size // 2 if kernel_size > stride else 0
        self.proj = nn.Conv2d(in_channels, dims, kernel_size, stride, padding)
        self.norm = nn.LayerNorm(dims)

    def forward(self, x: Tensor) -> tuple[Tensor, int, int]:
        x = self.proj(x)
        return self.norm(to_sequence(x)), *x.shape[2:]


class Attention(nn.Module):
    def __init__(self, dims: int, num_heads: int, sr_ratio: int, linear: bool) -> None:
        super().__init__()
        self.num_heads, self.linear = num_heads, linear
        self.q = nn.Linear(dims, dims)
        self.kv = nn.Linear(dims, 2 * dims)
        self.proj = nn.Linear(dims, dims)
        self.sr = None
        if linear or sr_ratio > 1:
            self.sr = nn.Conv2d(dims, dims, 1 if linear else sr_ratio, 1 if linear else sr_ratio)
            self.norm = nn.LayerNorm(dims)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        batch, length, dims = x.shape
        size = dims // self.num_heads
        q = self.q(x).reshape(batch, length, self.num_heads, size).permute(0, 2, 1, 3)
        reduced = x
        if self.sr is not None:
            reduced = to_map(x, height, width)
            if self.linear:
                reduced = F.adaptive_avg_pool2d(reduced, 7)
            reduced = self.norm(to_sequence(self.sr(reduced)))
            if self.linear:
                reduced = F.gelu(reduced)
        kv = self.kv(reduced).reshape(batch, -1, 2, self.num_heads, size)
        k, v = kv.permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * size**-0.5).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(batch, length, dims))


class DepthwiseConv(nn.Module):
    def __init__(self, dims: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dims, dims, 3, padding=1, groups=dims)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        return to_sequence(self.dwconv(to_map(x, height, width)))


class FeedForward(nn.Module):
    def __init__(self, dims: int, hidden_dims: int, conv: bool, relu: bool) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dims, hidden_dims)
        self.dwconv = DepthwiseConv(hidden_dims) if conv else None
        self.relu = relu
        self.fc2 = nn.Linear(hidden_dims, dims)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = self.fc1(x)
        if self.relu:
            x = F.relu(x)
        if self.dwconv is not None:
            x = self.dwconv(x, height, width)
        return self.fc2(F.gelu(x))


class Block(nn.Module):
    def __init__(self, attn: Attention, mlp: FeedForward, dims: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dims, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dims, eps=1e-6)
        self.mlp = mlp

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        x = x + self.attn(self.norm1(x), height, width)
        return x + self.mlp(self.norm2(x), height, width)


class PublishedPVT(nn.Module):
    """PVT v1 or v2 without dropout and stochastic depth.

    Args:
        arch (Arch): the variant.
        version (int): 1 or 2.
        pretrain_img_size (int): side, in pixels, that v1's position embeddings are learned for.
            Default: 224.
    """

    def __init__(self, arch: Arch, version: int, pretrain_img_size: int = 224) -> None:
        super().__init__()
        self.version = version
        dims = (3, *arch.embed_dims)
        for i in range(NUM_STAGES):
            stride = 4 if i == 0 else 2
            kernel = stride if version == 1 else 2 * stride - 1
            embed = PatchEmbed(dims[i], dims[i + 1], kernel, stride)
            self.add_module(f"patch_embed{i + 1}", embed)
            blocks = nn.ModuleList()
            for _ in range(arch.depths[i]):
                attn = Attention(dims[i + 1], arch.num_heads[i], arch.sr_ratios[i], arch.linear)
                hidden_dims = dims[i + 1] * arch.mlp_ratios[i]
                mlp = FeedForward(dims[i + 1], hidden_dims, conv=version == 2, relu=arch.linear)
                blocks.append(Block(attn, mlp, dims[i + 1]))
            self.add_module(f"block{i + 1}", blocks)
            if version == 2:
                self.add_module(f"norm{i + 1}", nn.LayerNorm(dims[i + 1], eps=1e-6))
            else:
                positions = (pretrain_img_size // STRIDES[i]) ** 2
                pos_embed = nn.Parameter(torch.zeros(1, positions, dims[i + 1]))
                self.register_parameter(f"pos_embed{i + 1}", pos_embed)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(batch, 3, height, width) images to four maps, of stride 4, 8, 16, 32."""
        outs = []
        for stage in range(1, NUM_STAGES + 1):
            x, height, width = getattr(self, f"patch_embed{stage}")(x)
            if self.version == 1:
                x = x + self.positions(stage, height, width)
            for block in getattr(self, f"block{stage}"):
                x = block(x, height, width)
            if self.version == 2:
                x = getattr(self, f"norm{stage}")(x)
            x = to_map(x, height, width)
            outs.append(x)
        return tuple(outs)

    def positions(self, stage: int, height: int, width: int) -> Tensor:
        """A stage's position embeddings, (1, height * width, channels)."""
        pos_embed = getattr(self, f"pos_embed{stage}")
        side = round(pos_embed.shape[1] ** 0.5)
        grid = to_map(pos_embed, side, side)
        return to_sequence(F.interpolate(grid, size=(height, width), mode="bilinear"))
