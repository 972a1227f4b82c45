"""A config made small: what takes time or a download, and isn't structure, is taken out."""

from __future__ import annotations

from importlib.util import find_spec

from mmengine.config import Config

from dev.swap_sweep.batches import SIDE
from mmpvt.engine.config import read_config
from mmpvt.engine.config_parts import iter_dicts
from mmpvt.engine.preparation import fall_back_to_float32

# how many boxes go from one part of a model to the next; the structure doesn't depend on them
_COUNTS = dict(
    nms_pre=100, max_per_img=20, max_num=20, num_queries=50, num_proposals=20, score_thr=0.0
)
_SAMPLED = 32


def make_small(config: Config) -> None:
    """Lets few boxes through, pads little, and takes what weights are to be fetched out.

    Args:
        config (Config): changed; the structure of the model is not.
    """
    fall_back_to_float32(config)
    _spare_reid(config)
    for part in iter_dicts(config.model):
        if (part.get("init_cfg") or {}) and "Pretrained" in str(part.get("init_cfg")):
            part.init_cfg = None
        if part.get("teacher_ckpt"):
            part.teacher_ckpt = None
        if isinstance(part.get("teacher_config"), str):
            inside = part.teacher_config.removeprefix("configs/")
            part.teacher_config = read_config(f"mmdet::{inside}").to_dict()
        if part.get("clip_border") is False:  # MMDetection can't paste a mask that is off the image
            part.clip_border = True
        if part.get("use_torchvision") and find_spec("torchvision") is None:
            part.use_torchvision = False
        if part.get("type") == "MMSyncBN":  # takes several processes
            part.type = "BN"
        if part.get("type") in ("SegDataPreProcessor", "BatchFixedSizePad"):
            part.size = (SIDE, SIDE)
        for key, value in part.items():
            if key in _COUNTS and isinstance(value, int | float):
                part[key] = min(value, _COUNTS[key])
            elif key == "sampler" and isinstance(value, dict) and "num" in value:
                value.num = min(value.num, _SAMPLED)


def _spare_reid(config: Config) -> None:
    """Tracks without re-identification where MMPretrain, which it is built of, doesn't import."""
    tracker = config.model.get("tracker") or {}
    if "reid" in tracker:
        try:
            import mmpretrain  # noqa: F401
        except ImportError:
            config.model.pop("reid", None)
            tracker.reid = None
