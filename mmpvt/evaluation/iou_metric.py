"""MMSegmentation's metric of label maps, for images of any size."""

from __future__ import annotations

import torch
from mmseg.evaluation import IoUMetric as MMSegIoUMetric
from torch import Tensor

from mmpvt.registry import METRICS


@METRICS.register_module()
class IoUMetric(MMSegIoUMetric):
    """Takes the arguments of MMSegmentation's, and gives its scores.

    MMSegmentation counts pixels in float32, where 2^24 + 1 is 2^24: of a larger image's classes it
    counts no more than 16,777,216 pixels each.
    """

    @staticmethod
    def intersect_and_union(
        pred_label: Tensor, label: Tensor, num_classes: int, ignore_index: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """An image's pixels by class, each (num_classes,), float64, on the CPU.

        Args:
            pred_label (Tensor): predicted labels, of any shape; a segmenter of one channel gives
                them as floats.
            label (Tensor): the truth, of the same shape.
            num_classes (int): of the data set.
            ignore_index (int): the truth of pixels that don't count.

        Returns:
            tuple[Tensor, Tensor, Tensor, Tensor]: intersection, union, predicted, true pixels.
        """

        def count(labels: Tensor) -> Tensor:
            return torch.bincount(labels, minlength=num_classes)[:num_classes].cpu().double()

        if pred_label.is_floating_point():
            pred_label, label = pred_label.long(), label.long()
        counted = label != ignore_index
        predicted, true = pred_label[counted], label[counted]
        intersection = count(predicted[predicted == true])
        area, true_area = count(predicted), count(true)
        return intersection, area + true_area - intersection, area, true_area
