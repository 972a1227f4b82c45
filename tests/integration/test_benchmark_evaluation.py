"""The metric's benchmark runs, and compares equal results."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize("metric", ["bbox", pytest.param("segm", marks=pytest.mark.full)])
def test_table(metric: str, run_tool):
    pytest.importorskip("faster_coco_eval")
    options = ("--metric", metric, "--images", 3, "--detections", 5, "--runs", 1)
    ended = run_tool("benchmark_evaluation.py", *options, "--ways", "mmpvt", "mmdet")
    assert ended.code == 0, ended.err
    rows = [line.split(" | ")[0] for line in ended.out.splitlines() if line.startswith("| ")]
    assert rows[2:] == [
        "| mmpvt.CocoMetric with faster-coco-eval",
        "| MMDetection's CocoMetric (pycocotools)",
    ]


def test_mistake(run_tool):
    said = run_tool("benchmark_evaluation.py", "--runs", 0).one_sentence()
    assert "take at least 1" in said
