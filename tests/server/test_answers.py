"""What the server answers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData

pytest.importorskip("fastapi")

from mmpvt.server.answers import JSON, Answers


def test_a_class_without_a_name_is_its_label():
    """As in pictures and on the page."""
    predictor = SimpleNamespace(classes=["cat"], check_results=lambda: None)
    found = InstanceData(bboxes=torch.rand(2, 4), scores=torch.ones(2), labels=torch.tensor([0, 3]))
    sample = BaseDataElement(pred_instances=found)
    content, _ = Answers(predictor, 0.3).encode(sample, Path(), JSON, None)
    assert [one["class"] for one in json.loads(content)["instances"]] == ["cat", "3"]
