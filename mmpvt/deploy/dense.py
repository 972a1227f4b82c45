"""One-stage detectors in exportable form: a head's maps, decoded at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import (
    CenterNetHead,
    FoveaHead,
    GFLHead,
    PAAHead,
    RepPointsHead,
    RPNHead,
    SABLRetinaHead,
    TOODHead,
    YOLOV3Head,
    YOLOXHead,
)
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.detectors import SingleStageDetector
from torch import Tensor

from mmpvt.deploy import operators
from mmpvt.deploy.decoding import (
    MAX_CANDIDATES,
    NMS,
    NO_LIMIT,
    WithoutNMS,
    border_of,
    build_nms,
    candidates,
    check_predicts_as,
    check_smallest,
    clip_boxes,
    clips_border,
    drop_small_boxes,
    flatten_map,
    pick,
)
from mmpvt.deploy.forms import Core
from mmpvt.errors import ExportError


class LevelDecoder:
    """From a level's maps to boxes, as MMDetection's base class does it.

    Args:
        head (BaseDenseHead): whose anchors, coder and activation are used.
    """

    border: int  # pixels within the image's far sides that boxes are clipped to
    clips: bool | None = None  # whether they are; None, as the coder says

    def __init__(self, head: BaseDenseHead) -> None:
        self.head = head
        if self.clips is None:
            self.clips = clips_border(head.bbox_coder)
        if not hasattr(self, "border"):
            self.border = border_of(head.bbox_coder)
        self.box_channels = head.bbox_coder.encode_size

    def levels(self, outs: Sequence) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        """Class, box and perhaps factor maps of each level, of the head's results."""
        classes, boxes, *factors = outs
        none: list[None] = [None] * len(classes)
        return list(zip(classes, boxes, factors[0] if factors else none, strict=True))

    def ranks(self, classes: Tensor) -> Tensor:
        """(batch, N, classes) of logits: what the highest scores are found by."""
        head = self.head
        if getattr(head.loss_cls, "custom_cls_channels", False):
            return head.loss_cls.get_activation(classes)
        return classes if head.use_sigmoid_cls else classes.softmax(-1)[..., :-1]

    def scores(self, ranks: Tensor) -> Tensor:
        """Scores of :meth:`ranks`' values."""
        head = self.head
        is_custom = getattr(head.loss_cls, "custom_cls_channels", False)
        return ranks.sigmoid() if head.use_sigmoid_cls and not is_custom else ranks

    def decode(self, level: int, priors: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor | None]:
        """Boxes (M, 4) of (M, 4) anchors or (M, 2) points, and perhaps factors of their scores."""
        return self.head.bbox_coder.decode(priors, deltas), None


class GFLDecoder(LevelDecoder):
    """Distances are means of distributions."""

    def __init__(self, head: GFLHead) -> None:
        super().__init__(head)
        self.box_channels = 4 * (head.reg_max + 1)

    def decode(self, level: int, priors: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor | None]:
        head = self.head
        deltas = head.integral(deltas) * head.prior_generator.strides[level][0]
        return head.bbox_coder.decode(head.anchor_center(priors), deltas), None


class FoveaDecoder(LevelDecoder):
    """FoveaBox: distances in units of the level's base length."""

    border = 1

    def decode(self, level: int, priors: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor | None]:
        distances = deltas.exp() * self.head.base_edge_list[level]
        centres = priors[:, :2]
        return torch.cat([centres - distances[:, :2], centres + distances[:, 2:]], dim=1), None


class RepPointsDecoder(LevelDecoder):
    """Boxes around points, in units of the stride."""

    clips = True

    def decode(self, level: int, priors: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor | None]:
        stride = self.head.point_strides[level]
        return deltas * stride + priors[:, :2].repeat(1, 2), None


class TOODDecoder(LevelDecoder):
    """The head gives scores, and boxes in units of the stride."""

    clips = False

    def ranks(self, classes: Tensor) -> Tensor:
        return classes

    def scores(self, ranks: Tensor) -> Tensor:
        return ranks

    def decode(self, level: int, priors: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor | None]:
        return deltas * self.head.prior_generator.strides[level][0], None


