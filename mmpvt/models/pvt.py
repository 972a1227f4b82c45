"""Pyramid Vision Transformer: v1, arXiv 2102.12122, and v2, arXiv 2106.13797."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmpvt.errors import ConfigError
from mmpvt.models.archs import NUM_STAGES, PVT_ARCHS, PVT_V2_ARCHS, STRIDES, Arch
from mmpvt.models.backbone import PyramidBackbone, init_conv, init_linear
from mmpvt.models.layers import ConvFeedForward, FeedForward, to_map, to_tokens
from mmpvt.registry import MODELS


@MODELS.register_module()
class PyramidVisionTransformer(PyramidBackbone):
    """PVT v1: patches without overlap and a learned position embedding a stage.

    Args:
        arch (str | dict | Arch): ``'tiny'``, ``'small'``, ``'medium'`` or ``'large'``, or a dict
            of :class:`~mmpvt.models.archs.Arch`'s fields. Default: ``'small'``.
        pretrain_img_size (int): side, in pixels, of the square images whose grid the position
            embeddings are learned for; for any other input size they are resized bilinearly, and
            so are those of a checkpoint of another pre-training size. Default: 224.
        with_cls_token (bool): classification (PVT v1, section 3.1): a class token joins the last
            stage's tokens, and that stage's output is the token after LayerNorm, (batch,
            embed_dims[3]), instead of a map. Default: False.
        **kwargs: ``in_channels``, ``out_indices``, ``frozen_stages``, ``drop_rate``,
            ``attn_drop_rate``, ``drop_path_rate``, ``with_cp``, ``mlp_with_cp``,
            ``contiguous_maps`` and ``init_cfg`` of :class:`PyramidBackbone`.

    Raises:
        ConfigError: an argument is out of range; the message says which and what is possible.

    Example:
        >>> model = PyramidVisionTransformer('tiny')
        >>> [tuple(m.shape) for m in model(torch.rand(1, 3, 64, 96))]
        [(1, 64, 16, 24), (1, 128, 8, 12), (1, 320, 4, 6), (1, 512, 2, 3)]
    """

    archs = PVT_ARCHS
    patches = ((4, 4), (2, 2), (2, 2), (2, 2))

    def __init__(
        self,
        arch: str | Mapping | Arch = "small",
        *,
        pretrain_img_size: int = 224,
        with_cls_token: bool = False,
        **kwargs,
    ) -> None:
        if not isinstance(pretrain_img_size, int) or pretrain_img_size < STRIDES[-1]:
            raise ConfigError(
                f"pretrain_img_size takes one side in pixels, at least {STRIDES[-1]}, "
                f"not {pretrain_img_size!r}"
            )
        super().__init__(arch, **kwargs)
        if self.arch.linear:
            raise ConfigError("arch: linear attention is PVT v2's; take PyramidVisionTransformerV2")
        self.with_cls_token = with_cls_token
        if with_cls_token and (self.num_stages < NUM_STAGES or self.arch.sr_ratios[-1] > 1):
            raise ConfigError(
                "with_cls_token: the class token is one of the last stage's, so out_indices end "
                f"with {NUM_STAGES - 1}, and it is on no map that sr_ratios could reduce: they end "
                "with 1"
            )
        for i in range(self.num_stages):
            positions = (pretrain_img_size // STRIDES[i]) ** 2 + self._has_cls_token(i)
            pos_embed = nn.Parameter(torch.empty(1, positions, self.arch.embed_dims[i]))
            nn.init.trunc_normal_(pos_embed, std=0.02)
            self.register_parameter(f"pos_embed{i + 1}", pos_embed)
            self.add_module(f"pos_drop{i + 1}", nn.Dropout(self.drop_rate))
        if with_cls_token:
            self.cls_token = nn.Parameter(torch.empty(1, 1, self.arch.embed_dims[-1]))
            nn.init.trunc_normal_(self.cls_token, std=0.02)
            self.norm = nn.LayerNorm(self.arch.embed_dims[-1], eps=1e-6)
        self.apply(init_linear)
        self.freeze_stages()

    def build_mlp(self, embed_dims: int, hidden_dims: int, drop: float, with_cp: bool) -> nn.Module:
        return FeedForward(embed_dims, hidden_dims, drop, with_cp)

    def _has_cls_token(self, stage: int) -> bool:
        return self.with_cls_token and stage == NUM_STAGES - 1

    def embed(self, stage: int, x: Tensor) -> Tensor:
        """First tokens of a stage; with the class token they are one row, and it is the first."""
        x = super().embed(stage, x)
        pos_embed = getattr(self, f"pos_embed{stage + 1}")
        pos_drop = getattr(self, f"pos_drop{stage + 1}")
        if not self._has_cls_token(stage):
            return pos_drop(x + resize_pos_embed(pos_embed, x.shape[1:3]))
        x = x + resize_pos_embed(pos_embed[:, 1:], x.shape[1:3])
        cls_token = (self.cls_token + pos_embed[:, :1]).expand(x.shape[0], -1, -1)
        return pos_drop(torch.cat([cls_token, x.flatten(1, 2)], dim=1).unsqueeze(1))

    def finish(self, stage: int, x: Tensor) -> Tensor:
        return self.norm(x[:, 0, 0]) if self._has_cls_token(stage) else super().finish(stage, x)

    def freeze_stages(self) -> None:
        super().freeze_stages()
        if self.with_cls_token and self.frozen_stages == NUM_STAGES:
            self.cls_token.requires_grad_(False)
            self.norm.requires_grad_(False)


@MODELS.register_module()
class PyramidVisionTransformerV2(PyramidBackbone):
    """PVT v2: overlapping patches, a depth-wise convolution in place of position embeddings.

    Args:
        arch (str | dict | Arch): ``'b0'`` … ``'b5'`` or ``'b2_li'`` (linear attention), or a dict
            of :class:`~mmpvt.models.archs.Arch`'s fields. Default: ``'b2'``.
        **kwargs: ``in_channels``, ``out_indices``, ``frozen_stages``, ``drop_rate``,
            ``attn_drop_rate``, ``drop_path_rate``, ``with_cp``, ``mlp_with_cp``,
            ``contiguous_maps`` and ``init_cfg`` of :class:`PyramidBackbone`.

    Raises:
        ConfigError: an argument is out of range; the message says which and what is possible.

    Example:
        >>> model = PyramidVisionTransformerV2('b0')
        >>> [tuple(m.shape) for m in model(torch.rand(1, 3, 64, 96))]
        [(1, 32, 16, 24), (1, 64, 8, 12), (1, 160, 4, 6), (1, 256, 2, 3)]
    """

    archs = PVT_V2_ARCHS
    patches = ((7, 4), (3, 2), (3, 2), (3, 2))

    def __init__(self, arch: str | Mapping | Arch = "b2", **kwargs) -> None:
        super().__init__(arch, **kwargs)
        for i in range(self.num_stages):
            self.add_module(f"norm{i + 1}", nn.LayerNorm(self.arch.embed_dims[i], eps=1e-6))
        self.apply(init_linear)
        self.apply(init_conv)
        self.freeze_stages()

    def build_mlp(self, embed_dims: int, hidden_dims: int, drop: float, with_cp: bool) -> nn.Module:
        return ConvFeedForward(embed_dims, hidden_dims, drop, with_cp, relu=self.arch.linear)

    def finish(self, stage: int, x: Tensor) -> Tensor:
        return super().finish(stage, getattr(self, f"norm{stage + 1}")(x))


def resize_pos_embed(pos_embed: Tensor, size: Sequence[int]) -> Tensor:
    """Position embeddings of a square grid, resized bilinearly to another grid.

    Args:
        pos_embed (Tensor): (1, side * side, channels).
        size (Sequence[int]): height and width of the grid wanted, in positions.

    Returns:
        Tensor: (1, height, width, channels).
    """
    side = math.isqrt(pos_embed.shape[1])  # which torch.jit.trace takes, too
    grid = pos_embed.reshape(1, side, side, -1)
    if tuple(size) == (side, side):
        return grid
    return to_tokens(F.interpolate(to_map(grid), size=tuple(size), mode="bilinear"))
