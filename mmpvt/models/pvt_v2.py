"""Pyramid Vision Transformer v2 (PVT v2), arXiv 2106.13797."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from mmpvt.models.archs import PVT_V2_ARCHS, Arch, resolve_arch
from mmpvt.models.backbone import PyramidBackbone, init_conv, init_linear
from mmpvt.models.layers import ConvFeedForward, PatchEmbed
from mmpvt.registry import MODELS


@MODELS.register_module()
class PyramidVisionTransformerV2(PyramidBackbone):
    """PVT v2: overlapping patches, a depth-wise convolution in place of position embeddings.

    Args:
        arch (str | dict | Arch): ``'b0'`` … ``'b5'`` or ``'b2_li'`` (linear attention), or a dict
            of :class:`~mmpvt.models.archs.Arch`'s fields. Default: ``'b2'``.
        in_channels (int): channels of an image. Default: 3.
        out_indices (Sequence[int]): stages whose maps are returned, from 0. Default: all four.
        frozen_stages (int): how many stages, from the first, are not trained; -1 for none.
            Default: -1.
        drop_rate (float): dropout of tokens, after attention and both layers of the feed-forward.
            Default: 0.
        attn_drop_rate (float): dropout of attention weights. Default: 0.
        drop_path_rate (float): stochastic depth at the last block, rising linearly from 0 at the
            first. Default: 0.1.
        with_cp (bool): recompute blocks in the backward pass to save memory. Default: False.
        contiguous_maps (bool): return maps that lie in memory channel by channel, for heads that
            take that for granted. Default: False.
        init_cfg (dict | None): ``dict(type='Pretrained', checkpoint=FILE_OR_URL)``. Default: None.

    Raises:
        UserError: an argument is out of range; the message says which and what is possible.

    Example:
        >>> model = PyramidVisionTransformerV2('b0')
        >>> [tuple(m.shape) for m in model(torch.rand(1, 3, 64, 96))]
        [(1, 32, 16, 24), (1, 64, 8, 12), (1, 160, 4, 6), (1, 256, 2, 3)]
    """

    def __init__(
        self,
        arch: str | Mapping | Arch = "b2",
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        with_cp: bool = False,
        contiguous_maps: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        arch = resolve_arch(arch, PVT_V2_ARCHS)
        dims = (in_channels, *arch.embed_dims)
        patches = ((7, 4), (3, 2), (3, 2), (3, 2))  # kernel and stride
        super().__init__(
            arch,
            [PatchEmbed(dims[i], dims[i + 1], *patch) for i, patch in enumerate(patches)],
            out_indices,
            frozen_stages,
            drop_rate,
            attn_drop_rate,
            drop_path_rate,
            with_cp,
            contiguous_maps,
            init_cfg,
        )
        for i in range(self.num_stages):
            self.add_module(f"norm{i + 1}", nn.LayerNorm(arch.embed_dims[i], eps=1e-6))
        self.apply(init_linear)
        self.apply(init_conv)
        self.freeze_stages()

    def build_mlp(self, embed_dims: int, hidden_dims: int, drop: float) -> nn.Module:
        return ConvFeedForward(embed_dims, hidden_dims, drop, relu=self.arch.linear)

    def finish(self, stage: int, x: Tensor) -> Tensor:
        return getattr(self, f"norm{stage + 1}")(x)
