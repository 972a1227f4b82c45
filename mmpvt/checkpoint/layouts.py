"""The layouts that PVT checkpoints come in, and how each maps to ours.

Ours is the published one (https://github.com/whai362/PVT), stages counted from 1::

    patch_embed1.proj  pos_embed1 (v1)  block1.0.attn.q  block1.0.mlp.fc1  norm1 (v2)

A layout is a table of patterns; what a pattern captures as ``stage`` or ``block`` is counted from
0 there. Three things besides names differ: query, key and value are stacked in other ways, some
layouts hold 1x1 convolutions for linear layers, and v1's last position embedding carries the
class token's, first, where the checkpoint is a classifier's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

WRAPPERS = ("state_dict", "model")  # keys that a file may hold the tensors under
MAX_WRAPPERS = 4  # within each other; a hostile file's can go on for ever
PREFIXES = ("module.", "backbone.")  # of DataParallel; of a detector or segmenter


@dataclass(frozen=True)
class Layout:
    """A way to name PVT's tensors.

    Attributes:
        name: what people call it.
        mark: pattern of a tensor name that no other layout has.
        rules: (pattern, template) pairs; a name takes the first pattern that it matches whole.
        dropped: pattern of names that dense prediction has no use for (classifier, class token).
    """

    name: str
    mark: str
    rules: tuple[tuple[str, str], ...]
    dropped: str = r"(head|classifier)\..*"


STAGE, BLOCK, REST = r"(?P<stage>\d+)", r"(?P<block>\d+)", r"(?P<rest>.+)"

PUBLISHED = Layout(
    "published",
    mark=r"patch_embed1\.proj\.weight",
    rules=((REST, "{rest}"),),
    dropped=r"(head|norm)\..*|cls_token",
)

# https://github.com/huggingface/pytorch-image-models, timm/models/pvt_v2.py; v2 only.
TIMM = Layout(
    "timm",
    mark=r"patch_embed\.proj\.weight",
    rules=(
        (rf"patch_embed\.{REST}", "patch_embed1.{rest}"),
        (rf"stages\.{STAGE}\.downsample\.{REST}", "patch_embed{stage}.{rest}"),
        (
            rf"stages\.{STAGE}\.blocks\.{BLOCK}\.mlp\.dwconv\.{REST}",
            "block{stage}.{block}.mlp.dwconv.dwconv.{rest}",
        ),
        (rf"stages\.{STAGE}\.blocks\.{BLOCK}\.{REST}", "block{stage}.{block}.{rest}"),
        (rf"stages\.{STAGE}\.norm\.{REST}", "norm{stage}.{rest}"),
    ),
)


def mmdet_layout(name: str, mark: str, first_block: int, fc2: int) -> Layout:
    """MMDetection's, mmdet/models/backbones/pvt.py: v1's position embedding takes a block's place,
    v2's convolution shifts the second linear layer."""
    block = rf"layers\.{STAGE}\.1\.{BLOCK}"
    to_block = f"block{{stage}}.{{block-{first_block}}}"
    return Layout(
        name,
        mark,
        rules=(
            (rf"layers\.{STAGE}\.0\.projection\.{REST}", "patch_embed{stage}.proj.{rest}"),
            (rf"layers\.{STAGE}\.0\.norm\.{REST}", "patch_embed{stage}.norm.{rest}"),
            (rf"layers\.{STAGE}\.1\.0\.pos_embed", "pos_embed{stage}"),
            (rf"layers\.{STAGE}\.2\.{REST}", "norm{stage}.{rest}"),
            (rf"{block}\.attn\.attn\.in_proj_{REST}", to_block + ".attn.qkv.{rest}"),
            (rf"{block}\.attn\.attn\.out_proj\.{REST}", to_block + ".attn.proj.{rest}"),
            (rf"{block}\.ffn\.layers\.0\.{REST}", to_block + ".mlp.fc1.{rest}"),
            (rf"{block}\.ffn\.layers\.1\.{REST}", to_block + ".mlp.dwconv.dwconv.{rest}"),
            (rf"{block}\.ffn\.layers\.{fc2}\.{REST}", to_block + ".mlp.fc2.{rest}"),
            (rf"{block}\.{REST}", to_block + ".{rest}"),
        ),
    )


