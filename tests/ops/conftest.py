from importlib import import_module

import pytest

from mmpvt.ops import extension


@pytest.fixture(autouse=True)
def stand_in_answers(monkeypatch):
    """mmcv.ops calls our operators, also beside a full mmcv."""
    for name in ("nms", "focal_loss", "roi_align"):
        monkeypatch.setattr(import_module(f"mmcv.ops.{name}"), "ext_module", extension)
