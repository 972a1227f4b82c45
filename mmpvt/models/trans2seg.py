"""Trans2Seg's head: a transformer matches each class, and a small convolutional head segments it.

Sources: Trans2Seg, arXiv 2101.08461; on PVT's maps: PVT v1, arXiv 2102.12122, section 5.4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, DepthwiseSeparableConvModule
from mmcv.cnn.bricks import DropPath
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.utils import resize
from torch import Tensor, nn

from mmpvt.errors import ConfigError
from mmpvt.models.backbone import init_linear
from mmpvt.models.layers import (
    Block,
    FeedForward,
    ResidualDropPath,
    SpatialReductionAttention,
    to_map,
    to_tokens,
)
from mmpvt.models.pvt import resize_pos_embed
from mmpvt.registry import MODELS


@MODELS.register_module()
class Trans2SegHead(BaseDecodeHead):
    """Trans2Seg on a pyramid's finest and coarsest map: a mask for each class's own query.

    The coarsest map's tokens pass a transformer encoder. In the decoder one learned query a class
    attends to them; its scores, a head at a time, are the class's attention maps. A small
    convolutional head, the same for every class, takes these maps concatenated with the encoded
    tokens, adds the finest map on the way, and ends in one mask a class.

    Images may have any size: what depends on the position is learned for a square grid, that of
    512x512 pixels at stride 32, and resized bilinearly to and from the input's grid.

    With PVT-Small and 150 classes: 31.7 M parameters (published: 32.1 M) and, at 512x512, 32.0
    GFLOPs (published: 31.6), multiply-adds counted once and attention's products included.

    Differences to Trans2Seg's released code, and why:

    - Its feed-forward across positions takes one size of map only. Here maps are resized to
      ``grid_size`` and back, which at 512x512 changes nothing.
    - Its convolutional head reads the last block's attention map alone, so nothing trains the
      other blocks' feed-forwards across positions. Here the blocks' maps add up, and what nothing
      reads isn't built: the last block's update of queries and tokens, and the class token.
    - Shortcuts go around attention. There the attention's result is added to itself, which loses
      the query, and the class embedding is added anew in each block to make up for it.
    - Heads are split along channels. There the decoder's are split along the classes as well,
      which mixes classes up.
    - Queries, keys and values have a bias, as PVT's have.
    - ``channels`` is 40, not 64: with 64 and 150 classes the model would take 39.1 GFLOPs, and 40
      is the multiple of 8 nearest to the published figure.

    Args:
        in_channels (Sequence[int]): channels of the finest and the coarsest map.
            Default: ``(64, 512)``.
        channels (int): channels in the convolutional head. Default: 40.
        num_classes (int): classes.
        in_index (Sequence[int]): which of the inputs are the finest and the coarsest map.
            Default: ``(0, 3)``.
        input_transform (str): only ``'multiple_select'``, the default.
        embed_dims (int): channels of a token in the transformer. Default: 256.
        num_heads (int): attention heads, and so attention maps of a class. Default: 8.
        encoder_depth (int): blocks of the encoder. Default: 4.
        decoder_depth (int): blocks of the decoder. Default: 4.
        mlp_ratio (float): hidden channels of the feed-forwards, as a multiple of their inputs.
            Default: 3.
        grid_size (int): side of the square grid that position embeddings and feed-forwards across
            positions are learned for. Default: 16.
        drop_rate (float): dropout of tokens, after position embedding, attention and both layers
            of the feed-forwards. Default: 0.
        attn_drop_rate (float): dropout of attention weights. Default: 0.
        drop_path_rate (float): stochastic depth at the last block of encoder and decoder, rising
            linearly from 0 at the first. Default: 0.
        dropout_ratio (float): channel dropout before the masks. Default: 0, as
            Trans2Seg has none.
        norm_cfg (dict): norm of the convolutions. Default: ``dict(type='BN')``.
        init_cfg (dict | None): as in MMEngine. Default: None, for PyTorch's initial weights in the
            last convolution: mmseg's far smaller ones learn more slowly where one convolution
            serves all classes.
        **kwargs: of mmseg's ``BaseDecodeHead``: ``align_corners``, ``loss_decode``,
            ``ignore_index``, ``sampler``, ``out_channels``, ``threshold``, …

    Raises:
        ConfigError: an argument is out of range; the message says which and what is possible.

    Example:
        >>> head = Trans2SegHead(num_classes=3)
        >>> maps = [torch.rand(1, 64, 16, 24), None, None, torch.rand(1, 512, 2, 3)]
        >>> head(maps).shape
        torch.Size([1, 3, 16, 24])
    """

    def __init__(
        self,
        in_channels: Sequence[int] = (64, 512),
        channels: int = 40,
        *,
        num_classes: int,
        in_index: Sequence[int] = (0, 3),
        input_transform: str = "multiple_select",
        embed_dims: int = 256,
        num_heads: int = 8,
        encoder_depth: int = 4,
        decoder_depth: int = 4,
        mlp_ratio: float = 3,
        grid_size: int = 16,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        dropout_ratio: float = 0.0,
        norm_cfg: dict | None = dict(type="BN", requires_grad=True),  # noqa: B006  mmseg's way
        init_cfg: dict | None = None,
        **kwargs,
    ) -> None:
        _check_numbers(locals())
        if input_transform != "multiple_select":
            raise ConfigError(
                "input_transform takes 'multiple_select' only, as the head reads two maps of "
                f"different size, not {input_transform!r}"
            )
        if embed_dims % num_heads:
            raise ConfigError(f"embed_dims {embed_dims} can't be divided into {num_heads} heads")
        super().__init__(
            list(in_channels),
            channels,
            num_classes=num_classes,
            in_index=list(in_index),
            input_transform=input_transform,
            dropout_ratio=dropout_ratio,
            norm_cfg=norm_cfg,
            init_cfg=init_cfg,
            **kwargs,
        )
        sizes = Sizes(embed_dims, num_heads, mlp_ratio, grid_size, drop_rate, attn_drop_rate)
        drop_paths = [
            np.linspace(0, drop_path_rate, depth).tolist()
            for depth in (encoder_depth, decoder_depth)
        ]
        self.encoder = TokenEncoder(in_channels[1], drop_paths[0], sizes)
        self.decoder = ClassDecoder(self.out_channels, drop_paths[1], sizes)
        convs = dict(norm_cfg=norm_cfg, act_cfg=self.act_cfg)
        self.join = nn.Sequential(
            DepthwiseSeparableConvModule(embed_dims + num_heads, channels, 3, padding=1, **convs),
            DepthwiseSeparableConvModule(channels, channels, 3, padding=1, **convs),
        )
        self.fine = ConvModule(in_channels[0], channels, 1, **convs)
        self.refine = DepthwiseSeparableConvModule(channels, channels, 3, padding=1, **convs)
        self.conv_seg = nn.Conv2d(channels, 1, 1)  # of one class at a time, not of all at once

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """The masks, at the finest map's size.

        Args:
            inputs (Sequence[Tensor]): the pyramid's maps, of which ``in_index`` are read:
                (batch, in_channels[0], height, width) and (batch, in_channels[1], h, w).

        Returns:
            Tensor: logits, (batch, num_classes, height, width).
        """
        fine, coarse = self._transform_inputs(inputs)
        tokens = self.encoder(to_tokens(coarse))
        maps = self.decoder(tokens).permute(0, 2, 3, 4, 1)
        tokens = tokens.unsqueeze(1).expand(-1, maps.shape[1], -1, -1, -1)
        x = self.join(to_map(torch.cat([tokens, maps], dim=-1).flatten(0, 1)))
        x = resize(x, fine.shape[2:], mode="bilinear", align_corners=self.align_corners)
        x = x.unflatten(0, (len(fine), -1)) + self.fine(fine).unsqueeze(1)
        masks = self.cls_seg(self.refine(x.flatten(0, 1)))
        return masks.reshape(len(fine), -1, *fine.shape[2:])


class Sizes(NamedTuple):
    """What encoder and decoder have in common, of Trans2SegHead's arguments."""

    embed_dims: int
    num_heads: int
    mlp_ratio: float
    grid_size: int
    drop: float
    attn_drop: float


