"""MMSegmentation's segmentors in exportable form: Semantic FPN, Trans2Seg and others."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.models.utils import Upsample
from torch import Tensor, nn

from mmpvt.deploy.decoding import check_predicts_as
from mmpvt.deploy.forms import Core
from mmpvt.errors import ExportError


class ExportableSegmentor(Core):
    """An encoder and decoder."""

    outputs = ("label_map",)

    def __init__(self, model: EncoderDecoder, is_batch: bool = False) -> None:
        super().__init__(model, is_batch)
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

    def forward(self, x: Tensor, sizes: Tensor, scale: Tensor) -> tuple[Tensor]:
        head = self.model.decode_head
        features = self.model.extract_feat(x)
        with dynamic_upsampling(head):
            return (head(features),)


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