MMDET_V1 = mmdet_layout("MMDetection v1", r"layers\.\d+\.1\.0\.pos_embed", first_block=1, fc2=3)
MMDET_V2 = mmdet_layout(
    "MMDetection v2", r"layers\.\d+\.1\.\d+\.ffn\.layers\.4\.weight", first_block=0, fc2=4
)

HF_PARTS = {  # https://github.com/huggingface/transformers, models/pvt and models/pvt_v2
    "layer_norm_1": "norm1",
    "layer_norm_2": "norm2",
    "mlp.dense1": "mlp.fc1",
    "mlp.dense2": "mlp.fc2",
}
HF_V1_PARTS = {
    **{f"attention.self.{part}": f"attn.{part[0]}" for part in ("query", "key", "value")},
    "attention.self.sequence_reduction": "attn.sr",
    "attention.self.layer_norm": "attn.norm",
    "attention.output.dense": "attn.proj",
    **HF_PARTS,
}
HF_V2_PARTS = {
    **{f"attention.{part}": f"attn.{part[0]}" for part in ("query", "key", "value")},
    "attention.spatial_reduction": "attn.sr",
    "attention.layer_norm": "attn.norm",
    "attention.proj": "attn.proj",
    "mlp.dwconv.dwconv": "mlp.dwconv.dwconv",
    **HF_PARTS,
}

HUGGING_FACE_V1 = Layout(
    "Hugging Face Pvt",
    mark=r"(pvt\.)?encoder\.patch_embeddings\.\d+\.projection\.weight",
    rules=(
        (
            rf"(pvt\.)?encoder\.patch_embeddings\.{STAGE}\.position_embeddings",
            "pos_embed{stage}",
        ),
        *(
            (
                rf"(pvt\.)?encoder\.patch_embeddings\.{STAGE}\.{theirs}\.{REST}",
                f"patch_embed{{stage}}.{ours}.{{rest}}",
            )
            for theirs, ours in (("projection", "proj"), ("layer_norm", "norm"))
        ),
        *(
            (
                rf"(pvt\.)?encoder\.block\.{STAGE}\.{BLOCK}\.{re.escape(theirs)}\.{REST}",
                f"block{{stage}}.{{block}}.{ours}.{{rest}}",
            )
            for theirs, ours in HF_V1_PARTS.items()
        ),
    ),
    dropped=r"classifier\..*|.*\.cls_token|(pvt\.)?encoder\.layer_norm\..*",
)

HUGGING_FACE_V2 = Layout(
    "Hugging Face PvtV2",
    mark=r"(pvt_v2\.)?encoder\.layers\.\d+\.patch_embedding\.proj\.weight",
    rules=(
        *(
            (
                rf"(pvt_v2\.)?encoder\.layers\.{STAGE}\.patch_embedding\.{theirs}\.{REST}",
                f"patch_embed{{stage}}.{ours}.{{rest}}",
            )
            for theirs, ours in (("proj", "proj"), ("layer_norm", "norm"))
        ),
        *(
            (
                rf"(pvt_v2\.)?encoder\.layers\.{STAGE}\.blocks\.{BLOCK}\.{re.escape(theirs)}\.{REST}",
                f"block{{stage}}.{{block}}.{ours}.{{rest}}",
            )
            for theirs, ours in HF_V2_PARTS.items()
        ),
        (rf"(pvt_v2\.)?encoder\.layers\.{STAGE}\.layer_norm\.{REST}", "norm{stage}.{rest}"),
    ),
)

LAYOUTS = (PUBLISHED, TIMM, MMDET_V1, MMDET_V2, HUGGING_FACE_V1, HUGGING_FACE_V2)


def unwrap(checkpoint: Mapping) -> Mapping:
    """The tensors by name, out of the ``state_dict`` or ``model`` key that may hold them."""
    for _ in range(MAX_WRAPPERS):
        inner = (checkpoint[key] for key in WRAPPERS if isinstance(checkpoint.get(key), Mapping))
        checkpoint = next(inner, checkpoint)
    return checkpoint


def recognise(names: Iterable[str]) -> Layout | None:
    """The layout that these tensor names belong to, or None where they fit none."""
    names = list(names)
    for layout in LAYOUTS:
        mark = re.compile(layout.mark)
        if any(mark.fullmatch(name) for name in names):
            return layout
    return None


