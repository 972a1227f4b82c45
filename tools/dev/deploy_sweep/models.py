"""Small inputs, and models of random weights whose predictions are anything but all alike."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmpvt.deploy.verification import predict
from mmpvt.engine.pipeline import read_test_pipeline

SCALE = (224, 160)  # width and height that test pipelines keep images within
LARGE_SCALE = (448, 320)  # of models that pad to multiples of 128: smaller maps come to one pixel
WINDOW, STRIDE = (128, 128), (96, 96)  # of segmenters that slide
# of layers that give classes or masks, and of those that give boxes; not of what comes before them
CLASSES = re.compile(r"cls|conv_seg|logits|class|heatmap|mask_embed|kernel|objectness|fc_seg")
BOXES = re.compile(r"reg|bbox|box|offset|wh_head|iou|centerness|size|object_pred")
TOWERS = re.compile(r"convs|tower|subnet|fcs\.|ffn|norm|backbone|neck|encoder|decoder\.|\.conv$")
MASK_CHANNELS = 256
LAYERS = (nn.Conv2d, nn.Linear, nn.ConvTranspose2d)


def build_spread(config: Config, photos: Sequence[np.ndarray]) -> BaseModel:
    """Builds a model, and scales its last layers' weights until what they give varies.

    Args:
        config (Config): of the model and the test pipeline, whose sizes are made small.
        photos (Sequence[ndarray]): uint8, BGR: the first is what is predicted on.
    """
    init_default_scope(config.default_scope)
    make_small(config)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(config.model))
    model.init_weights()
    model.eval()
    for part in model.modules():  # statistics of a net that has seen images
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    # first what decides on boxes, then on classes: the ones see the others
    for pattern, spread in ((BOXES, 0.5), (CLASSES, 2.0)):
        _spread(model, config, photos[0], pattern, spread)
    return model


def make_small(config: Config) -> None:
    """Sizes of the test pipeline, and of windows."""
    divisor = (config.model.get("data_preprocessor") or {}).get("pad_size_divisor") or 1
    scale = LARGE_SCALE if divisor > 64 else SCALE
    for transform in read_test_pipeline(config):
        if transform["type"].endswith("Resize") and "scale" in transform:
            fixed = transform.get("keep_ratio") is False
            transform["scale"] = (160, 160) if fixed else scale
    test_cfg = config.model.get("test_cfg") or {}
    if test_cfg.get("mode") == "slide":
        test_cfg.update(crop_size=WINDOW, stride=STRIDE)
    if config.model.type in ("MaskFormer", "Mask2Former"):
        test_cfg.update(panoptic_on=False, instance_on=True)


def _spread(
    model: BaseModel, config: Config, photo: np.ndarray, pattern: re.Pattern, spread: float
) -> None:
    seen: dict[str, list[torch.Tensor]] = {}
    handles = []
    for name, layer in _last_layers(model, pattern):

        def keep(_, __, out: torch.Tensor, name: str = name) -> None:
            seen.setdefault(name, []).append(out.detach().flatten())

        handles.append(layer.register_forward_hook(keep))
    predict(model, config, photo)
    for handle in handles:
        handle.remove()
    with torch.no_grad():
        for name, outs in seen.items():
            std = torch.cat(outs).std().clamp(min=1e-6)
            if name.split(".")[-2:-1] == ["mask_embed"]:  # a mask is its product with 256 channels
                std *= MASK_CHANNELS**0.5
            layer = model.get_submodule(name)
            if hasattr(layer, "tempearture"):  # mmdet's NormedLinear, whose weights' length is 1
                layer.tempearture *= float(spread / std)
            else:
                layer.weight.mul_(spread / std)


def _last_layers(model: nn.Module, pattern: re.Pattern) -> Iterator[tuple[str, nn.Module]]:
    """Layers that no other of their kind follows in their sequence."""
    for name, layer in model.named_modules():
        own = name.removeprefix("roi_head.").removeprefix("bbox_head.")
        if not isinstance(layer, LAYERS) or TOWERS.search(own) or not pattern.search(own):
            continue
        parent = model.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, nn.Sequential) and layer is not parent[-1]:
            continue
        yield name, layer


def photographs(folder: Path, scope: str, count: int) -> list[np.ndarray]:
    """``count`` photographs of ``coco_mini`` or ``ade_mini``, BGR, resized to 160 to 256 pixels."""
    inside = "ade_mini/images/validation" if scope == "mmseg" else "coco_mini/val2017"
    files = sorted((folder / inside).glob("*.jpg"))[:count]
    photos = []
    for i, file in enumerate(files):
        image = cv2.imread(str(file))
        longest = 192 + 32 * (i % 3)
        factor = longest / max(image.shape[:2])
        photos.append(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA))
    return photos
