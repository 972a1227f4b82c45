"""Detectors that MMDetection 2 saved, under MMDetection 3's names.

The published detectors were saved by MMDetection 2.8 to 2.13, the segmenters by MMSegmentation
0.13. Of the families in docs/model_zoo.md, MMDetection 3 renamed the tensors of one: DETR's
transformer and queries moved out of its head, and the projection before them into a neck.
RetinaNet, Mask and Cascade R-CNN, ATSS, GFL, Sparse R-CNN and Semantic FPN kept all theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from mmpvt.checkpoint.conversion import unwrap
from mmpvt.checkpoint.layouts import Layout, from_ours, to_ours

_THEIRS = "bbox_head.transformer.{half}"
# mmdet/models/dense_heads/detr_head.py and mmcv/cnn/bricks/transformer.py; the second of two names
# is that of before 2.9
DETR = Layout(
    "MMDetection 2's DETR",
    mark=r"bbox_head\.input_proj\.weight",
    rules=(
        *(
            (
                f"{_THEIRS}.layers.{{layer}}.{theirs}.{{rest}}",
                f"{{half}}.layers.{{layer}}.{ours}.{{rest}}",
            )
            for theirs, ours in (
                ("attentions.0", "self_attn"),
                ("self_attn", "self_attn"),
                ("attentions.1", "cross_attn"),
                ("multihead_attn", "cross_attn"),
                ("ffns.0", "ffn"),
                ("ffn", "ffn"),
                ("norms", "norms"),
            )
        ),
        (f"{_THEIRS}.post_norm.{{rest}}", "{half}.post_norm.{rest}"),
        (f"{_THEIRS}.norm.{{rest}}", "{half}.post_norm.{rest}"),
        ("bbox_head.input_proj.{rest}", "neck.convs.0.conv.{rest}"),
        ("bbox_head.query_embedding.{rest}", "query_embedding.{rest}"),
    ),
)


def upgrade(checkpoint: dict) -> None:
    """Gives a detector's or segmenter's tensors the names they have today; others stay.

    The second copy of each tensor that MMCV 1's ``EMAHook`` stores is dropped: it has put the
    averages in the tensors' own place before it saves.

    Args:
        checkpoint (dict): what a file holds, or a state dict; changed.
    """
    tensors = unwrap(checkpoint)
    averages = {f"ema_{_bare(name).replace('.', '_')}" for name in _names(tensors)}
    kept = {name: value for name, value in tensors.items() if _bare(name) not in averages}
    if any(re.fullmatch(DETR.mark, _bare(name)) for name in _names(kept)):
        kept = {to_ours(_bare(name), DETR): value for name, value in kept.items()}
    if list(kept) != list(tensors):
        tensors.clear()
        tensors.update(kept)


def downgrade(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A detector's tensors, but for its backbone's, under the names of MMDetection 2.13."""
    is_detr = "query_embedding.weight" in tensors and "bbox_head.fc_reg.weight" in tensors
    return {from_ours(k, DETR): v for k, v in tensors.items()} if is_detr else dict(tensors)


def _names(tensors: Mapping) -> list[str]:
    return [name for name, value in tensors.items() if isinstance(value, Tensor)]


def _bare(name: object) -> str:
    return str(name).removeprefix("module.")
