"""Parameters and multiply-adds of a detector, segmenter or classifier, module by module.

Counted as in the PVT papers' tables: a multiply-add once; convolutions, linear layers and
attention's two products. PyTorch's :class:`torch.utils.flop_counter.FlopCounterMode` counts, on the
``meta`` device: that takes no memory, and attention runs there as two products, while the counter
doesn't know the CPU's fused kernel.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from mmdet.models import DETR, SingleStageDetector, SparseRCNN, TwoStageDetector
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmseg.models import EncoderDecoder
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmpvt.errors import ConfigError, UserError
from mmpvt.models.data_preprocessor import input_channels

MAX_SIDE = 100_000  # pixels, whose attention weights PyTorch can still count


class ModuleCost(NamedTuple):
    """What a module of a model takes."""

    name: str  # of the module: "backbone", "roi_head.bbox_head"
    parameters: int
    macs: int  # multiply-adds for one image


def build_without_memory(config: Config) -> BaseModel:
    """The model of an experiment's config, in evaluation mode, on the ``meta`` device."""
    scope = DefaultScope.overwrite_default_scope(config.get("default_scope", "mmengine"))
    with scope, torch.device("meta"):
        return revert_sync_batchnorm(MODELS.build(copy.deepcopy(config.model))).eval()


def default_shape(model: BaseModel) -> tuple[int, int]:
    """Height and width for which the papers give a model's multiply-adds."""
    if is_classifier(model):
        return 224, 224
    return (512, 512) if isinstance(model, EncoderDecoder) else (1280, 800)


def is_classifier(model: BaseModel) -> bool:
    """Whether it is one of mmpretrain's, an extra that isn't imported for this."""
    module = "mmpretrain.models.classifiers.image"
    return any(base.__module__ == module for base in type(model).__mro__)


def count(model: BaseModel, shape: Sequence[int] | None = None) -> list[ModuleCost]:
    """What each module of a model takes for one image.

    Box heads are counted on the most proposals, and mask heads on the most detections, that the
    model's ``test_cfg`` allows.

    Args:
        model (BaseModel): from :func:`build_without_memory`.
        shape (Sequence[int] | None): height and width of the image in pixels. Default: 1280, 800
            for a detector; 512, 512 for a segmenter; 224, 224 for a classifier.

    Returns:
        list[ModuleCost]: backbone, neck and heads in the order they run; and ``'rest'``, where
        there are parameters in none of them, such as a transformer's queries.

    Raises:
        ConfigError: the image has no pixels, or models of this kind, or a part, can't be counted.
    """
    height, width = default_shape(model) if shape is None else shape
    if min(height, width) < 1:
        raise ConfigError(
            f"an image of {height}x{width} pixels has nothing to count", setting="shape"
        )
    if max(height, width) > MAX_SIDE:
        raise ConfigError(f"{max(height, width)} is more than {MAX_SIDE} pixels", setting="shape")
    channels = input_channels(model.backbone)
    with torch.device("meta"), torch.no_grad():
        counter = _Counter(model)
        maps = counter("backbone", torch.empty(1, channels, height, width))
        if model.with_neck:
            maps = counter("neck", maps)
        if isinstance(model, SparseRCNN):
            _count_sparse_rcnn(counter, model)
        elif isinstance(model, TwoStageDetector) and model.with_rpn:
            _count_two_stages(counter, model, maps)
        elif isinstance(model, DETR):
            _count_detr(counter, model, maps, (height, width))
        elif isinstance(model, SingleStageDetector):
            counter("bbox_head", maps)
        elif isinstance(model, EncoderDecoder):
            counter("decode_head", maps)
        elif is_classifier(model):
            counter("head", maps)
        else:
            raise ConfigError(
                f"a {type(model).__name__} can't be counted: only single-stage and two-stage "
                "detectors, Sparse R-CNN, DETR, encoder-decoder segmenters and mmpretrain's image "
                "classifiers can"
            )
    rest = _parameters(model) - sum(cost.parameters for cost in counter.costs)
    return counter.costs + [ModuleCost("rest", rest, 0)] * bool(rest)


