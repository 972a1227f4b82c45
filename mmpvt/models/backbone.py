"""What PVT v1 and v2 share: four stages, each a map of tokens half the size of the one below."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmpvt import ops
from mmpvt.checkpoint import convert_in_place, load_pretrained
from mmpvt.errors import UserError
from mmpvt.models.archs import NUM_STAGES, Arch
from mmpvt.models.layers import Block, SpatialReductionAttention, to_map

MIN_SIDE = 32  # pixels: below, the last stage has no position left


class PyramidBackbone(BaseModule):
    """The frame of both versions; a version gives ``build_mlp``, ``embed`` and ``finish``.

    Tensor names are those of the published checkpoints (``patch_embed1``, ``block1.0.attn.q``,
    …), stages counted from 1. Stages above the last of ``out_indices`` are not built.

    Args:
        arch (Arch): the variant.
        patch_embeds (Sequence[nn.Module]): one a stage.
        out_indices (Sequence[int]): stages whose maps are returned, counted from 0.
        frozen_stages (int): how many stages, from the first, are not trained; -1 for none.
        drop_rate, attn_drop_rate, drop_path_rate (float): dropout of tokens, of attention
            weights, and stochastic depth's rate at the last block (linear from 0 at the first).
        with_cp (bool): recompute each block in the backward pass instead of storing it.
        contiguous_maps (bool): return maps that lie in memory channel by channel.
        init_cfg (dict | None): ``dict(type='Pretrained', checkpoint=…)`` for weights in any
            known layout.

    Raises:
        UserError: ``out_indices`` or ``frozen_stages`` name stages that don't exist.
    """

    def __init__(
        self,
        arch: Arch,
        patch_embeds: Sequence[nn.Module],
        out_indices: Sequence[int],
        frozen_stages: int,
        drop_rate: float,
        attn_drop_rate: float,
        drop_path_rate: float,
        with_cp: bool,
        contiguous_maps: bool,
        init_cfg: dict | None,
    ) -> None:
        super().__init__(init_cfg)
        self.arch = arch
        self.out_indices = self._checked_indices(out_indices)
        self.num_stages = self.out_indices[-1] + 1
        if not -1 <= frozen_stages <= NUM_STAGES:
            raise UserError(f"frozen_stages takes -1 to {NUM_STAGES}, not {frozen_stages}")
        self.frozen_stages = min(frozen_stages, self.num_stages)
        self.with_cp = with_cp
        self.contiguous_maps = contiguous_maps

        drop_paths = iter(np.linspace(0, drop_path_rate, sum(arch.depths)).tolist())
        for i in range(self.num_stages):
            dims = arch.embed_dims[i]
            blocks = nn.ModuleList()
            for _ in range(arch.depths[i]):
                attn = SpatialReductionAttention(
                    dims,
                    arch.num_heads[i],
                    arch.sr_ratios[i],
                    linear=arch.linear,
                    attn_drop=attn_drop_rate,
                    proj_drop=drop_rate,
                )
                mlp = self.build_mlp(dims, dims * arch.mlp_ratios[i], drop_rate)
                blocks.append(Block(dims, attn, mlp, next(drop_paths)))
            self.add_module(f"patch_embed{i + 1}", patch_embeds[i])
            self.add_module(f"block{i + 1}", blocks)

    def build_mlp(self, embed_dims: int, hidden_dims: int, drop: float) -> nn.Module:
        """The feed-forward of one block."""
        raise NotImplementedError

    def embed(self, stage: int, x: Tensor) -> Tensor:
        """(batch, channels, height, width) map below ``stage`` to that stage's first tokens."""
        return getattr(self, f"patch_embed{stage + 1}")(x)

    def finish(self, stage: int, x: Tensor) -> Tensor:
        """What a stage does with its last block's tokens."""
        return x

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The maps of ``out_indices``.

        Args:
            x (Tensor): images, (batch, in_channels, height, width), each side at least 32 pixels.

        Returns:
            tuple[Tensor, ...]: maps, (batch, embed_dims[i], height / stride, width / stride) with
            stride 4, 8, 16, 32; v1 rounds the sides down, v2 up. They lie channels-last in
            memory, unless ``contiguous_maps`` or mmcv's compiled operators ask for NCHW.

        Raises:
            UserError: the images are smaller than 32 pixels a side.
        """
        if min(x.shape[-2:]) < MIN_SIDE:
            raise UserError(
                f"images of {x.shape[-2]}x{x.shape[-1]} pixels are too small for a pyramid of "
                f"stride 32: each side takes at least {MIN_SIDE}"
            )
        # mmcv's compiled operators read any map as if it lay in memory channel by channel
        is_contiguous = self.contiguous_maps or not ops.uses_fallback()
        outs = []
        x = x.contiguous(memory_format=torch.channels_last)
        for stage in range(self.num_stages):
            x = self.embed(stage, x)
            for block in getattr(self, f"block{stage + 1}"):
                if self.with_cp and torch.is_grad_enabled():
                    x = checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)
            x = to_map(self.finish(stage, x))
            if stage in self.out_indices:
                outs.append(x.contiguous() if is_contiguous else x)
        return tuple(outs)

    def init_weights(self) -> None:
        """Loads what ``init_cfg`` names; without it the paper's initialisation stays.

        Raises:
            UserError: the weights can't be had, carry code, or don't fit.
        """
        if isinstance(self.init_cfg, Mapping) and self.init_cfg.get("type") == "Pretrained":
            load_pretrained(self, self.init_cfg["checkpoint"], self.init_cfg.get("prefix"))
        else:
            super().init_weights()

    def train(self, mode: bool = True) -> PyramidBackbone:
        """Sets training mode, but for frozen stages, which stay as they are used in testing."""
        super().train(mode)
        self.freeze_stages()
        return self

    def freeze_stages(self) -> None:
        """Makes the first ``frozen_stages`` stages constant: no gradients, no dropout."""
        for i in range(1, self.frozen_stages + 1):
            for name in self.stage_parts(i):
                part = getattr(self, name)
                part.requires_grad_(False)
                if isinstance(part, nn.Module):
                    part.eval()

    def stage_parts(self, number: int) -> list[str]:
        """Names of what belongs to stage ``number``, counted from 1."""
        parts = (f"{part}{number}" for part in ("patch_embed", "pos_embed", "block", "norm"))
        return [name for name in parts if hasattr(self, name)]

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        convert_in_place(state_dict, prefix, self.state_dict())
        super()._load_from_state_dict(state_dict, prefix, *args)

    @staticmethod
    def _checked_indices(out_indices: Sequence[int] | int) -> tuple[int, ...]:
        indices = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
        rising = all(low < high for low, high in pairwise(indices))
        if not indices or not rising or indices[0] < 0 or indices[-1] >= NUM_STAGES:
            raise UserError(
                f"out_indices takes rising stage numbers from 0 to {NUM_STAGES - 1}, not {indices}"
            )
        return indices


def init_linear(module: nn.Module) -> None:
    """Truncated normal weights of standard deviation 0.02, biases 0 (published settings)."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def init_conv(module: nn.Module) -> None:
    """Normal weights of variance 2 / fan-out, a group's own, biases 0 (published, v2 only)."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=math.sqrt(2 * module.groups / fan_out))
        nn.init.zeros_(module.bias)
