"""The layouts that PVT checkpoints come in, and how each maps to ours.

Ours is the published one (https://github.com/whai362/PVT), stages counted from 1::

    patch_embed1.proj  pos_embed1 (v1)  block1.0.attn.q  block1.0.mlp.fc1  norm1 (v2)

and, in a classifier, ``head``, v1's ``cls_token`` and the ``norm`` after it. A layout is a table
of names, theirs and ours. Four things besides names differ: query, key and value are stacked in
other ways, some layouts hold 1x1 convolutions for linear layers, v1's last position embedding
carries the class token's, first, where the checkpoint is a classifier's, and MMDetection's code has
another epsilon, which our checkpoints note in a tensor of their own, ``norm_eps``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

NUMBER = r"\d{1,6}"
NORM_EPS = 1e-5  # the published code's in patch embedding and attention; elsewhere it has 1e-6
FIELDS = {"stage": NUMBER, "block": NUMBER, "layer": NUMBER, "half": "encoder|decoder"}


@dataclass(frozen=True)
class Layout:
    """A way to name PVT's tensors.

    Attributes:
        name: what people call it.
        mark: pattern of a tensor name that no other layout has.
        rules: pairs of names, theirs and ours, with ``{stage}``, ``{block}`` and the ``{rest}`` in
            them; a name takes the first that it matches whole. Their stages count from 0.
        prefix: what a classifier has in front of all but its last layer.
        first_block: number of a stage's first block.
        attention: how query, key and value are stacked: ``'q kv'``, ``'q k v'`` or ``'qkv'``.
        convolutions: the feed-forward's linear layers are 1x1 convolutions.
        places: pattern of those of a classifier's own tensors that it has a place for, by our
            names.
        norm_eps: epsilon of the LayerNorms of patch embedding and attention in the code that trains
            checkpoints of this layout.
    """

    name: str
    mark: str
    rules: tuple[tuple[str, str], ...]
    prefix: str = ""
    first_block: int = 0
    attention: str = "q kv"
    convolutions: bool = False
    places: str = r"head\..*"
    norm_eps: float = NORM_EPS


PUBLISHED = Layout(
    "the published",
    mark=r"patch_embed1\.proj\.weight",
    rules=(("{rest}", "{rest}"),),
    places=r"(head|norm)\..*|cls_token",
)

# https://github.com/huggingface/pytorch-image-models, timm/models/pvt_v2.py; v2 only.
TIMM = Layout(
    "timm's",
    mark=r"patch_embed\.proj\.weight",
    rules=(
        ("patch_embed.{rest}", "patch_embed1.{rest}"),
        ("stages.{stage}.downsample.{rest}", "patch_embed{stage}.{rest}"),
        (
            "stages.{stage}.blocks.{block}.mlp.dwconv.{rest}",
            "block{stage}.{block}.mlp.dwconv.dwconv.{rest}",
        ),
        ("stages.{stage}.blocks.{block}.{rest}", "block{stage}.{block}.{rest}"),
        ("stages.{stage}.norm.{rest}", "norm{stage}.{rest}"),
    ),
)


def mmdet_layout(name: str, mark: str, first_block: int, fc2: int) -> Layout:
    """MMDetection's, mmdet/models/backbones/pvt.py: v1's position embedding takes a block's place,
    v2's convolution shifts the second linear layer."""
    theirs, ours = "layers.{stage}.1.{block}", "block{stage}.{block}"
    return Layout(
        name,
        mark,
        rules=(
            ("layers.{stage}.0.projection.{rest}", "patch_embed{stage}.proj.{rest}"),
            ("layers.{stage}.0.norm.{rest}", "patch_embed{stage}.norm.{rest}"),
            ("layers.{stage}.1.0.pos_embed", "pos_embed{stage}"),
            ("layers.{stage}.2.{rest}", "norm{stage}.{rest}"),
            (f"{theirs}.attn.attn.in_proj_{{rest}}", f"{ours}.attn.qkv.{{rest}}"),
            (f"{theirs}.attn.attn.out_proj.{{rest}}", f"{ours}.attn.proj.{{rest}}"),
            (f"{theirs}.ffn.layers.0.{{rest}}", f"{ours}.mlp.fc1.{{rest}}"),
            (f"{theirs}.ffn.layers.1.{{rest}}", f"{ours}.mlp.dwconv.dwconv.{{rest}}"),
            (f"{theirs}.ffn.layers.{fc2}.{{rest}}", f"{ours}.mlp.fc2.{{rest}}"),
            (f"{theirs}.{{rest}}", f"{ours}.{{rest}}"),
        ),
        first_block=first_block,
        attention="qkv",
        convolutions=True,
        places="",
        norm_eps=1e-6,
    )


