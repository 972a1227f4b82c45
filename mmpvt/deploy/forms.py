"""The two forms of an exported model: one image of any size, and batches of prepared images.

Inside both is a *core*, such as :class:`.dense.ExportableOneStage`: from normalised batches to
padded results.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmpvt.deploy.layers import plain_layers
from mmpvt.deploy.operators import resize_to_image
from mmpvt.deploy.preprocessing import ImageFormat, swaps_channels

DETECTIONS = ("boxes", "scores", "labels")
UINT8_CLASSES = 256  # that a label map of uint8 can hold


class Core(nn.Module):
    """A model in exportable form.

    Args:
        model (BaseModel): the model itself.
        is_batch (bool): no size may follow from values; otherwise the batch is one image, and
            empty places may be dropped on the way. Default: False.

    Attributes:
        outputs (tuple[str, ...]): ``boxes``, ``scores``, ``labels`` and perhaps ``masks``; or
            ``label_map``; or ``scores`` alone.
        mask_frame (str): what masks cover: the detection's ``box`` or the padded ``image``.
        mask_threshold (float): of a mask's values.
        nms (nn.Module): the last NMS, if boxes are what it keeps.
    """

    outputs: tuple[str, ...] = DETECTIONS
    mask_frame: str
    mask_threshold: float
    nms: nn.Module

    def __init__(self, model: BaseModel, is_batch: bool = False) -> None:
        super().__init__()
        self.model = model
        self.is_batch = is_batch

    @property
    def decode_heads(self) -> list[Any]:
        """A segmenter's, one after the other."""
        heads = self.model.decode_head
        return list(heads) if isinstance(heads, nn.ModuleList) else [heads]

    def forward(self, x: Tensor, sizes: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        """:meth:`predict`, by layers that can be exported."""
        with plain_layers(self.model):
            return self.predict(x, sizes, scale)

    def predict(self, x: Tensor, sizes: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        """Results of a batch.

        Args:
            x (Tensor): (batch, channels, height, width), normalised and padded.
            sizes (Tensor): (batch, 2), float, height and width before padding.
            scale (Tensor): (batch, 4), from there to the images' pixels: x, y, x, y.

        Returns:
            tuple[Tensor, ...]: of a detector boxes (batch, N, 4) in the images' pixels, scores and
            labels (batch, N), where scores no higher than 0 are of empty places, and masks
            (batch, N, rows, columns), probabilities within the boxes or logits that cover the
            padded input; of a segmenter such logits (batch, classes, rows, columns); of a
            classifier scores (batch, classes).
        """
        raise NotImplementedError


class ImageForm(nn.Module):
    """One image of any size: results are at its size, and none is empty.

    Args:
        core (Core): of ``is_batch=False``.
    """

    def __init__(self, core: Core) -> None:
        super().__init__()
        self.core = core
        self.outputs = core.outputs

    def forward(
        self, x: Tensor, size: Tensor, scale: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, ...]:
        """Results of an image.

        Args:
            x (Tensor): (1, channels, height, width), normalised and padded.
            size (Tensor): (2,), height and width before padding.
            scale (Tensor): (4,), from there to the image's pixels.
            rows, columns (Tensor): centres of the image's pixels.

        Returns:
            tuple[Tensor, ...]: boxes (N, 4) in the image's pixels, scores and labels (N,), by
            falling score, and masks, bool, (N, image height, image width); or a label map (image
            height, image width); or scores (classes,).
        """
        size = size[None]
        results = self.core(x, size, scale[None])
        if self.outputs == ("scores",):
            return (results[0][0],)
        if self.outputs == ("label_map",):
            head = self.core.decode_heads[-1]
            logits = resize_to_image(
                results[0], x, size, rows, columns, self.core.model.align_corners
            )
            return (labels_of(logits, head, axis=2),)
        boxes, scores, labels, *masks = results
        (kept,) = torch.where(scores[0] > 0)
        boxes, scores, labels = (part[0, kept] for part in (boxes, scores, labels))
        if not masks:
            return boxes, scores, labels
        values = masks[0][0, kept]
        if self.core.mask_frame == "box":
            pasted = paste_masks(values, boxes, rows, columns)
            return boxes, scores, labels, pasted >= self.core.mask_threshold
        whole = resize_to_image(values[None], x, size, rows, columns, False).permute(2, 0, 1)
        boxes, certainty = enclose(whole)
        scores, order = (scores * certainty).sort(descending=True)
        return boxes[order], scores, labels[order], whole[order] > self.core.mask_threshold


class BatchForm(nn.Module):
    """A batch of images that were resized, and are at the upper left of equal frames.

    Args:
        core (Core): of ``is_batch=True``.
        image_format (ImageFormat): how the test pipeline decodes images.
        pad_value (float): beyond an image, after normalisation.
    """

    def __init__(self, core: Core, image_format: ImageFormat, pad_value: float) -> None:
        super().__init__()
        self.core = core
        self.outputs = core.outputs
        self.image_format = image_format
        self.pad_value = pad_value

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """Padded results, boxes in the pixels of ``images``.

        Args:
            images (Tensor): uint8, (batch, height, width, channels), RGB.
            sizes (Tensor): int64, (batch, 2), height and width of each image in its frame.

        Returns:
            tuple[Tensor, ...]: as the core's; but label maps (batch, height, width), not logits.
        """
        data_preprocessor: BaseDataPreprocessor = self.core.model.data_preprocessor
        _, height, width, channels = images.shape
        x = images.float().permute(0, 3, 1, 2)  # TensorRT takes bytes, and only casts them
        if swaps_channels(data_preprocessor, channels, self.image_format):
            x = x[:, [2, 1, 0, *range(3, channels)]]
        if data_preprocessor._enable_normalize:
            x = (x - data_preprocessor.mean) / data_preprocessor.std
        inside = (torch.arange(height) < sizes[:, :1])[:, :, None]
        inside = inside & (torch.arange(width) < sizes[:, 1:])[:, None, :]
        x = torch.where(inside[:, None], x, self.pad_value)
        sizes = sizes.float()
        results = self.core(x, sizes, torch.ones_like(sizes).repeat(1, 2))
        if self.outputs != ("label_map",):
            return results
        options = dict(mode="bilinear", align_corners=self.core.model.align_corners)
        logits = F.interpolate(results[0], (height, width), **options)
        return (labels_of(logits, self.core.decode_heads[-1], axis=1),)


def labels_of(logits: Tensor, head: BaseDecodeHead, axis: int) -> Tensor:
    """The label of each pixel, without ``axis``, along which classes lie."""
    if head.out_channels == 1:
        labels = logits.squeeze(axis).sigmoid() > head.threshold
    else:
        labels = logits.argmax(axis)
    return labels.to(torch.uint8 if head.out_channels <= UINT8_CLASSES else torch.int64)


def enclose(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (..., 4) around masks of (..., height, width) logits, and the mean probability (...)
    of their pixels; 0 where a mask has none.
    """
    masks = logits > 0
    inside = masks.float()
    certainty = (logits.sigmoid() * inside).flatten(-2).sum(-1)
    certainty = certainty / (inside.flatten(-2).sum(-1) + 1e-6)
    sides = []
    for axis in (-2, -1):  # columns, then rows, that have a pixel
        reached = inside.amax(axis) > 0
        place = torch.arange(reached.shape[-1])
        end = torch.where(reached, place + 1, 0).amax(-1)
        start = torch.where(reached, place, reached.shape[-1]).amin(-1)
        sides.append((torch.minimum(start, end).float(), end.float()))
    (left, right), (top, bottom) = sides
    return torch.stack([left, top, right, bottom], dim=-1), certainty


def paste_masks(masks: Tensor, boxes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """(N, side, side) masks of boxes pasted into the image: (N, height, width), zero around them.

    Bilinear sampling is a product on either side: of N boxes it costs two matrix products.
    """
    vertical = _bilinear_weights(rows, boxes[:, 1], boxes[:, 3], masks.shape[1])
    horizontal = _bilinear_weights(columns, boxes[:, 0], boxes[:, 2], masks.shape[2])
    return vertical @ masks @ horizontal.mT


def _bilinear_weights(centres: Tensor, start: Tensor, end: Tensor, cells: int) -> Tensor:
    """(N, length, cells): the weight of each cell between ``start`` and ``end`` at each pixel."""
    position = (centres - start[:, None]) / (end - start)[:, None] * cells - 0.5
    return (1 - (position[..., None] - torch.arange(cells)).abs()).relu()