def convert(checkpoint: Mapping, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A backbone's tensors under our names, from a checkpoint of any known layout.

    Args:
        checkpoint (Mapping): what a file holds, or a state dict: a backbone's, a classifier's or
            a whole detector's (``backbone.`` in front; the rest of it is left out).
        target (Mapping[str, Tensor]): state dict of the backbone to be filled; position
            embeddings are resized to its shapes, stages that it lacks are left out.

    Returns:
        dict[str, Tensor]: the tensors, those that fit no pattern under the name they had.
    """
    tensors = {k: v for k, v in unwrap(checkpoint).items() if isinstance(v, Tensor)}
    for prefix in PREFIXES:
        if any(name.startswith(prefix) for name in tensors):
            tensors = {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix)
            }
    layout = recognise(tensors)
    if layout is None:
        return tensors
    renamed = {}
    for name, tensor in tensors.items():
        if not re.fullmatch(layout.dropped, name):
            renamed[rename(name, layout)] = tensor
    _restack(renamed)
    stages = {_stage(name) for name in target}
    return {
        name: _reshape(name, tensor, target)
        for name, tensor in renamed.items()
        if _stage(name) is None or _stage(name) in stages
    }


def convert_in_place(state_dict: dict, prefix: str, target: Mapping[str, Tensor]) -> None:
    """:func:`convert` for what lies under ``prefix`` in a state dict that is being loaded.

    Args:
        state_dict (dict): of the whole model; changed.
        prefix (str): the backbone's place in it, ``'backbone.'`` say, or ``''``.
        target (Mapping[str, Tensor]): state dict of the backbone.
    """
    names = [name for name in state_dict if name.startswith(prefix)]
    own = {name.removeprefix(prefix): state_dict.pop(name) for name in names}
    state_dict.update({prefix + name: tensor for name, tensor in convert(own, target).items()})


def rename(name: str, layout: Layout) -> str:
    """The name that a layout's first fitting rule gives a tensor, or its own."""
    for pattern, template in layout.rules:
        match = re.fullmatch(pattern, name)
        if match:
            found = match.groupdict()
            if "stage" in found:
                found["stage"] = str(int(found["stage"]) + 1)
            if "block" in found:
                found["block-0"] = found["block"]
                found["block-1"] = str(int(found["block"]) - 1)
            return re.sub(r"\{(.+?)\}", lambda field, found=found: found[field[1]], template)
    return name


def _restack(tensors: dict[str, Tensor]) -> None:
    """Query, key and value as ours are: ``q`` alone, ``kv`` stacked."""
    for name in list(tensors):
        if ".attn.qkv." in name:
            q, k, v = tensors.pop(name).chunk(3)
            tensors[name.replace(".qkv.", ".q.")] = q
            tensors[name.replace(".qkv.", ".kv.")] = torch.cat([k, v])
        elif ".attn.k." in name and name.replace(".k.", ".v.") in tensors:
            k, v = tensors.pop(name), tensors.pop(name.replace(".k.", ".v."))
            tensors[name.replace(".k.", ".kv.")] = torch.cat([k, v])


def _stage(name: str) -> int | None:
    match = re.match(r"(?:patch_embed|pos_embed|block|norm)(\d+)(?:\.|$)", name)
    return int(match[1]) if match else None


def _reshape(name: str, tensor: Tensor, target: Mapping[str, Tensor]) -> Tensor:
    if re.search(r"\.mlp\.fc[12]\.weight$", name) and tensor.dim() == 4:
        tensor = tensor.flatten(1)  # 1x1 convolution
    if name.startswith("pos_embed") and name in target and tensor.dim() == 3:
        tensor = _fit_pos_embed(tensor, target[name].shape[1])
    return tensor


def _fit_pos_embed(pos_embed: Tensor, positions: int) -> Tensor:
    """(1, n, channels) to (1, positions, channels), both of square grids, bilinearly."""
    side = int(pos_embed.shape[1] ** 0.5)
    if pos_embed.shape[1] == side * side + 1 and pos_embed.shape[1] != positions:
        pos_embed = pos_embed[:, 1:]  # the class token's comes first
    if pos_embed.shape[1] in (positions, 0) or pos_embed.shape[1] != side * side:
        return pos_embed
    grid = pos_embed.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    new_side = round(positions**0.5)
    grid = F.interpolate(grid, size=(new_side, new_side), mode="bilinear")
    return grid.flatten(2).transpose(1, 2)