MMDET_V1 = mmdet_layout("MMDetection's", r"layers\.\d+\.1\.0\.pos_embed", first_block=1, fc2=3)
MMDET_V2 = mmdet_layout(
    "MMDetection's", r"layers\.\d+\.1\.\d+\.ffn\.layers\.4\.weight", first_block=0, fc2=4
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


def _block_rules(blocks: str, parts: dict[str, str]) -> list[tuple[str, str]]:
    return [
        (f"{blocks}.{theirs}.{{rest}}", f"block{{stage}}.{{block}}.{ours}.{{rest}}")
        for theirs, ours in parts.items()
    ]


_V1_EMBEDDING = "encoder.patch_embeddings.{stage}"
HUGGING_FACE_V1 = Layout(
    "Hugging Face's",
    mark=r"(pvt\.)?encoder\.patch_embeddings\.\d+\.projection\.weight",
    rules=(
        (f"{_V1_EMBEDDING}.position_embeddings", "pos_embed{stage}"),
        ("encoder.patch_embeddings.3.cls_token", "cls_token"),
        (f"{_V1_EMBEDDING}.projection.{{rest}}", "patch_embed{stage}.proj.{rest}"),
        (f"{_V1_EMBEDDING}.layer_norm.{{rest}}", "patch_embed{stage}.norm.{rest}"),
        *_block_rules("encoder.block.{stage}.{block}", HF_V1_PARTS),
        ("encoder.layer_norm.{rest}", "norm.{rest}"),
        ("classifier.{rest}", "head.{rest}"),
    ),
    prefix="pvt.",
    attention="q k v",
    places=r"(head|norm)\..*|cls_token",
)

_V2_EMBEDDING = "encoder.layers.{stage}.patch_embedding"
HUGGING_FACE_V2 = Layout(
    "Hugging Face's",
    mark=r"(pvt_v2\.)?encoder\.layers\.\d+\.patch_embedding\.proj\.weight",
    rules=(
        (f"{_V2_EMBEDDING}.proj.{{rest}}", "patch_embed{stage}.proj.{rest}"),
        (f"{_V2_EMBEDDING}.layer_norm.{{rest}}", "patch_embed{stage}.norm.{rest}"),
        *_block_rules("encoder.layers.{stage}.blocks.{block}", HF_V2_PARTS),
        ("encoder.layers.{stage}.layer_norm.{rest}", "norm{stage}.{rest}"),
        ("classifier.{rest}", "head.{rest}"),
    ),
    prefix="pvt_v2.",
    attention="q k v",
)

_DETR = "bbox_head.transformer.{half}"
# MMDetection 3 moved the transformer and the queries out of the head, the projection before them
# into a neck: mmdet/models/dense_heads/detr_head.py and mmcv/cnn/bricks/transformer.py; the second
# of two names is that of before 2.9
MMDET2_DETR = Layout(
    "MMDetection 2's DETR",
    mark=r"bbox_head\.input_proj\.weight",
    rules=(
        *(
            (
                f"{_DETR}.layers.{{layer}}.{old}.{{rest}}",
                f"{{half}}.layers.{{layer}}.{new}.{{rest}}",
            )
            for olds, new in (
                (("attentions.0", "self_attn"), "self_attn"),
                (("attentions.1", "multihead_attn"), "cross_attn"),
                (("ffns.0", "ffn"), "ffn"),
                (("norms",), "norms"),
            )
            for old in olds
        ),
        (f"{_DETR}.post_norm.{{rest}}", "{half}.post_norm.{rest}"),
        (f"{_DETR}.norm.{{rest}}", "{half}.post_norm.{rest}"),
        ("bbox_head.input_proj.{rest}", "neck.convs.0.conv.{rest}"),
        ("bbox_head.query_embedding.{rest}", "query_embedding.{rest}"),
    ),
)

LAYOUTS = (PUBLISHED, TIMM, MMDET_V1, MMDET_V2, HUGGING_FACE_V1, HUGGING_FACE_V2)


def recognise(names: Iterable[str]) -> Layout | None:
    """The layout that these tensor names belong to, or None where they fit none."""
    names = list(names)
    for layout in LAYOUTS:
        mark = re.compile(layout.mark)
        if any(mark.fullmatch(name) for name in names):
            return layout
    return None


def to_ours(name: str, layout: Layout) -> str:
    """Our name for a tensor, or its own where no rule fits."""
    name = name.removeprefix(layout.prefix)
    for theirs, ours in layout.rules:
        if match := _pattern(theirs).fullmatch(name):
            return _fill(ours, match, 1, -layout.first_block)
    return name


def from_ours(name: str, layout: Layout) -> str:
    """A layout's name for a tensor of ours, without prefix, or our own where no rule fits."""
    for theirs, ours in layout.rules:
        if match := _pattern(ours).fullmatch(name):
            return _fill(theirs, match, -1, layout.first_block)
    return name


@cache
def _pattern(template: str) -> re.Pattern:
    parts = re.split(r"\{(\w+)\}", template)
    return re.compile(
        "".join(
            f"(?P<{part}>{FIELDS.get(part, '.+')})" if i % 2 else re.escape(part)
            for i, part in enumerate(parts)
        )
    )


def _fill(template: str, match: re.Match, stages: int, blocks: int) -> str:
    found = match.groupdict()
    if "stage" in found:
        found["stage"] = int(found["stage"]) + stages
    if "block" in found:
        found["block"] = int(found["block"]) + blocks
    return template.format(**found)
