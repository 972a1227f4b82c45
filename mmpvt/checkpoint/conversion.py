"""From any layout to ours, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mmpvt.checkpoint.layouts import MMDET2_DETR, NORM_EPS, Layout, from_ours, recognise, to_ours

WRAPPERS = ("state_dict", "model")  # keys that a file may hold the tensors under
MAX_WRAPPERS = 4  # within each other; a hostile file's can go on for ever
BACKBONE = "backbone."  # its place in a detector or segmenter
EPS = "norm_eps"  # a scalar, where it isn't the published epsilon
CLASSIFIER = r"(head|classifier|norm)\..*|cls_token"  # what dense prediction has no use for
WRAPPING = re.compile(r"((module|_orig_mod)\.)*")  # in front of names: PyTorch's own wrappers
HEAD = {f"head.{part}": f"head.fc.{part}" for part in ("weight", "bias")}  # ours, and mmpretrain's

_Tensors = TypeVar("_Tensors", bound=Mapping)


def unwrap(checkpoint: _Tensors) -> _Tensors:
    """The tensors by name, out of the ``state_dict`` or ``model`` key that may hold them."""
    for _ in range(MAX_WRAPPERS):
        inner = (checkpoint[key] for key in WRAPPERS if isinstance(checkpoint.get(key), Mapping))
        checkpoint = next(inner, checkpoint)
    return checkpoint


def tensors_of(checkpoint: Mapping) -> dict[str, Tensor]:
    """What a checkpoint holds of tensors, without the prefixes of DataParallel and compilation."""
    return {
        _bare(name): tensor
        for name, tensor in unwrap(checkpoint).items()
        if isinstance(tensor, Tensor)
    }


def _bare(name: object) -> str:
    return WRAPPING.sub("", str(name), count=1)


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those of the tensors whose names begin so, without that beginning."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def convert(checkpoint: Mapping, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A backbone's tensors under our names, from a checkpoint of any known layout.

    Args:
        checkpoint (Mapping): what a file holds, or a state dict: a backbone's, a classifier's or
            a whole detector's (``backbone.`` in front; the rest of it is dropped).
        target (Mapping[str, Tensor]): state dict of the backbone to be filled; position
            embeddings are resized to its shapes, stages and a class token that it lacks are
            dropped.

    Returns:
        dict[str, Tensor]: the tensors, those that fit no pattern under the name they had.
    """
    tensors = tensors_of(checkpoint)
    tensors = under(tensors, BACKBONE) or tensors
    layout = recognise(tensors)
    if layout is None:
        return tensors
    stages = {_stage(name) for name in target}
    return {
        name: _fit(name, tensor, target)
        for name, tensor in convert_from(tensors, layout).items()
        if (name in target or not re.fullmatch(CLASSIFIER, name))
        and (_stage(name) is None or _stage(name) in stages)
    }


def convert_head(checkpoint: Mapping) -> dict[str, Tensor]:
    """A classifier's last layer under mmpretrain's names, from a checkpoint of any known layout.

    Args:
        checkpoint (Mapping): what a file holds, or a state dict.

    Returns:
        dict[str, Tensor]: the tensors; none of a backbone's or detector's checkpoint.
    """
    tensors = tensors_of(checkpoint)
    layout = recognise(tensors)
    if layout is None:
        return {}
    ours = {to_ours(name, layout): tensor for name, tensor in tensors.items()}
    return {HEAD[name]: tensor for name, tensor in ours.items() if name in HEAD}


def convert_in_place(state_dict: dict, prefix: str, target: Mapping[str, Tensor]) -> None:
    """:func:`convert` for what lies under ``prefix`` in a state dict that is being loaded.

    Args:
        state_dict (dict): of the whole model; changed.
        prefix (str): the backbone's place in it, ``'backbone.'`` say, or ``''``.
        target (Mapping[str, Tensor]): state dict of the backbone.
    """
    own = under(state_dict, prefix)
    for name in own:
        del state_dict[prefix + name]
    state_dict.update({prefix + name: tensor for name, tensor in convert(own, target).items()})


