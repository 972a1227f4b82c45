"""A test's predictions as a file."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from mmpvt.registry import METRICS


def test_written_intact_or_not_at_all(tmp_path: Path):
    out = tmp_path / "results.pkl"
    metric = METRICS.build(dict(type="DumpDetResults", out_file_path=str(out)))
    assert metric.compute_metrics([{"img_id": 1}]) == {}
    with pytest.raises((AttributeError, pickle.PicklingError)):
        metric.compute_metrics([{"img_id": 2}, lambda: None])
    assert pickle.loads(out.read_bytes()) == [{"img_id": 1}]
    assert [path.name for path in tmp_path.iterdir()] == ["results.pkl"]