class SABLDecoder(LevelDecoder):
    """Sides are found in buckets, then refined."""

    def __init__(self, head: SABLRetinaHead) -> None:
        super().__init__(head)
        self.box_channels = 8 * head.side_num
        self.generator = head.square_anchor_generator

    def levels(self, outs: Sequence) -> list[tuple[Tensor, Tensor, Tensor | None]]:
        classes, boxes = outs
        return [(c, torch.cat(pair, dim=1), None) for c, pair in zip(classes, boxes, strict=True)]

    def decode(self, level: int, priors: Tensor, deltas: Tensor) -> tuple[Tensor, Tensor | None]:
        return bucket_boxes(self.head.bbox_coder, priors, *deltas.chunk(2, dim=1))


def bucket_boxes(coder, priors: Tensor, classes: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (M, 4) and confidences (M,) of SABL's buckets, (M, 4 * buckets of a side)."""
    side = (coder.num_buckets + 1) // 2
    scale, count = coder.scale_factor, priors.shape[0]
    centre = (priors[:, :2] + priors[:, 2:]) / 2
    half = (priors[:, 2:] - priors[:, :2]) * scale / 2
    low, high = centre - half, centre + half
    width, height = ((high - low) / coder.num_buckets).unbind(1)
    scores = classes.reshape(count * 4, side).softmax(-1)
    best, label = scores.topk(2, dim=1)
    offset = offsets.reshape(count * 4, side).gather(1, label[:, :1]).reshape(count, 4)
    bucket = label[:, 0].reshape(count, 4)
    sides = [
        low[:, 0] + (0.5 + bucket[:, 0]) * width - offset[:, 0] * width,
        high[:, 0] - (0.5 + bucket[:, 1]) * width - offset[:, 1] * width,
        low[:, 1] + (0.5 + bucket[:, 2]) * height - offset[:, 2] * height,
        high[:, 1] - (0.5 + bucket[:, 3]) * height - offset[:, 3] * height,
    ]
    boxes = torch.stack([sides[0], sides[2], sides[1], sides[3]], dim=1)
    is_near = (label[:, 0] - label[:, 1]).abs() == 1
    confidence = (best[:, 0] + best[:, 1] * is_near).reshape(count, 4).mean(1)
    return boxes, confidence


def topk_per_level(
    decoder: LevelDecoder,
    outs: Sequence,
    *,
    count: int,
    threshold: float = 0.0,
) -> tuple[Tensor, ...]:
    """Boxes (batch, N, 4), scores, labels and levels (batch, N) of each level's highest scores.

    Args:
        decoder (LevelDecoder): of the head.
        outs (Sequence): what the head makes of the maps.
        count (int): of each level; all of them, if negative.
        threshold (float): the score is set to -1 where the class's alone is no higher. Default: 0.
    """
    head = decoder.head
    maps = decoder.levels(outs)
    sizes = [classes.shape[-2:] for classes, _, _ in maps]
    generator, options = getattr(decoder, "generator", None), {}
    if generator is None:
        generator, options = head.prior_generator, dict(dtype=torch.float32)
    priors = generator.grid_priors(sizes, device="cpu", **options)
    levels = []
    for i, (classes, boxes, factors) in enumerate(maps):
        ranks = decoder.ranks(flatten_map(classes, head.cls_out_channels))
        num_classes = ranks.shape[2]
        kept, index = operators.topk(ranks.flatten(1), count if count > 0 else NO_LIMIT)
        torch._check(kept.shape[1] > 0)
        class_scores = scores = decoder.scores(kept)
        anchor = index // num_classes
        if factors is not None:
            scores = scores * pick(flatten_map(factors, 1), anchor)[..., 0].sigmoid()
        deltas = pick(flatten_map(boxes, decoder.box_channels), anchor).flatten(0, 1)
        found, confidence = decoder.decode(i, priors[i][anchor].flatten(0, 1), deltas)
        if confidence is not None:
            scores = scores * confidence.reshape(scores.shape)
        scores = torch.where(class_scores > threshold, scores, -1.0)
        labels = index % num_classes
        found = found.reshape(*index.shape, 4)
        levels.append((found, scores, labels, torch.full_like(labels, i)))
    return tuple(torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))


