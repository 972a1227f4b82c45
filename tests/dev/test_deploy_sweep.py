"""The sweep of exported families: what is kept of it, and the page. docs/deploy_families.md holds
what came of a whole one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("openvino")

from dev import deploy_sweep

SAME = dict(compared=20, unmatched=0, box=0.1, score=1e-4, mask=0.0, unit="detections")
EXPORTED = dict(
    family="mmdet::atss",
    config="mmdet::atss/atss_r50_fpn_1x_coco.py",
    model="1",
    verdict="exported",
    reason="",
    onnxruntime=dict(SAME, is_small=True),
    openvino=dict(SAME, unmatched=1, is_small=False),
)
REFUSED = dict(EXPORTED, model="0", verdict="refused", reason="a part can't be exported")


def test_records_and_page(tmp_path: Path):
    path = tmp_path / "records.jsonl"
    lines = [json.dumps(record) for record in (REFUSED, EXPORTED)]
    path.write_text("\n".join([*lines, '{"family": "mmdet::fc']))  # killed as it wrote
    sweep = deploy_sweep.Sweep(path, tmp_path, photos=3)
    found = sweep.by_family(["mmdet::atss", "mmdet::fcos"])
    assert [record["verdict"] for record in found] == ["exported", "not run"]
    names = ("mmdet", "mmseg", "onnxruntime", "openvino")
    page = deploy_sweep.markdown(found, 3, dict.fromkeys(names, "1.0"))
    assert "1 of 2 families are exported; 0 agree on both runtimes." in page
    assert "1 of 20 detections missing; 0.1000 px" in page
    assert "| mmdet::fcos |  | not run |" in page