def convert_from(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """A backbone's or classifier's tensors, of a layout, under our names and in our shapes."""
    ours = {to_ours(name, layout): tensor for name, tensor in tensors.items()}
    for name in list(ours):
        if ".attn.qkv." in name:
            q, k, v = ours.pop(name).chunk(3)
            ours[name.replace(".qkv.", ".q.")] = q
            ours[name.replace(".qkv.", ".kv.")] = torch.cat([k, v])
        elif ".attn.k." in name and name.replace(".k.", ".v.") in ours:
            k, v = ours.pop(name), ours.pop(name.replace(".k.", ".v."))
            ours[name.replace(".k.", ".kv.")] = torch.cat([k, v])
        elif _is_linear(name) and ours[name].dim() == 4:
            ours[name] = ours[name].flatten(1)
    if layout.norm_eps != NORM_EPS:
        ours.setdefault(EPS, torch.tensor(layout.norm_eps, dtype=torch.float64))
    return ours


def convert_to(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The reverse of :func:`convert_from`, for tensors that the layout has a place for."""
    ours = dict(tensors)
    for name in list(ours):
        if _is_linear(name) and layout.convolutions:
            ours[name] = ours[name][:, :, None, None]
        elif ".attn.kv." in name and layout.attention == "q k v":
            k, v = ours.pop(name).chunk(2)
            ours[name.replace(".kv.", ".k.")] = k
            ours[name.replace(".kv.", ".v.")] = v
        elif ".attn.kv." in name and layout.attention == "qkv":
            q, kv = ours.pop(name.replace(".kv.", ".q.")), ours.pop(name)
            ours[name.replace(".kv.", ".qkv.")] = torch.cat([q, kv])
    renamed = {from_ours(name, layout): tensor for name, tensor in ours.items()}
    if not any(name.startswith("head.") for name in tensors):
        return renamed
    last = ("head.", "classifier.")
    return {k if k.startswith(last) else layout.prefix + k: v for k, v in renamed.items()}


def upgrade(checkpoint: dict) -> None:
    """Gives a detector's or segmenter's tensors the names they have today; others stay.

    The published detectors were saved by MMDetection 2.8 to 2.13, the segmenters by MMSegmentation
    0.13. Of the families in docs/model_zoo.md, MMDetection 3 renamed the tensors of one, DETR.

    The second copy of each tensor that MMCV 1's ``EMAHook`` stores is dropped: it has put the
    averages in the tensors' own place before it saves.

    Args:
        checkpoint (dict): what a file holds, or a state dict; changed.
    """
    tensors = unwrap(checkpoint)
    bare = {name: _bare(name) for name in tensors}
    averages = {
        f"ema_{bare[name].replace('.', '_')}"
        for name, value in tensors.items()
        if isinstance(value, Tensor)
    }
    kept = {name: value for name, value in tensors.items() if bare[name] not in averages}
    if any(re.fullmatch(MMDET2_DETR.mark, bare[name]) for name in kept):
        kept = {to_ours(bare[name], MMDET2_DETR): value for name, value in kept.items()}
    if list(kept) != list(tensors):
        tensors.clear()
        tensors.update(kept)


def downgrade(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A detector's tensors, but for its backbone's, under the names of MMDetection 2.13."""
    is_detr = "query_embedding.weight" in tensors and "bbox_head.fc_reg.weight" in tensors
    return {from_ours(k, MMDET2_DETR) if is_detr else k: v for k, v in tensors.items()}


def without_class_token(pos_embed: Tensor) -> Tensor:
    """(1, n, channels) of a square grid, without the class token's position, which comes first."""
    return pos_embed[:, _extra_positions(pos_embed) :]


def _extra_positions(pos_embed: Tensor) -> int:
    """1 where (1, n, channels) is of a square grid and a class token, else 0."""
    side = int(pos_embed.shape[1] ** 0.5)
    return int(pos_embed.shape[1] == side * side + 1)


def _is_linear(name: str) -> bool:
    return re.search(r"\.mlp\.fc[12]\.weight$", name) is not None


def _stage(name: str) -> int | None:
    match = re.match(r"(?:patch_embed|pos_embed|block|norm)(\d+)(?:\.|$)", name)
    return int(match[1]) if match else None


def _fit(name: str, tensor: Tensor, target: Mapping[str, Tensor]) -> Tensor:
    """A position embedding at the target's size; other tensors as they are."""
    if not name.startswith("pos_embed") or name not in target or tensor.dim() != 3:
        return tensor
    positions = target[name].shape[1]
    extra = _extra_positions(target[name])
    if tensor.shape[1] == positions or extra > _extra_positions(tensor):
        return tensor
    bare = without_class_token(tensor)
    side = int(bare.shape[1] ** 0.5)
    if bare.shape[1] in (positions, 0) or bare.shape[1] != side * side:
        return bare
    grid = bare.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    new_side = int((positions - extra) ** 0.5)
    grid = F.interpolate(grid, size=(new_side, new_side), mode="bilinear")
    return torch.cat([tensor[:, :extra], grid.flatten(2).transpose(1, 2)], 1)