class TokenEncoder(nn.Module):
    """Trans2Seg's encoder: embeds a map's positions as tokens, each of which attends to all.

    ``drop_paths`` has one rate a block.
    """

    def __init__(self, in_channels: int, drop_paths: Sequence[float], sizes: Sizes) -> None:
        super().__init__()
        embed_dims, num_heads, mlp_ratio, grid_size, drop, attn_drop = sizes
        self.embed = nn.Linear(in_channels, embed_dims)
        self.pos_embed = nn.Parameter(torch.empty(1, grid_size**2, embed_dims))
        self.pos_drop = nn.Dropout(drop)
        self.blocks = nn.Sequential()
        for drop_path in drop_paths:
            attn = SpatialReductionAttention(
                embed_dims, num_heads, sr_ratio=1, attn_drop=attn_drop, proj_drop=drop
            )
            mlp = FeedForward(embed_dims, int(embed_dims * mlp_ratio), drop)
            self.blocks.append(Block(embed_dims, attn, mlp, drop_path))
        self.norm = nn.LayerNorm(embed_dims)
        self.apply(init_linear)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, height, width, in_channels) to (batch, height, width, embed_dims) tokens."""
        x = self.embed(x)
        x = self.pos_drop(x + resize_pos_embed(self.pos_embed, x.shape[1:3]))
        return self.norm(self.blocks(x))


class ClassDecoder(nn.Module):
    """Trans2Seg's decoder: a learned query a class, and where it matches the tokens.

    ``drop_paths`` has one rate a block.
    """

    def __init__(self, num_classes: int, drop_paths: Sequence[float], sizes: Sizes) -> None:
        super().__init__()
        embed_dims, num_heads, mlp_ratio, grid_size, drop, attn_drop = sizes
        self.class_embed = nn.Parameter(torch.empty(1, num_classes, embed_dims))
        hidden_dims = int(embed_dims * mlp_ratio)
        self.scores = nn.ModuleList(ClassScores(embed_dims, num_heads) for _ in drop_paths)
        self.mixers = nn.ModuleList(
            PositionMixer(grid_size, mlp_ratio, drop, drop_path) for drop_path in drop_paths
        )
        self.updates = nn.ModuleList(
            ClassUpdate(embed_dims, num_heads, hidden_dims, drop, attn_drop, drop_path)
            for drop_path in drop_paths[:-1]
        )
        self.apply(init_linear)
        nn.init.trunc_normal_(self.class_embed, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """(batch, height, width, embed_dims) tokens to the classes' attention maps, before softmax:
        (batch, num_heads, num_classes, height, width)."""
        queries = self.class_embed.repeat(len(tokens), 1, 1)
        scores = self.scores[0](queries, tokens)
        maps = self.mixers[0](scores)
        for update, score, mix in zip(self.updates, self.scores[1:], self.mixers[1:], strict=True):
            queries, tokens = update(queries, tokens, scores)
            scores = score(queries, tokens)
            maps = mix(maps + scores)
        return maps


class ClassScores(nn.Module):
    """How well each class's query matches each token: attention, before softmax."""

    def __init__(self, embed_dims: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = (embed_dims // num_heads) ** -0.5
        self.norm_queries = nn.LayerNorm(embed_dims)
        self.norm_tokens = nn.LayerNorm(embed_dims)
        self.q = nn.Linear(embed_dims, embed_dims)
        self.k = nn.Linear(embed_dims, embed_dims)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        """(batch, num_classes, embed_dims) queries and (batch, height, width, embed_dims) tokens to
        (batch, num_heads, num_classes, height, width) scores."""
        q = split_heads(self.q(self.norm_queries(queries)) * self.scale, self.num_heads)
        k = split_heads(self.k(self.norm_tokens(tokens)).flatten(1, 2), self.num_heads)
        return (q @ k.mT).unflatten(-1, tokens.shape[1:3])


class ClassUpdate(nn.Module):
    """Queries take in the tokens they match; then queries and tokens pass a feed-forward each."""

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        hidden_dims: int,
        drop: float,
        attn_drop: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_values = nn.LayerNorm(embed_dims)
        self.v = nn.Linear(embed_dims, embed_dims)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj_drop = nn.Dropout(drop)
        self.norm_queries = nn.LayerNorm(embed_dims)
        self.query_mlp = FeedForward(embed_dims, hidden_dims, drop)
        self.norm_tokens = nn.LayerNorm(embed_dims)
        self.token_mlp = FeedForward(embed_dims, hidden_dims, drop)
        self.drop_path = ResidualDropPath(drop_path)

    def attend(self, tokens: Tensor, scores: Tensor) -> Tensor:
        """The tokens' values, weighted by each query's scores: (batch, num_classes, embed_dims)."""
        v = split_heads(self.v(self.norm_values(tokens)).flatten(1, 2), self.num_heads)
        out = self.attn_drop(scores.flatten(3).softmax(-1)) @ v
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))

    def forward(self, queries: Tensor, tokens: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and tokens, and the scores of the two, to queries and tokens of the same
        shapes."""
        queries = self.drop_path(queries, self.attend(tokens, scores))
        queries = self.drop_path(queries, self.query_mlp(self.norm_queries(queries)))
        tokens = self.drop_path(tokens, self.token_mlp(self.norm_tokens(tokens)))
        return queries, tokens


class PositionMixer(nn.Module):
    """A feed-forward across positions, each attention map for itself, on a grid of fixed size."""

    def __init__(self, grid_size: int, mlp_ratio: float, drop: float, drop_path: float) -> None:
        super().__init__()
        self.grid = (grid_size, grid_size)
        self.norm = nn.LayerNorm(grid_size**2)
        self.mlp = FeedForward(grid_size**2, int(grid_size**2 * mlp_ratio), drop)
        self.drop_path = DropPath(drop_path)

    def forward(self, maps: Tensor) -> Tensor:
        """(batch, num_heads, num_classes, height, width) to maps of the same shape."""
        grids = resize_maps(maps, self.grid).flatten(3)
        grids = self.drop_path(self.mlp(self.norm(grids))).unflatten(3, self.grid)
        return maps + resize_maps(grids, maps.shape[3:])


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """(batch, length, dims) as (batch, num_heads, length, dims / num_heads)."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def resize_maps(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(batch, num_heads, num_classes, height, width) maps, bilinearly, to another size."""
    if tuple(maps.shape[3:]) == tuple(size):
        return maps
    resized = F.interpolate(maps.flatten(0, 1), size=tuple(size), mode="bilinear")
    return resized.unflatten(0, maps.shape[:2])


def _check_numbers(given: Mapping[str, Any]) -> None:
    """Raises ConfigError where an argument of Trans2SegHead, by its name, is out of range."""
    for name in ("in_channels", "in_index"):
        pair = given[name]
        if not isinstance(pair, Sequence) or [_is_number(x, int) for x in pair] != [True, True]:
            raise ConfigError(
                f"{name} takes two integers, the finest map's and the coarsest's, not {pair!r}"
            )
    sizes = dict(given, in_channels=min(given["in_channels"]))
    for name in (
        *("in_channels", "channels", "num_classes", "embed_dims", "num_heads"),
        *("encoder_depth", "decoder_depth", "grid_size"),
    ):
        if not _is_number(sizes[name], int) or sizes[name] < 1:
            raise ConfigError(f"{name} takes a positive integer, not {sizes[name]!r}")
    for name in ("drop_rate", "attn_drop_rate", "drop_path_rate", "dropout_ratio"):
        if not _is_number(given[name]) or not 0 <= given[name] < 1:
            raise ConfigError(f"{name} takes a number from 0 to below 1, not {given[name]!r}")
    if not _is_number(given["mlp_ratio"]) or given["mlp_ratio"] <= 0:
        raise ConfigError(f"mlp_ratio takes a positive number, not {given['mlp_ratio']!r}")


def _is_number(value: object, kinds: Any = (int, float)) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)
