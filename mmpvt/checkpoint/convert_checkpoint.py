"""A checkpoint's whole content from one layout to another, and as a file."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import torch
from torch import Tensor

from mmpvt.checkpoint.conversion import (
    BACKBONE,
    CLASSIFIER,
    EPS,
    convert_from,
    convert_to,
    downgrade,
    tensors_of,
    under,
    without_class_token,
)
from mmpvt.checkpoint.fitting import describe_incompatible_keys
from mmpvt.checkpoint.layouts import (
    HUGGING_FACE_V1,
    HUGGING_FACE_V2,
    MMDET_V1,
    MMDET_V2,
    NORM_EPS,
    PUBLISHED,
    TIMM,
    Layout,
    recognise,
)
from mmpvt.checkpoint.loading import import_safetensors
from mmpvt.errors import CheckpointError, OutputError
from mmpvt.utils.atomic import atomic_write


@dataclass
class ConvertedCheckpoint:
    """A checkpoint in another layout.

    Attributes:
        tensors: all of them.
        kind: what it is: ``'PVT v2 with depths 2 2 2 2 and channels …, a detector'``.
        layout: whose names the backbone had.
        meta: of a detector: what the file says of its data set and its versions.
        dropped: what has no place in the new layout.
        added: what the new layout needs and the old has none of.
    """

    tensors: dict[str, Tensor]
    kind: str
    layout: str
    meta: dict | None = None
    dropped: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)


def convert_checkpoint(
    checkpoint: Mapping, target: str, backbone_only: bool = False
) -> ConvertedCheckpoint:
    """Names and shapes every tensor as another project does.

    A detector's or segmenter's backbone is converted in its place, and the rest stays, under
    MMDetection 3's names; for ``'published'``, under those of MMDetection 2.13.

    Args:
        checkpoint (Mapping): what a file of any known layout holds.
        target (str): one of :data:`~mmpvt.utils.constants.LAYOUTS`. ``'mmpvt'`` is a backbone's;
            ``'published'`` differs from it in what a classifier has besides.
        backbone_only (bool): leave out the rest of a detector. Default: False.

    Returns:
        ConvertedCheckpoint: the tensors, none of which shares memory with another.

    Raises:
        CheckpointError: it holds no whole PVT, or one that the target's project has none of.
    """
    tensors = tensors_of(checkpoint)
    own = under(tensors, BACKBONE)
    is_detector = bool(own)
    rest = {k: v for k, v in tensors.items() if is_detector and not k.startswith(BACKBONE)}
    own = own or tensors
    layout = recognise(own)
    if layout is None:
        first = ", ".join(list(own)[:3]) or "none"
        raise CheckpointError(f"it holds no PVT of a known layout: its first tensors are {first}")
    kind = "detector or segmenter" if is_detector else "backbone"
    try:
        ours = convert_from(own, layout)
        expected = {name: ours.get(name, torch.empty(0)) for name in sorted(expected_names(ours))}
        problem = describe_incompatible_keys(ours, expected)
        if problem:
            raise CheckpointError(f"it holds no whole PVT: {problem}")
        if "head.weight" in ours and not is_detector:
            kind = "classifier"
        done = ConvertedCheckpoint({}, f"{_describe(ours)}, a {kind}", layout.name)
        _adapt(ours, _find_layout(ours, target), target == "mmpvt", done)
    except (RuntimeError, IndexError, TypeError) as error:
        raise CheckpointError(f"its tensors are of shapes that no PVT has: {error}") from error
    if is_detector and not backbone_only:
        done.tensors = {BACKBONE + name: tensor for name, tensor in done.tensors.items()}
        done.tensors.update(downgrade(rest) if target == "published" else rest)
        meta = checkpoint.get("meta")
        done.meta = meta if isinstance(meta, dict) else {}
    elif rest:
        done.dropped.append(f"{len(rest)} tensors outside the backbone")
    done.tensors = {name: tensor.clone() for name, tensor in done.tensors.items()}
    return done


def expected_names(ours: Mapping[str, Tensor]) -> set[str]:
    """What a PVT with as many stages and blocks as this one holds, by our names."""
    parts = ["norm1", "attn.q", "attn.kv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    is_v1 = "pos_embed1" in ours
    if not is_v1:
        parts.append("mlp.dwconv.dwconv")
    modules, others = [], []
    for stage, depth in enumerate(_depths(ours), start=1):
        modules += [f"patch_embed{stage}.proj", f"patch_embed{stage}.norm"]
        if is_v1:
            others.append(f"pos_embed{stage}")
        else:
            modules.append(f"norm{stage}")
        reduced = f"block{stage}.0.attn.sr.weight" in ours
        names = [*parts, *(["attn.sr", "attn.norm"] if reduced else [])]
        modules += [f"block{stage}.{block}.{name}" for block in range(depth) for name in names]
    expected = {f"{name}.{kind}" for name in modules for kind in ("weight", "bias")}
    if "block1.0.attn.q.bias" not in ours:
        expected -= {name for name in expected if re.search(r"\.attn\.(q|kv)\.bias$", name)}
    optional = {name for name in ours if re.fullmatch(CLASSIFIER, name) or name == EPS}
    return expected | set(others) | optional


def save_checkpoint(done: ConvertedCheckpoint, path: Path) -> None:
    """Writes a checkpoint atomically, as PyTorch's or, by its suffix, safetensors' file.

    Raises:
        CheckpointError: safetensors isn't installed.
        OutputError: the file can't be written.
    """
    if path.suffix == ".safetensors":
        content = import_safetensors(path).save(done.tensors, metadata={"format": "pt"})
    else:
        buffer = io.BytesIO()
        is_backbone = done.meta is None
        held = done.tensors if is_backbone else dict(meta=done.meta, state_dict=done.tensors)
        torch.save(held, buffer)
        content = buffer.getvalue()
    try:
        atomic_write(path, content)
    except OSError as error:
        raise OutputError(f"{path} can't be written: {error.strerror}", where=path) from error


def _depths(ours: Mapping[str, Tensor]) -> list[int]:
    matches = (re.match(r"block([1-9])\.(\d+)\.", name) for name in ours)
    blocks = {match.groups() for match in matches if match}
    stages = range(1, max((int(stage) for stage, _ in blocks), default=0) + 1)
    return [next(n for n in count() if (str(stage), str(n)) not in blocks) for stage in stages]


def _version(ours: Mapping[str, Tensor]) -> str:
    if "pos_embed1" in ours:
        return "PVT v1"
    sr = ours.get("block1.0.attn.sr.weight")
    return "linear PVT v2" if sr is not None and sr.shape[-1] == 1 else "PVT v2"


def _describe(ours: Mapping[str, Tensor]) -> str:
    depths = _depths(ours)
    channels = [len(ours[f"patch_embed{stage + 1}.proj.weight"]) for stage in range(len(depths))]
    sizes = [" ".join(map(str, numbers)) for numbers in (depths, channels)]
    return f"{_version(ours)} with depths {sizes[0]} and channels {sizes[1]}"


def _find_layout(ours: Mapping[str, Tensor], target: str) -> Layout:
    version = _version(ours)
    if target == "timm" and version == "PVT v1":
        raise CheckpointError("timm has no PVT v1: only PVT v2 can be converted to it")
    if target == "mmdet" and version == "linear PVT v2":
        raise CheckpointError("MMDetection has no linear PVT v2 to convert this one to")
    is_v1 = version == "PVT v1"
    return {
        "timm": TIMM,
        "mmdet": MMDET_V1 if is_v1 else MMDET_V2,
        "huggingface": HUGGING_FACE_V1 if is_v1 else HUGGING_FACE_V2,
    }.get(target, PUBLISHED)


def _adapt(ours: dict[str, Tensor], layout: Layout, bare: bool, done: ConvertedCheckpoint) -> None:
    """Drops what the layout has no place for, and adds what it can't be without."""
    places = "" if bare else layout.places
    done.dropped = [
        name for name in ours if re.fullmatch(CLASSIFIER, name) and not re.fullmatch(places, name)
    ]
    eps = float(ours[EPS]) if EPS in ours else NORM_EPS
    if eps != layout.norm_eps and not bare:
        done.dropped.append(
            f"epsilon {eps:g} of some LayerNorms, which that code computes with {layout.norm_eps:g}"
        )
    ours = {
        name: tensor
        for name, tensor in ours.items()
        if name not in done.dropped and (name != EPS or bare)
    }
    last = f"pos_embed{len(_depths(ours))}"
    if last in ours and "cls_token" not in ours:
        bare_embedding = without_class_token(ours[last])
        if len(bare_embedding[0]) < len(ours[last][0]):
            done.dropped.append(f"the class token's position in {last}")
        ours[last] = bare_embedding
    if layout is HUGGING_FACE_V1 and "cls_token" not in ours:
        zeros = ours[last].new_zeros(1, 1, ours[last].shape[2])
        ours["cls_token"], ours[last] = zeros, torch.cat([zeros, ours[last]], 1)
        norm = {"norm.weight": torch.ones_like(zeros[0, 0]), "norm.bias": zeros[0, 0]}
        ours.update({name: ours.get(name, tensor) for name, tensor in norm.items()})
        done.added = ["a class token of zeros, which its last stage can't be without"]
    done.tensors = convert_to(ours, layout)
