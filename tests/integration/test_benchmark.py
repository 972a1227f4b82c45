"""The benchmark runs, compares like with like, and says what a user got wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from helpers import ROOT, relative

ARGS = ("--arch", "tiny", "--sizes", "64x64", "--runs", 2, "--threads", 1)


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's parts can be imported, as its own process imports them."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))


@pytest.mark.parametrize(
    "work",
    [("forward+backward",), pytest.param(("forward+backward", "train"), marks=pytest.mark.full)],
    ids="+".join,
)
def test_table_and_figures(work: tuple[str, ...], tmp_path: Path, run_tool):
    out = tmp_path / "figures.json"
    options = ("--work", *work, "--peers", "published", "timm", "--out", out)
    ended = run_tool("benchmark.py", *ARGS, *options)
    assert ended.code == 0, ended.err
    rows = [line.split("|")[1].strip() for line in ended.out.splitlines() if line.startswith("| ")]
    assert rows == ["", "mmpvt", "published", "timm"] * len(work)
    assert "timm has no PVT v1" in ended.out
    assert "of the rate of PyTorch's matrix product here" in ended.out
    for case in json.loads(out.read_text())["cases"]:
        for peer in ("mmpvt", "published"):
            measured = case["results"][peer]
            assert len(measured["seconds"]) == 2 and min(measured["seconds"]) > 0
            assert measured["peak"] is None or measured["peak"] > 0


@pytest.mark.full
def test_tables_for_a_gpu(tmp_path: Path, coco_mini: Path):
    """gpu.sh's steps, tiny and on the CPU: every table, and a training with its loss."""
    annotations = Path("annotations", "instances_train2017.json")
    content = json.loads((coco_mini / annotations).read_text())
    content["images"] = content["images"][:8]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [x for x in content["annotations"] if x["image_id"] in ids]
    small = tmp_path / "coco"
    (small / "annotations").mkdir(parents=True)
    (small / annotations).write_text(json.dumps(content))
    (small / "train2017").symlink_to(coco_mini / "train2017")
    env = dict(os.environ, PYTHON=sys.executable, DEVICE="cpu", QUICK="1")
    script = ROOT / "tools" / "benchmarks" / "gpu.sh"
    ended = subprocess.run(
        [script, tmp_path / "out", small], env=env, capture_output=True, text=True, check=False
    )
    table = (tmp_path / "out" / "table.md").read_text()
    assert ended.returncode == 0, table + ended.stderr
    assert "failed" not in table
    heads = [line for line in table.splitlines() if line.startswith("### ")]
    assert heads[-1] == "### RetinaNet, PVT v2 B0, batch 4, 8 images, 1 epochs"
    kinds = ("forward", "forward+backward", "train", "predict")
    for arch, work, precision in product(("tiny", "b0"), kinds, ("bfloat16", "float32")):
        row = f"### {arch} {work}, 2 x 64x96, {precision}, cpu"
        assert (row in heads) == (precision == "bfloat16" or work == "forward+backward"), row
    assert re.search(
        r"2 iterations, .* s an iteration .* box AP on the images learned", table, re.S
    )


@pytest.mark.parametrize("arch", ["tiny", "b0", "b2_li"])
def test_published_formula(arch: str, benchmarks):
    """What everything is measured against gives the same maps."""
    from benchmarks.peers import mmpvt, published

    torch.manual_seed(0)
    theirs = published(arch).eval()
    ours = mmpvt(arch).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        for mine, other in zip(ours(images), theirs(images), strict=True):
            assert relative(mine, other) < 1e-5


def test_operations(benchmarks):
    from benchmarks.results_table import operations
    from benchmarks.workloads import Case

    forward = operations(Case("small", "forward", 800, 1216))
    assert forward == pytest.approx(249e9, rel=0.01)  # attention's products included
    assert operations(Case("small", "forward+backward", 800, 1216, batch=2)) == 6 * forward


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--sizes", "640"), "--sizes takes HEIGHTxWIDTH, each at least 32 pixels, not '640'"),
        (("--arch", "b9"), "unknown arch 'b9': take one of tiny, small"),
        (("--runs", "0"), "--runs, --batch and --threads take at least 1"),
        (("--out", "/nowhere/f.json"), "no folder /nowhere for --out"),
    ],
)
def test_mistakes(options: tuple[str, ...], sentence: str, call_tool, benchmarks):
    assert sentence in call_tool("benchmark.py", *options).one_sentence()
