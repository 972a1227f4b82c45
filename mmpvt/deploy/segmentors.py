"""MMSegmentation's segmentors in exportable form."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads import Mask2FormerHead, MaskFormerHead, PointHead
from mmseg.models.decode_heads.cascade_decode_head import BaseCascadeDecodeHead
from mmseg.models.decode_heads.da_head import DAHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.decode_heads.enc_head import EncHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.models.utils import Upsample
from torch import Tensor, nn

from mmpvt.deploy.decoding import check_predicts_as
from mmpvt.deploy.forms import Core
from mmpvt.deploy.queries import check_masks, query_masks
from mmpvt.errors import ExportError

FIRST_OF_SEVERAL = (DAHead, EncHead)  # whose first result are the logits
MASK_HEADS = (MaskFormerHead, Mask2FormerHead)


class ExportableSegmentor(Core):
    """An encoder and a decoder, or several one after the other, on the image or its windows."""

    outputs = ("label_map",)

    def __init__(self, model: EncoderDecoder, is_batch: bool = False) -> None:
        super().__init__(model, is_batch)
        self.mode = model.test_cfg.get("mode", "whole")
        if self.mode not in ("whole", "slide"):
            raise ExportError(f"test_cfg's mode {self.mode!r} can't be exported")
        for head in self.decode_heads:
            if isinstance(head, MASK_HEADS):
                check_masks(head)
            else:
                bases = (BaseDecodeHead, BaseCascadeDecodeHead, PointHead, *FIRST_OF_SEVERAL)
                check_predicts_as(head, *bases)
            for part in _upsampling(head):
                if not isinstance(part.scale_factor, float) or part.scale_factor % 1:
                    raise ExportError(
                        f"Upsample by {part.scale_factor} can't be exported: integer factors can"
                    )

    def predict(self, x: Tensor, sizes: Tensor, scale: Tensor) -> tuple[Tensor]:
        with dynamic_upsampling(self.model):
            return (self.slide(x) if self.mode == "slide" else self.logits(x, sizes),)

    def logits(self, x: Tensor, sizes: Tensor) -> Tensor:
        """(batch, classes, rows, columns), which cover the input."""
        features = self.model.extract_feat(x)
        first, *others = self.decode_heads
        if isinstance(first, MASK_HEADS):
            logits, masks = query_masks(first, features, x, sizes)
            masks = F.interpolate(masks, x.shape[2:], mode="bilinear", align_corners=False)
            scores = logits.softmax(-1)[..., :-1]
            return torch.einsum("bqc,bqhw->bchw", scores, masks.sigmoid())
        out = first(features)
        if isinstance(first, FIRST_OF_SEVERAL):
            out = out[0]
        for head in others:
            if isinstance(head, PointHead):
                out = refine_points(head, features, out, self.model.test_cfg)
            else:
                out = head(features, out)
        return out

    def slide(self, x: Tensor) -> Tensor:
        """The mean of overlapping windows' logits, (batch, classes, height, width)."""
        batch, channels, *sides = x.shape
        lines, lengths = [], []
        windows = zip(sides, self.model.test_cfg.crop_size, self.model.test_cfg.stride, strict=True)
        for side, crop, stride in windows:
            crop = torch.sym_min(crop, side)
            count = (side - crop + stride - 1) // stride + 1
            start = torch.arange(count) * stride
            start = torch.minimum(start, torch.zeros_like(start) + (side - crop))
            lines.append(start[:, None] + torch.arange(crop))
            lengths.append(crop)
        rows, columns = lines
        parts = x[:, :, rows][..., columns].permute(0, 2, 4, 1, 3, 5)
        parts = parts.reshape(-1, channels, *lengths)
        sizes = torch.stack([parts.new_ones(parts.shape[0]) * length for length in lengths], dim=1)
        logits = self.logits(parts, sizes)
        options = dict(mode="bilinear", align_corners=self.model.align_corners)
        logits = F.interpolate(logits, lengths, **options)
        classes = logits.shape[1]
        shape = (batch, rows.shape[0], columns.shape[0], classes, *lengths)
        logits = logits.reshape(shape).permute(0, 3, 1, 4, 2, 5).reshape(batch, classes, -1)
        place = (rows[:, :, None, None] * sides[1] + columns).reshape(-1)
        total = logits.new_zeros(batch, classes, sides[0] * sides[1])
        total = total.scatter_add(2, place.expand(batch, classes, -1), logits)
        count = logits.new_zeros(sides[0] * sides[1])
        count = count.scatter_add(0, place, torch.ones_like(place, dtype=torch.float32))
        return (total / count).reshape(batch, classes, *sides)


def refine_points(head: PointHead, features: tuple[Tensor, ...], out: Tensor, cfg) -> Tensor:
    """PointRend: logits are doubled in size, and the least certain points predicted again."""
    maps, coarse = head._transform_inputs(features), out
    for _ in range(cfg.subdivision_steps):
        height, width = (side * cfg.scale_factor for side in out.shape[2:])
        out = F.interpolate(out, (height, width), mode="bilinear", align_corners=head.align_corners)
        best = out.topk(2, dim=1)[0]
        certainty = (best[:, 0] - best[:, 1]).flatten(1)
        count = torch.sym_min(height * width, cfg.subdivision_num_points)
        _, index = (-certainty).topk(count)
        row = index // width
        column = index - row * width  # the exporter takes no % of a dynamic size
        places = torch.stack([(column + 0.5) / width, (row + 0.5) / height], dim=-1)
        again = head(
            head._get_fine_grained_point_feats(maps, places),
            head._get_coarse_point_feats(coarse, places),
        )
        index = index[:, None].expand(-1, out.shape[1], -1)
        out = out.flatten(2).scatter(2, index, again).reshape(*out.shape[:2], height, width)
    return out


@contextmanager
def dynamic_upsampling(model: nn.Module) -> Iterator[None]:
    """Has MMSegmentation's ``Upsample`` work without ``int(…)``, which would fix the size; restored
    when the context ends.
    """
    parts = _upsampling(model)
    for part in parts:
        part.forward = functools.partial(_upsample, part)
    try:
        yield
    finally:
        for part in parts:
            del part.forward


def _upsampling(model: nn.Module) -> list[Upsample]:
    return [part for part in model.modules() if isinstance(part, Upsample) and not part.size]


def _upsample(part: Upsample, x: Tensor) -> Tensor:
    size = [side * int(part.scale_factor) for side in x.shape[2:]]
    return F.interpolate(x, size=size, mode=part.mode, align_corners=part.align_corners)