class _Counter:
    """Runs a model's modules and keeps what each took."""

    def __init__(self, model: BaseModel) -> None:
        self.model = model
        self.costs: list[ModuleCost] = []

    def __call__(self, name: str, *inputs: Any, run: Callable | None = None) -> Any:
        """The output of the module ``name``, or of ``run``, which runs it."""
        module = self.model.get_submodule(name)
        try:
            with FlopCounterMode(display=False) as counted:
                out = (run or module)(*inputs)
        except UserError:
            raise
        except Exception as error:  # whatever a head raises on inputs that it doesn't take
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
            of_size = name in ("backbone", "neck")
            what = "an image of this size" if of_size else "an image's features by itself"
            raise ConfigError(
                f"{type(self.model).__name__}'s {name} doesn't run on {what} ({reason})",
                hint="take a --shape whose sides are multiples of 32" if of_size else None,
            ) from error
        macs = counted.get_total_flops() // 2  # it counts multiplication and addition
        self.costs.append(ModuleCost(name, _parameters(module), macs))
        return out


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _count_two_stages(counter: _Counter, model: TwoStageDetector, maps: Sequence[Tensor]) -> None:
    head, limits = model.roi_head, model.test_cfg
    _check_parts(model, "backbone", "neck", "rpn_head", "roi_head")
    _check_parts(head, "bbox_head", "mask_head")
    counter("rpn_head", maps)
    proposals = _rois(head.bbox_roi_extractor, limits.rpn.max_per_img)
    counter("roi_head.bbox_head", proposals, run=_every_stage(head.bbox_head))
    if head.with_mask:
        rois = _rois(head.mask_roi_extractor, limits.rcnn.max_per_img)
        counter("roi_head.mask_head", rois, run=_every_stage(head.mask_head))


def _check_parts(module: nn.Module, *counted: str) -> None:
    """Raises a ConfigError if a part that isn't counted has parameters: a mask IoU head, say."""
    for name, part in module.named_children():
        if name not in counted and _parameters(part):
            raise ConfigError(
                f"a {type(module).__name__} with parameters in its {name} can't be counted"
            )


def _count_sparse_rcnn(counter: _Counter, model: SparseRCNN) -> None:
    number = model.rpn_head.num_proposals
    head = model.roi_head
    _check_parts(model, "backbone", "neck", "rpn_head", "roi_head")
    _check_parts(head, "bbox_head")
    features = torch.empty(1, number, head.proposal_feature_channel)
    rois = _rois(head.bbox_roi_extractor, number)
    counter("roi_head.bbox_head", rois, features, run=_every_stage(head.bbox_head))


def _count_detr(
    counter: _Counter, model: DETR, maps: Sequence[Tensor], shape: tuple[int, int]
) -> None:
    sample = DetDataSample(metainfo=dict(img_shape=shape, batch_input_shape=shape))
    inputs, decoder_inputs = model.pre_transformer(maps, [sample])
    memory = counter("encoder", run=lambda: model.forward_encoder(**inputs))
    queries, head_inputs = model.pre_decoder(**memory)
    decoder_inputs.update(queries)
    states = counter("decoder", run=lambda: model.forward_decoder(**decoder_inputs))
    counter("bbox_head", run=lambda: model.bbox_head(**head_inputs, **states))


def _every_stage(heads: nn.Module) -> Callable:
    """Runs each of a cascade's heads on inputs like the first one's."""
    stages = heads if isinstance(heads, nn.ModuleList) else [heads]
    return lambda *inputs: [head(*inputs) for head in stages]


def _rois(extractor: Any, number: int) -> Tensor:
    """RoI features of that many boxes."""
    if isinstance(extractor, nn.ModuleList):
        extractor = extractor[0]
    return torch.empty(number, extractor.out_channels, *extractor.roi_layers[0].output_size)
