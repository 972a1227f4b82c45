"""Pyramid Vision Transformer v2 (PVT v2), arXiv 2106.13797."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mmpvt.models.archs import PVT_V2_ARCHS, Arch
from mmpvt.models.backbone import PyramidBackbone, init_conv, init_linear
from mmpvt.models.layers import ConvFeedForward
from mmpvt.registry import MODELS


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
        return getattr(self, f"norm{stage + 1}")(x)
