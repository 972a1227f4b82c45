"""Trained models, classifiers and backbones by their names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmpvt.checkpoint import (
    describe_incompatible_keys,
    fit_to_model,
    load_checkpoint,
    load_pretrained,
)
from mmpvt.checkpoint.conversion import HEAD
from mmpvt.checkpoint.hub import SCHEME, WEIGHTS_FILE, download_from_hub
from mmpvt.engine.config import read_config
from mmpvt.engine.saved_config import CONFIG_FILE
from mmpvt.engine.start_from import PUBLISHED
from mmpvt.errors import CheckpointMismatchError, ConfigError
from mmpvt.inference.predictor import Predictor, choose_device
from mmpvt.models import PyramidVisionTransformer, PyramidVisionTransformerV2
from mmpvt.models.archs import VARIANTS, Variant

CLASSES = 1000  # of ImageNet


def load_model(
    name: str | os.PathLike,
    checkpoint: str | os.PathLike | None = None,
    device: str | None = None,
    *,
    features_only: bool = False,
    num_classes: int = CLASSES,
    **options: Any,
) -> Predictor | nn.Module:
    """A trained detector, segmenter or classifier, which predicts on files and arrays; by the name
    of a PVT alone, its ImageNet classifier or backbone, as timm's ``create_model`` gives them.

    Args:
        name (str | PathLike): of a config that comes with mmpvt (``mmpvt list`` names them), or a
            config's file; a folder of :meth:`Predictor.save_pretrained`; or ``hf://OWNER/NAME``, a
            repository that holds such files, with ``@REVISION`` or not. Neither the folder's nor
            the repository's files are run. ``'pvt_small'``, ``'pvt_v2_b2'`` and their like name a
            PVT.
        checkpoint (str | PathLike | None): of the config: a file, a URL, ``hf://OWNER/NAME``, or
            ``'published'`` for the detector that MMDetection, or the classifier that the papers'
            authors, published for the architecture. Default: None, what the folder or repository
            holds, else ``'published'``. Of a PVT, a file or URL in any known layout, or ``'none'``
            for random weights.
        device (str | None): ``'cpu'``, ``'cuda'``, ``'cuda:1'``. Default: a GPU where there is one.
        features_only (bool): of a PVT, the backbone alone. Default: False.
        num_classes (int): of a PVT's classifier; the last layer starts fresh where the checkpoint
            is of another number. Default: 1000.
        **options: of :class:`Predictor`, not of a PVT: ``tiles`` or ``amp``, say.

    Returns:
        Predictor | nn.Module: the model. A PVT is in evaluation mode and takes (batch, 3, height,
        width) images, normalised with ImageNet's mean and standard deviation: a classifier gives
        (batch, num_classes) logits, a backbone four maps.

    Raises:
        UserError: there is no such config or checkpoint, they can't be read or don't go together;
            a classifier's packages aren't installed.

    Example:
        >>> model = mmpvt.load_model('retinanet_pvt_v2_b2_fpn_1x_coco')
        >>> sample = model('street.jpg')
        >>> model.save_pretrained('my_model')
        >>> model = mmpvt.load_model('my_model')
        >>> backbone = mmpvt.load_model('pvt_v2_b0', features_only=True)
        >>> [tuple(m.shape) for m in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 32, 16, 24), (1, 64, 8, 12), (1, 160, 4, 6), (1, 256, 2, 3)]
    """
    name = os.fspath(name)
    variant = next((one for one in VARIANTS if one.full_name == name), None)
    if variant is not None:
        if options:
            raise ConfigError(
                f"{name} names a PVT, and {', '.join(options)} go with a config or a folder"
            )
        published = checkpoint in (None, PUBLISHED)
        source = variant.weights if published else os.fspath(checkpoint or "")
        build = _backbone if features_only else _classifier
        return build(variant, source, num_classes).to(choose_device(device)).eval()
    if features_only or num_classes != CLASSES:
        raise ConfigError(
            f"{name} is a config or a folder: features_only and num_classes are for a PVT's name, "
            f"such as {VARIANTS[0].full_name}"
        )
    if name.startswith(SCHEME):
        files = (CONFIG_FILE,) if checkpoint else (CONFIG_FILE, WEIGHTS_FILE)
        config, *weights = download_from_hub(name, *files)
        return Predictor(config, checkpoint or weights[0], device, **options)
    folder = Path(name)
    held = folder / WEIGHTS_FILE if folder.is_dir() else PUBLISHED
    return Predictor(name, checkpoint or held, device, **options)


def _backbone(variant: Variant, source: str, _: int) -> nn.Module:
    kind = PyramidVisionTransformer if variant.version == 1 else PyramidVisionTransformerV2
    backbone = kind(variant.name)
    if source != "none":
        load_pretrained(backbone, source)
    return backbone


def _classifier(variant: Variant, source: str, num_classes: int) -> nn.Module:
    config = read_config(f"{variant.full_name}_8xb128_in1k")
    config.model.head.num_classes = num_classes
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        model = MODELS.build(config.model)
    nn.init.trunc_normal_(model.head.fc.weight, std=0.02)  # init_weights logs every tensor
    nn.init.zeros_(model.head.fc.bias)
    if source == "none":
        return model
    target = model.state_dict()
    tensors = fit_to_model(load_checkpoint(source), model, strict=False)
    if num_classes != CLASSES:  # the user means another head than the checkpoint's
        tensors |= {k: target[k] for k in HEAD.values() if _shape(tensors, k) != target[k].shape}
    if problem := describe_incompatible_keys(tensors, target):
        raise CheckpointMismatchError(
            f"the weights in {source} are no {variant.full_name} classifier's: {problem}",
            where=source,
        )
    model.load_state_dict(tensors, strict=False)  # that one is strict
    return model


def _shape(tensors: dict, name: str) -> object:
    return getattr(tensors.get(name), "shape", None)
