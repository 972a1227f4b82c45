from importlib import import_module

import pytest

from mmpvt.ops import extension

OPERATORS = (
    "carafe",
    "deform_conv",
    "deform_roi_pool",
    "focal_loss",
    "masked_conv",
    "modulated_deform_conv",
    "multi_scale_deform_attn",
    "nms",
    "psa_mask",
    "roi_align",
    "roi_pool",
)


@pytest.fixture(autouse=True)
def stand_in_answers(monkeypatch):
    """mmcv.ops calls our operators, also beside a full mmcv."""
    for name in OPERATORS:
        monkeypatch.setattr(import_module(f"mmcv.ops.{name}"), "ext_module", extension)
