"""One-stage detectors, and what two-stage ones share with them: candidates, boxes, suppression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmdet.models.dense_heads import GFLHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector
from torch import Tensor, nn

from mmpvt.deploy.operators import best, nms
from mmpvt.errors import UserError

PREDICTING = ("predict", "predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")


class OneStage(nn.Module):
    """RetinaNet, ATSS, GFL and others whose heads predict as MMDetection's base class does.

    Args:
        model (SingleStageDetector): the detector.

    Raises:
        UserError: its head predicts in another way, or suppresses in one that ONNX lacks.
    """

    outputs = ("boxes", "scores", "labels")

    def __init__(self, model: SingleStageDetector) -> None:
        super().__init__()
        head = model.bbox_head
        refuse_own_ways(head, BaseDenseHead, allowed=(GFLHead,))
        self.model = model
        self.cfg = head.test_cfg
        self.suppression = Suppression(self.cfg.nms, self.cfg.max_per_img)

    def forward(
        self, x: Tensor, size: Tensor, scale: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 4) boxes in the image's pixels, (N,) scores and labels, best first.

        Args:
            x (Tensor): (1, 3, height, width), normalised and padded.
            size (Tensor): (2,), height and width before padding.
            scale (Tensor): (4,), from there to the image's pixels.
            rows, columns (Tensor): centres of the image's pixels.
        """
        head = self.model.bbox_head
        maps = [list(level) for level in head(self.model.extract_feat(x))]
        threshold, count = self.cfg.get("score_thr", 0), self.cfg.get("nms_pre", -1)
        levels = candidates(head, *maps, count=count, threshold=threshold)
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*levels, strict=True))
        boxes = clipped(boxes, size) * scale
        scores = without_small(boxes, scores, self.cfg)
        return self.suppression(boxes, scores, labels)


def candidates(
    head: nn.Module,
    class_maps: Sequence[Tensor],
    box_maps: Sequence[Tensor],
    factor_maps: Sequence[Tensor] | None = None,
    *,
    count: int,
    threshold: float = 0.0,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Of each level the ``count`` candidates of the highest scores.

    Args:
        head (nn.Module): whose anchors, coder and activation are used.
        class_maps (Sequence[Tensor]): (1, anchors * classes, height, width) each.
        box_maps (Sequence[Tensor]): (1, anchors * numbers, height, width) each.
        factor_maps (Sequence[Tensor] | None): (1, anchors, height, width) each, whose sigmoid
            multiplies the scores.
        count (int): all of them, if negative.
        threshold (float): the score is set to -1 where the class's alone is no higher. Default: 0.

    Returns:
        list[tuple[Tensor, Tensor, Tensor]]: boxes (N, 4), scores and labels (N,), of a level each.
    """
    sizes = [level.shape[-2:] for level in class_maps]
    priors = head.prior_generator.grid_priors(sizes, dtype=torch.float32, device="cpu")
    levels = []
    for i, anchors in enumerate(priors):
        classes = rows_of(class_maps[i], head.cls_out_channels)
        if not head.use_sigmoid_cls:
            classes = classes.softmax(-1)[:, :-1]
        kept, index = best(classes.reshape(-1), count if count > 0 else 2**31 - 1)
        torch._check(kept.shape[0] > 0)
        class_scores = scores = kept.sigmoid() if head.use_sigmoid_cls else kept
        place = index // classes.shape[1]
        if factor_maps is not None:
            scores = scores * rows_of(factor_maps[i], 1)[place, 0].sigmoid()
        scores = torch.where(class_scores > threshold, scores, -1.0)
        boxes = decoded(head, i, anchors[place], rows_of(box_maps[i], numbers_of(head))[place])
        levels.append((boxes, scores, index % classes.shape[1]))
    return levels


def numbers_of(head: nn.Module) -> int:
    """How many numbers of a box map belong to one anchor."""
    return 4 * (head.reg_max + 1) if isinstance(head, GFLHead) else head.bbox_coder.encode_size


def decoded(head: nn.Module, level: int, anchors: Tensor, numbers: Tensor) -> Tensor:
    """(N, 4) boxes of anchors and the numbers predicted for each."""
    if isinstance(head, GFLHead):
        distances = head.integral(numbers) * head.prior_generator.strides[level][0]
        return head.bbox_coder.decode(head.anchor_center(anchors), distances)
    return head.bbox_coder.decode(anchors, numbers)


def rows_of(feature_map: Tensor, channels: int) -> Tensor:
    """(1, anchors * channels, height, width) as (height * width * anchors, channels)."""
    return feature_map[0].permute(1, 2, 0).reshape(-1, channels)


def clipped(boxes: Tensor, size: Tensor) -> Tensor:
    """(N, 4) boxes within an image of ``size``, (2,), height and width."""
    return torch.minimum(boxes.clamp(min=0), size.flip(0).repeat(2))


def without_small(boxes: Tensor, scores: Tensor, cfg: Mapping) -> Tensor:
    """The scores, but -1 where a box is too small to count."""
    smallest = cfg.get("min_bbox_size", -1)
    if smallest < 0:
        return scores
    is_large = (boxes[:, 2:] - boxes[:, :2] > smallest).all(1)
    return torch.where(is_large, scores, -1.0)


class Suppression(nn.Module):
    """MMCV's ``batched_nms``: boxes of different groups are moved apart, then suppressed at once.

    Args:
        cfg (Mapping): type and threshold.
        count (int): at most so many boxes stay.

    Raises:
        UserError: it is another kind of suppression than the greedy one.
    """

    def __init__(self, cfg: Mapping, count: int) -> None:
        super().__init__()
        cfg = dict(cfg)
        kind = cfg.pop("type", "nms")
        self.iou_threshold = cfg.pop("iou_threshold", None)
        self.class_agnostic = cfg.pop("class_agnostic", False)
        cfg.pop("split_thr", None)
        if kind != "nms" or cfg or self.iou_threshold is None:
            named = kind if kind != "nms" else f"nms with {', '.join(cfg) or 'no iou_threshold'}"
            raise UserError(f"{named} in the model's test_cfg can't be exported: greedy nms can")
        self.count = count

    def forward(
        self, boxes: Tensor, scores: Tensor, groups: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 4) boxes, (N,) scores and groups to those that stay, best first.

        Boxes of a score of 0 or less don't count.
        """
        apart = boxes
        if not self.class_agnostic:
            counting = torch.where((scores > 0)[:, None], boxes, 0.0)
            edge = torch.cat([counting.flatten(), counting.new_zeros(1)]).amax(0)
            apart = boxes + (groups * (edge + 1))[:, None]
        count = self.count if self.count > 0 else 2**31 - 1
        kept = nms(apart, scores, self.iou_threshold, 0.0, count)
        return boxes[kept], scores[kept], groups[kept]


def refuse_own_ways(part: nn.Module, base: type, allowed: Sequence[type] = ()) -> None:
    """Raises where a head predicts in another way than ``base`` does.

    Raises:
        UserError: naming the head.
    """
    kinds = (base, *allowed)
    for name in PREDICTING:
        own = getattr(type(part), name, None)
        if all(own is not getattr(kind, name, None) for kind in kinds):
            raise UserError(
                f"{type(part).__name__} can't be exported: it predicts in a way of its own"
            )
