"""What PVT v1 and v2 share: four stages, each a map of tokens half the size of the one below."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmpvt import ops
from mmpvt.checkpoint import convert_in_place, load_pretrained
from mmpvt.checkpoint.conversion import EPS
from mmpvt.checkpoint.fitting import FIRST
from mmpvt.checkpoint.layouts import NORM_EPS
from mmpvt.errors import CheckpointError, ConfigError, UserError
from mmpvt.models.archs import NUM_STAGES, Arch, resolve_arch
from mmpvt.models.layers import Block, PatchEmbed, SpatialReductionAttention, to_map

MIN_SIDE = 32  # pixels: below, the last stage has no position left


class PyramidBackbone(BaseModule):
    """The base of both versions; a version gives ``build_mlp``, ``embed`` and ``finish``.

    Tensor names are those of the published checkpoints (``patch_embed1``, ``block1.0.attn.q``,
    …), stages counted from 1. Stages above the last of ``out_indices`` are not built.

    Args:
        arch (str | dict | Arch): a variant's name, or a dict of
            :class:`~mmpvt.models.archs.Arch`'s fields.
        in_channels (int): channels of an image. Default: 3.
        out_indices (Sequence[int]): stages whose maps are returned, from 0. Default: all four.
        frozen_stages (int): how many stages, from the first, are not trained; -1 for none.
            Default: -1.
        drop_rate (float): dropout of tokens, after position embedding (v1), attention and both
            layers of the feed-forward. Default: 0.
        attn_drop_rate (float): dropout of attention weights. Default: 0.
        drop_path_rate (float): stochastic depth at the last block, rising linearly from 0 at the
            first. Default: 0.1.
        with_cp (bool): activation checkpointing of whole blocks. Default: False.
        mlp_with_cp (bool): activation checkpointing in the feed-forward, the block's widest part.
            On a CPU training takes half the memory with it, and on a Zen 4 less time
            (docs/performance.md). Default: True.
        contiguous_maps (bool): return maps in NCHW memory order, for heads that rely on it.
            Default: False.
        init_cfg (dict | None): ``dict(type='Pretrained', checkpoint=FILE_OR_URL)`` for weights in
            any known layout. Default: None.

    Raises:
        ConfigError: an argument is out of range; the message says which and what is possible.
    """

    archs: ClassVar[Mapping[str, Arch]]
    patches: ClassVar[Sequence[tuple[int, int]]]  # kernel size and stride of each patch embedding

    def __init__(
        self,
        arch: str | Mapping | Arch,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        with_cp: bool = False,
        contiguous_maps: bool = False,
        mlp_with_cp: bool = True,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.arch = arch = resolve_arch(arch, self.archs)
        indices = (out_indices,) if isinstance(out_indices, int) else tuple(out_indices)
        if not indices or list(indices) != sorted(set(indices) & set(range(NUM_STAGES))):
            raise ConfigError(
                f"out_indices takes rising stage numbers from 0 to {NUM_STAGES - 1}, not {indices}"
            )
        self.out_indices = indices
        self.num_stages = self.out_indices[-1] + 1
        if not -1 <= frozen_stages <= NUM_STAGES:
            raise ConfigError(f"frozen_stages takes -1 to {NUM_STAGES}, not {frozen_stages}")
        self.frozen_stages = min(frozen_stages, self.num_stages)
        self.drop_rate = drop_rate
        self.with_cp = with_cp
        self.contiguous_maps = contiguous_maps

        channels = (in_channels, *arch.embed_dims)
        patch_embeds = [
            PatchEmbed(channels[i], channels[i + 1], *patch) for i, patch in enumerate(self.patches)
        ]
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
                mlp = self.build_mlp(dims, dims * arch.mlp_ratios[i], drop_rate, mlp_with_cp)
                blocks.append(Block(dims, attn, mlp, next(drop_paths)))
            self.add_module(f"patch_embed{i + 1}", patch_embeds[i])
            self.add_module(f"block{i + 1}", blocks)

    def build_mlp(self, embed_dims: int, hidden_dims: int, drop: float, with_cp: bool) -> nn.Module:
        """The feed-forward of one block."""
        raise NotImplementedError

    def embed(self, stage: int, x: Tensor) -> Tensor:
        """(batch, channels, height, width) map below ``stage`` to that stage's first tokens."""
        return getattr(self, f"patch_embed{stage + 1}")(x)

    def finish(self, stage: int, x: Tensor) -> Tensor:
        """A stage's output, a map, of its last block's tokens."""
        return to_map(x)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The maps of ``out_indices``.

        Args:
            x (Tensor): images, (batch, in_channels, height, width), each side at least 32 pixels.

        Returns:
            tuple[Tensor, ...]: maps, (batch, embed_dims[i], height / stride, width / stride) with
            stride 4, 8, 16, 32; v1 rounds the sides down, v2 up. They are channels-last in
            memory, unless ``contiguous_maps`` or mmcv's compiled operators ask for NCHW.

        Raises:
            UserError: the images are smaller than 32 pixels a side.
        """
        if min(x.shape[-2:]) < MIN_SIDE:
            raise UserError(
                f"images of {x.shape[-2]}x{x.shape[-1]} pixels are too small for a pyramid of "
                f"stride 32: each side takes at least {MIN_SIDE}"
            )
        # mmcv's compiled operators read any map as if it were in NCHW memory order
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
            x = self.finish(stage, x)
            if stage in self.out_indices:
                outs.append(x.contiguous() if is_contiguous else x)
        return tuple(outs)

    def init_weights(self) -> None:
        """Loads what ``init_cfg`` names; without it the paper's initialisation stays.

        Raises:
            DownloadError: the weights can't be downloaded.
            CheckpointError: they can't be read, contain code, or don't fit.
        """
        if isinstance(self.init_cfg, Mapping) and self.init_cfg.get("type") == "Pretrained":
            load_pretrained(self, self.init_cfg["checkpoint"], self.init_cfg.get("prefix"))
        else:
            super().init_weights()

    def train(self, mode: bool = True) -> PyramidBackbone:
        """Sets training mode, except for frozen stages, which stay in evaluation mode."""
        super().train(mode)
        self.freeze_stages()
        return self

    def freeze_stages(self) -> None:
        """Turns off gradients and dropout of the first ``frozen_stages`` stages."""
        for i in range(1, self.frozen_stages + 1):
            for name in ("patch_embed", "pos_embed", "pos_drop", "block", "norm"):
                part = getattr(self, f"{name}{i}", None)
                if part is not None:
                    part.requires_grad_(False)
                if isinstance(part, nn.Module):
                    part.eval()

    @property
    def norm_eps(self) -> float:
        """Epsilon of the LayerNorms of patch embedding and attention.

        The published code's, unless weights were loaded that were trained with another:
        MMDetection's. A state dict then notes it beside the tensors.
        """
        return self.patch_embed1.norm.eps

    @norm_eps.setter
    def norm_eps(self, eps: float) -> None:
        if eps == self.norm_eps:
            return
        if not 0 < eps < 1:
            raise CheckpointError(f"the checkpoint's norm_eps is no epsilon of a norm: {eps}")
        print_log(
            f"LayerNorms of patch embedding and attention compute with an epsilon of {eps:g}, as "
            "the weights were trained",
            logger="current",
        )
        for module in self.modules():
            if isinstance(module, PatchEmbed | SpatialReductionAttention) and hasattr(
                module, "norm"
            ):
                module.norm.eps = eps

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.norm_eps != NORM_EPS:
            destination[prefix + EPS] = torch.tensor(self.norm_eps, dtype=torch.float64)

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args) -> None:
        convert_in_place(state_dict, prefix, self.state_dict())
        eps = state_dict.pop(prefix + EPS, None)
        if prefix + FIRST in state_dict:  # not where other parts alone are loaded
            self.norm_eps = NORM_EPS if eps is None else float(eps.double().mean())
        super()._load_from_state_dict(state_dict, prefix, *args)


def init_linear(module: nn.Module) -> None:
    """Truncated normal weights of standard deviation 0.02, biases 0 (published settings)."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def init_conv(module: nn.Module) -> None:
    """Normal weights of variance 2 / (fan-out of a group), biases 0 (published, v2 only)."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=math.sqrt(2 * module.groups / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
