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

from mmpvt.checkpoint.layouts import REST, Layout, rename, unwrap

_TRANSFORMER = r"bbox_head\.transformer\.(?P<half>encoder|decoder)"
_LAYER = rf"{_TRANSFORMER}\.layers\.(?P<layer>\d+)"

# mmdet/models/dense_heads/detr_head.py and mmcv/cnn/bricks/transformer.py; until 2.8, the second
# of two names
DETR = Layout(
    "MMDetection 2's DETR",
    mark=r"bbox_head\.input_proj\.weight",
    rules=(
        (rf"{_LAYER}\.(attentions\.0|self_attn)\.{REST}", "{half}.layers.{layer}.self_attn.{rest}"),
        (
            rf"{_LAYER}\.(attentions\.1|multihead_attn)\.{REST}",
            "{half}.layers.{layer}.cross_attn.{rest}",
        ),
        (rf"{_LAYER}\.(ffns\.0|ffn)\.{REST}", "{half}.layers.{layer}.ffn.{rest}"),
        (rf"{_LAYER}\.{REST}", "{half}.layers.{layer}.{rest}"),
        (rf"{_TRANSFORMER}\.(post_norm|norm)\.{REST}", "{half}.post_norm.{rest}"),
        (rf"bbox_head\.input_proj\.{REST}", "neck.convs.0.conv.{rest}"),
        (rf"bbox_head\.query_embedding\.{REST}", "query_embedding.{rest}"),
    ),
)


def upgrade(checkpoint: dict) -> None:
    """Gives a detector's or segmenter's tensors the names they have today; others are left alone.

    The second copy of each tensor that MMCV 1's ``EMAHook`` stores is left out: it has put the
    averages in the tensors' own place before it saves.

    Args:
        checkpoint (dict): what a file holds, or a state dict; changed.
    """
    tensors = unwrap(checkpoint)
    averages = {f"ema_{_bare(name).replace('.', '_')}" for name in _names(tensors)}
    kept = {name: value for name, value in tensors.items() if _bare(name) not in averages}
    if any(re.fullmatch(DETR.mark, _bare(name)) for name in _names(kept)):
        kept = {rename(_bare(name), DETR): value for name, value in kept.items()}
    if list(kept) != list(tensors):
        tensors.clear()
        tensors.update(kept)


def _names(tensors: Mapping) -> list[str]:
    return [name for name, value in tensors.items() if isinstance(value, Tensor)]


def _bare(name: object) -> str:
    return str(name).removeprefix("module.")
