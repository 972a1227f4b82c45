"""What an exported file says of itself, in its ``metadata_props``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

import mmdet
import mmseg
import torch
from mmengine.config import Config
from torch import nn

from mmpvt.deploy.sizes import Step
from mmpvt.evaluation.coco_results import coco_categories
from mmpvt.utils.text import encodable
from mmpvt.version import __version__

ORDERS = {1: "grey", 3: "RGB", 4: "RGBA"}  # of an image's channels, by their number


def describe(
    model: nn.Module,
    config: Config,
    network: nn.Module,
    steps: Sequence[Step],
    canvas: Sequence[int] | None,
    channels: int = 3,
) -> dict[str, str]:
    """The file's metadata, all values text, JSON where they have parts.

    Args:
        model (nn.Module): of which ``dataset_meta`` is read.
        config (Config): its config.
        network (nn.Module): the form that was recorded.
        steps (Sequence[Step]): resizing.
        canvas (Sequence[int] | None): height and width that the network sees, if fixed.
        channels (int): of the image. Default: 3.

    Returns:
        dict[str, str]: by name.
    """
    meta = getattr(model, "dataset_meta", None) or {}
    classes = [encodable(name) for name in meta.get("classes", ())]
    task = "detection"
    if "masks" in network.outputs:
        task = "instance segmentation"
    elif "label_map" in network.outputs:
        task = "semantic segmentation"
    normaliser = model.data_preprocessor
    mean, std = (
        [round(x, 4) for x in getattr(normaliser, name).flatten().tolist()]
        if normaliser._enable_normalize
        else None
        for name in ("mean", "std")
    )
    test_cfg = getattr(model, "test_cfg", None) or {}
    facts = {
        "task": task,
        "model": type(model).__name__,
        "backbone": type(model.backbone).__name__,
        "config": encodable(config.filename or ""),
        "classes": classes,
        "category_ids": [category["id"] for category in coco_categories(classes)],
        "palette": [list(map(int, colour)) for colour in meta.get("palette") or ()],
        "image": f"uint8, (height, width, {channels}), {ORDERS.get(channels, 'as in the file')}",
        "input_size": list(canvas) if canvas else "dynamic",
        "resizing": [{"step": type(step).__name__, **asdict(step)} for step in steps],
        "mean": mean,
        "std": std,
        "precision": "float32",
        "test_cfg": json.loads(json.dumps(test_cfg, default=str)),
        "versions": {
            "mmpvt": __version__,
            "torch": torch.__version__,
            "mmdet": mmdet.__version__,
            "mmsegmentation": mmseg.__version__,
        },
    }
    return {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in facts.items()
    }