class ExportableOneStage(Core):
    """RetinaNet, FCOS, ATSS, GFL and others whose heads predict level by level."""

    def __init__(self, model: SingleStageDetector, is_batch: bool = False) -> None:
        super().__init__(model, is_batch)
        head = model.bbox_head
        kind = base_of(head)
        check_predicts_as(head, kind)
        self.decoder = DECODERS[kind](head)
        self.cfg = head.test_cfg
        check_smallest(self.cfg, is_batch)
        self.nms: NMS | WithoutNMS = build_nms(self.cfg.nms, self.cfg.max_per_img, head.num_classes)

    def predict(self, x: Tensor, sizes: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        outs = self.model.bbox_head(self.model.extract_feat(x))
        boxes, scores, labels, _ = topk_per_level(
            *(self.decoder, outs),
            count=self.cfg.get("nms_pre", -1),
            threshold=self.cfg.get("score_thr", 0),
        )
        if self.decoder.clips:
            boxes = clip_boxes(boxes, sizes - self.decoder.border)
        boxes = boxes * scale[:, None]
        return self.nms(boxes, drop_small_boxes(boxes, scores, self.cfg), labels)


class Proposals:
    """What an RPN proposes.

    Args:
        head (RPNHead): of the model.
    """

    def __init__(self, head: RPNHead) -> None:
        check_predicts_as(head, RPNHead)
        self.decoder = LevelDecoder(head)
        self.cfg = head.test_cfg
        levels = head.prior_generator.num_levels
        self.nms: NMS | WithoutNMS = build_nms(self.cfg.nms, self.cfg.max_per_img, levels)

    def __call__(
        self, maps: tuple[Tensor, ...], sizes: Tensor, scale: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Boxes (batch, N, 4), in the network's pixels but for ``scale``, and their scores."""
        outs, count = self.decoder.head(maps), self.cfg.get("nms_pre", -1)
        boxes, scores, _, levels = topk_per_level(self.decoder, outs, count=count)
        if self.decoder.clips:
            boxes = clip_boxes(boxes, sizes - self.decoder.border)
        if scale is not None:
            boxes = boxes * scale[:, None]
        boxes, scores, _ = self.nms(boxes, drop_small_boxes(boxes, scores, self.cfg), levels)
        return boxes, scores


class ExportableRPN(Core):
    """Proposals alone, as of a model ``RPN``."""

    def __init__(self, model: SingleStageDetector, is_batch: bool = False) -> None:
        super().__init__(model, is_batch)
        self.proposals = Proposals(model.bbox_head)
        check_smallest(self.proposals.cfg, is_batch)

    def predict(self, x: Tensor, sizes: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        boxes, scores = self.proposals(self.model.extract_feat(x), sizes, scale)
        return boxes, scores, torch.zeros_like(scores, dtype=torch.int64)


class ExportablePAA(Core):
    """PAA and LAD: scores are geometric means with the factor, of all classes of an anchor."""

    def __init__(self, model: SingleStageDetector, is_batch: bool = False) -> None:
        super().__init__(model, is_batch)
        head = model.bbox_head
        check_predicts_as(head, PAAHead)
        self.votes = head.with_score_voting
        self.cfg = head.test_cfg
        self.nms: NMS | WithoutNMS = build_nms(self.cfg.nms, self.cfg.max_per_img, head.num_classes)

    def predict(self, x: Tensor, sizes: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        head = self.model.bbox_head
        outs = head(self.model.extract_feat(x))
        priors = head.prior_generator.grid_priors(
            [level.shape[-2:] for level in outs[0]], dtype=torch.float32, device="cpu"
        )
        count = self.cfg.get("nms_pre", -1)
        levels = []
        for anchors, *maps in zip(priors, *outs, strict=True):
            classes, deltas, factor = (
                flatten_map(level, channels)
                for level, channels in zip(maps, (head.cls_out_channels, 4, 1), strict=True)
            )
            scores = (classes.sigmoid() * factor.sigmoid()).sqrt()
            _, index = operators.topk(scores.amax(2), count if count > 0 else NO_LIMIT)
            torch._check(index.shape[1] > 0)
            boxes = head.bbox_coder.decode(
                anchors[index].flatten(0, 1), pick(deltas, index).flatten(0, 1)
            )
            levels.append((boxes.reshape(*index.shape, 4), pick(scores, index)))
        boxes, scores = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
        boxes = clip_boxes(boxes, sizes) * scale[:, None]
        found = self.nms(*candidates(boxes, scores, self.cfg.score_thr, self.is_batch))
        if not self.votes or isinstance(self.nms, WithoutNMS):
            return found
        kept, kept_scores, labels = found
        votes = torch.where(scores > self.cfg.score_thr, scores, 0.0)
        return vote(kept, labels, boxes, votes), kept_scores, labels


def vote(boxes: Tensor, labels: Tensor, voters: Tensor, votes: Tensor) -> Tensor:
    """PAA's score voting: a box becomes a mean of those of its class around it.

    Args:
        boxes, labels (Tensor): (batch, K, 4) and (batch, K), that NMS kept.
        voters (Tensor): (batch, N, 4) boxes that went into it.
        votes (Tensor): (batch, N, classes) their scores, 0 where they don't vote.
    """
    low = torch.maximum(boxes[:, :, None, :2], voters[:, None, :, :2])
    high = torch.minimum(boxes[:, :, None, 2:], voters[:, None, :, 2:])
    overlap = (high - low).clamp(min=0).prod(-1)
    areas = [(each[..., 2:] - each[..., :2]).prod(-1) for each in (boxes, voters)]
    union = (areas[0][:, :, None] + areas[1][:, None] - overlap).clamp(min=1e-6)
    iou = overlap / union
    own = pick(votes.mT, labels)
    weights = torch.where(iou > 0.01, torch.exp(-((1 - iou) ** 2) / 0.025) * own, 0.0)
    return weights @ voters / weights.sum(-1, keepdim=True).clamp(min=1e-12)


class ExportableYOLOX(Core):
    """YOLOX: one class of each place."""

    def __init__(self, model: SingleStageDetector, is_batch: bool = False) -> None:
        super().__init__(model, is_batch)
        head = model.bbox_head
        check_predicts_as(head, YOLOXHead)
        self.cfg = head.test_cfg
        self.nms: NMS | WithoutNMS = build_nms(self.cfg.nms, -1, head.num_classes)

    def predict(self, x: Tensor, sizes: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        head = self.model.bbox_head
        outs = head(self.model.extract_feat(x))
        priors = head.prior_generator.grid_priors(
            [level.shape[-2:] for level in outs[0]],
            dtype=torch.float32,
            device="cpu",
            with_stride=True,
        )
        classes, deltas, objectness = (
            torch.cat([flatten_map(level, channels) for level in maps], dim=1)
            for maps, channels in zip(outs, (head.cls_out_channels, 4, 1), strict=True)
        )
        boxes = head._bbox_decode(torch.cat(priors), deltas) * scale[:, None]
        scores, labels = classes.sigmoid().max(2)
        scores = scores * objectness[..., 0].sigmoid()
        scores = torch.where(scores >= self.cfg.score_thr, scores, -1.0)
        if self.is_batch:
            scores, index = operators.topk(scores, MAX_CANDIDATES)
            boxes, labels = pick(boxes, index), labels.gather(1, index)
        return self.nms(boxes, scores, labels)


class ExportableYOLOV3(Core):
    """YOLOv3: places are ranked by class, and scored by objectness, too."""

    def __init__(self, model: SingleStageDetector, is_batch: bool = False) -> None:
        super().__init__(model, is_batch)
        head = model.bbox_head
        check_predicts_as(head, YOLOV3Head, BaseDenseHead)
        self.cfg = head.test_cfg
        check_smallest(self.cfg, is_batch)
        self.nms: NMS | WithoutNMS = build_nms(self.cfg.nms, self.cfg.max_per_img, head.num_classes)

    def predict(self, x: Tensor, sizes: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        head = self.model.bbox_head
        (maps,) = head(self.model.extract_feat(x))
        priors = head.prior_generator.grid_priors([m.shape[-2:] for m in maps], device="cpu")
        levels, boxes = [flatten_map(m, head.num_attrib) for m in maps], []
        for level, anchors, stride in zip(levels, priors, head.featmap_strides, strict=True):
            offset, size = level[..., :2].sigmoid() - 0.5, level[..., 2:4].exp()
            centre = (anchors[:, :2] + anchors[:, 2:]) / 2 + offset * stride
            half = (anchors[:, 2:] - anchors[:, :2]) / 2 * size
            boxes.append(torch.cat([centre - half, centre + half], dim=-1))
        attributes = torch.cat(levels, dim=1)
        objectness = attributes[..., 4:5].sigmoid()
        classes = attributes[..., 5:].sigmoid()
        if self.cfg.get("conf_thr", -1) > 0:
            classes = torch.where(objectness >= self.cfg.conf_thr, classes, -1.0)
        count = self.cfg.get("nms_pre", -1)
        kept, index = operators.topk(classes.flatten(1), count if count > 0 else NO_LIMIT)
        anchor, labels = index // head.num_classes, index % head.num_classes
        scores = torch.where(
            kept > self.cfg.get("score_thr", 0), kept * pick(objectness, anchor)[..., 0], -1.0
        )
        found = pick(torch.cat(boxes, dim=1), anchor) * scale[:, None]
        return self.nms(found, drop_small_boxes(found, scores, self.cfg), labels)


class ExportableCenterNet(Core):
    """CenterNet: the peaks of a heat map."""

    def __init__(self, model: SingleStageDetector, is_batch: bool = False) -> None:
        super().__init__(model, is_batch)
        check_predicts_as(model.bbox_head, CenterNetHead)
        self.cfg = model.bbox_head.test_cfg

    def predict(self, x: Tensor, sizes: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        (heat,), (sides,), (offsets,) = self.model.bbox_head(self.model.extract_feat(x))
        kernel = self.cfg.local_maximum_kernel
        peaks = F.max_pool2d(heat, kernel, stride=1, padding=(kernel - 1) // 2)
        heat = torch.where(peaks == heat, heat, 0.0)
        height, width = heat.shape[2:]
        scores, index = operators.topk(heat.flatten(1), self.cfg.topk)
        labels, place = index // (height * width), index % (height * width)
        sides, offsets = (pick(flatten_map(m, 2), place) for m in (sides, offsets))
        centre = torch.stack([place % width, place // width], dim=-1) + offsets
        boxes = torch.cat([centre - sides / 2, centre + sides / 2], dim=-1)
        across, down = boxes[..., ::2] * x.shape[3] / width, boxes[..., 1::2] * x.shape[2] / height
        boxes = torch.stack([across, down], dim=-1).flatten(2)
        return boxes * scale[:, None], scores, labels


DECODERS: dict[type[BaseDenseHead], type[LevelDecoder]] = {
    GFLHead: GFLDecoder,
    FoveaHead: FoveaDecoder,
    RepPointsHead: RepPointsDecoder,
    TOODHead: TOODDecoder,
    SABLRetinaHead: SABLDecoder,
    BaseDenseHead: LevelDecoder,
}
ONE_STAGE: dict[type[BaseDenseHead], type[Core]] = {
    PAAHead: ExportablePAA,
    YOLOXHead: ExportableYOLOX,
    YOLOV3Head: ExportableYOLOV3,
    CenterNetHead: ExportableCenterNet,
    RPNHead: ExportableRPN,
}


def base_of(head: BaseDenseHead) -> type[BaseDenseHead]:
    """Which of the heads that can be decoded level by level it is.

    Raises:
        ExportError: it is none of them.
    """
    for kind in DECODERS:
        if isinstance(head, kind):
            return kind
    raise ExportError(f"{type(head).__name__} can't be exported: it is no dense head")


def one_stage(model: SingleStageDetector, is_batch: bool) -> Core:
    """A one-stage detector, by its head."""
    for kind, core in ONE_STAGE.items():
        if isinstance(model.bbox_head, kind):
            return core(model, is_batch)
    return ExportableOneStage(model, is_batch)
