"""MMSegmentation's segmentors in exportable form: Semantic FPN, Trans2Seg and others."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.models.utils import Upsample
from torch import Tensor, nn

from mmpvt.deploy.detectors import check_predicts_as
from mmpvt.deploy.operators import resize_argmax
from mmpvt.errors import ExportError

UINT8_CLASSES = 256  # that a label map of uint8 can hold


class ExportableSegmentor(nn.Module):
    """An encoder and decoder, its label map at the image's size."""

    outputs = ("label_map",)

    def __init__(self, model: EncoderDecoder) -> None:
        super().__init__()
        mode = model.test_cfg.get("mode", "whole")
        if mode != "whole":
            raise ExportError(f"test_cfg's mode {mode!r} can't be exported: 'whole' can")
        head = model.decode_head
        check_predicts_as(head, BaseDecodeHead)
        for part in _upsampling(head):
            if not isinstance(part.scale_factor, float) or part.scale_factor % 1:
                raise ExportError(
                    f"Upsample by {part.scale_factor} can't be exported: integer factors can"
                )
        self.model = model

    def forward(
        self, x: Tensor, size: Tensor, scale: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor]:
        """The label map, (image height, image width); arguments as of the detectors."""
        head = self.model.decode_head
        features = self.model.extract_feat(x)
        with dynamic_upsampling(head):
            logits = head(features)
        threshold = float(head.threshold) if head.out_channels == 1 else -1.0
        labels = resize_argmax(logits, x, size, rows, columns, self.model.align_corners, threshold)
        return (labels.to(torch.uint8) if head.out_channels <= UINT8_CLASSES else labels,)


@contextmanager
def dynamic_upsampling(head: nn.Module) -> Iterator[None]:
    """Has MMSegmentation's ``Upsample`` work without ``int(…)``, which would fix the size; restored
    when the context ends.
    """
    parts = _upsampling(head)
    for part in parts:
        part.forward = functools.partial(_upsample, part)
    try:
        yield
    finally:
        for part in parts:
            del part.forward


def _upsampling(head: nn.Module) -> list[Upsample]:
    return [part for part in head.modules() if isinstance(part, Upsample) and not part.size]


def _upsample(part: Upsample, x: Tensor) -> Tensor:
    size = [side * int(part.scale_factor) for side in x.shape[2:]]
    return F.interpolate(x, size=size, mode=part.mode, align_corners=part.align_corners)
