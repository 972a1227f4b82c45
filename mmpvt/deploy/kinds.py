"""Which exportable form a model has, or why it has none."""

from __future__ import annotations

from mmdet.models.detectors import (
    RPN,
    BaseDetector,
    HybridTaskCascade,
    Mask2Former,
    MaskFormer,
    SCNet,
    SingleStageDetector,
    TwoStageDetector,
)
from mmengine.model import BaseModel
from mmseg.models.segmentors import BaseSegmentor, CascadeEncoderDecoder, EncoderDecoder

from mmpvt.deploy.classifiers import ExportableClassifier
from mmpvt.deploy.dense import one_stage
from mmpvt.deploy.forms import Core
from mmpvt.deploy.layers import PLAIN
from mmpvt.deploy.queries import TRANSFORMERS, ExportableMaskFormer
from mmpvt.deploy.segmentors import ExportableSegmentor
from mmpvt.deploy.two_stage import two_stage
from mmpvt.errors import ExportError
from mmpvt.models.complexity import is_classifier

CLASSIFIER_HEADS = ("LinearClsHead", "StackedLinearClsHead")  # their scores are a softmax


def exportable(model: BaseModel, is_batch: bool = False) -> Core:
    """The model in exportable form; an ExportError names the part that has none."""
    for name, part in model.named_modules():
        is_run = not name.startswith("auxiliary_head")  # which only training runs
        is_operator = type(part).__module__.startswith("mmcv.ops")
        if is_run and is_operator and not isinstance(part, PLAIN):
            raise ExportError(f"{type(part).__name__} (the model's {name}) can't be exported")
    if is_classifier(model):
        if type(model.head).__name__ not in CLASSIFIER_HEADS:
            raise ExportError(
                f"{type(model.head).__name__} can't be exported: {', '.join(CLASSIFIER_HEADS)} can"
            )
        return ExportableClassifier(model, is_batch)
    own = type(model)
    if own in TRANSFORMERS:
        return TRANSFORMERS[own](model, is_batch)
    if own in (MaskFormer, Mask2Former):
        return ExportableMaskFormer(model, is_batch)
    for base, alike, form in (
        (TwoStageDetector, (HybridTaskCascade, SCNet), two_stage),
        (SingleStageDetector, (RPN,), one_stage),
        (EncoderDecoder, (CascadeEncoderDecoder,), ExportableSegmentor),
    ):
        if issubclass(own, base) and all(
            any(getattr(own, name) is getattr(each, name) for each in (base, *alike))
            for name in ("predict", "extract_feat")
        ):
            return form(model, is_batch)
    raise ExportError(f"{own.__name__} can't be exported: {_reason(model)}")


def _reason(model: BaseModel) -> str:
    if isinstance(model, BaseDetector):
        return "it predicts in a way of its own"
    if isinstance(model, BaseSegmentor):
        return "it is no encoder and decoder"
    return "docs/deploy.md lists what can"
