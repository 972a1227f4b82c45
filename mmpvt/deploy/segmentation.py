"""Segmenters: Semantic FPN, Trans2Seg and others of MMSegmentation."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.models.utils import Upsample
from torch import Tensor, nn

from mmpvt.deploy.operators import highest_class
from mmpvt.errors import UserError

BYTE_CLASSES = 256  # of a label map of bytes


class Segmenter(nn.Module):
    """An encoder and decoder, its label map at the image's size.

    Args:
        model (EncoderDecoder): the segmenter.

    Raises:
        UserError: it predicts in another way than MMSegmentation's base class.
    """

    outputs = ("label_map",)

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        mode = model.test_cfg.get("mode", "whole")
        if mode != "whole":
            raise UserError(f"test_cfg's mode {mode!r} can't be exported: 'whole' can")
        head = model.decode_head
        if not isinstance(head, nn.Module) or any(
            getattr(type(head), name) is not getattr(BaseDecodeHead, name)
            for name in ("predict", "predict_by_feat")
        ):
            raise UserError(
                f"{type(head).__name__} can't be exported: it predicts in a way of its own"
            )
        for part in head.modules():
            if isinstance(part, Upsample) and not part.size:
                part.forward = functools.partial(enlarged, part)
        self.model = model

    def forward(
        self, x: Tensor, size: Tensor, scale: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor]:
        """The label map, (image height, image width); arguments as :meth:`OneStage.forward`'s."""
        head = self.model.decode_head
        logits = head(self.model.extract_feat(x))
        threshold = float(head.threshold) if head.out_channels == 1 else -1.0
        labels = highest_class(logits, x, size, rows, columns, self.model.align_corners, threshold)
        return (labels.to(torch.uint8) if head.out_channels <= BYTE_CLASSES else labels,)


def enlarged(part: Upsample, x: Tensor) -> Tensor:
    """What MMSegmentation's ``Upsample`` does, without ``int(…)``, which would fix the size.

    Raises:
        UserError: its factor is no whole number.
    """
    if part.scale_factor % 1:
        raise UserError(f"Upsample by {part.scale_factor} can't be exported: whole factors can")
    size = [side * int(part.scale_factor) for side in x.shape[2:]]
    return F.interpolate(x, size=size, mode=part.mode, align_corners=part.align_corners)
