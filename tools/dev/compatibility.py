"""Tests mmpvt in the environment that runs this, and records the result in the documentation.

python tools/dev/compatibility.py NAME            # as noxfile.py calls it, in each environment
python tools/dev/compatibility.py NAME --no-record

A chain of commands runs, from drawing a data set to running an exported model, from the installed
wheel in a folder without the checkout; then, from the checkout, the tests that versions can break:
``SUITE``, without what is marked ``full``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import torch

from mmpvt.utils.requirements import OLDEST_TO_EXPORT

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "compatibility.jsonl"
PAGE = ROOT / "docs" / "compatibility.md"
OLDEST = ".".join(map(str, OLDEST_TO_EXPORT))
EXPORTS = torch.__version__ >= OLDEST_TO_EXPORT
STACKS = {
    "mmengine": ("mmengine", "mmcv-lite", "mmcv", "mmdet", "mmsegmentation"),
    "onedl-mmengine": ("onedl-mmengine", "onedl-mmcv", "onedl-mmdetection", "onedl-mmsegmentation"),
}
SUITE = (
    *("models", "ops", "checkpoint", "datasets", "engine", "swap", "evaluation", "inference"),
    *("deploy", "compat", "utils", "cli"),
)
OPTIONAL = ("torchvision", "transformers", "timm", "mmpretrain", "numpy")

CONFIG = """
_base_ = "{base}"
arch = dict(_delete_=True, embed_dims=(8, 16, 20, 32), depths=(1, 1, 1, 1))
model = dict(
    backbone=dict(arch=arch),
    neck=dict(in_channels=[8, 16, 20, 32], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1),
    test_cfg=dict(score_thr=0.0),
)
train_dataloader = dict(batch_size=2, num_workers=1)
train_cfg = dict(max_epochs=1, val_interval=1)
"""
INTRODUCTION = f"""\
# Tested versions

Each row is a session of `noxfile.py`: an environment of its own in which a chain of commands ran
from the wheel, in a folder without the checkout: draw the shapes data set, train, resume, test,
predict, swap a backbone, train the swapped config, export to ONNX, run the exported file. Then the
part of the suite ran that versions can break, 2,100 tests in seven minutes of one core: what isn't
marked `full` in these folders of `tests/`: {", ".join(SUITE)}. Not in it are the integration tests,
the cost and training of each config, the fuzzing and the pages in a browser: `make test`, which
every change passes, runs them with the versions of `requirements/tested.txt`. With PyTorch before
{OLDEST}, which mmpvt can't export from, the last two commands and `deploy` aren't run.

The sessions cover each version of Python and PyTorch, both stacks (OpenMMLab's and OneDL's) and
each optional package at least once; they aren't all combinations. One without a row has no complete
run with this version. All ran on Linux x86_64 without a GPU.

**Not run:** Windows, macOS (so PyTorch's `mps` device), ARM, Python 3.14, PyTorch 2.15, mmcv's
compiled extension in these sessions. Code that is for Linux only has fallbacks there
([reliability.md](reliability.md#on-windows-and-macos)); nothing refuses a device.

Written by `nox`; `nox -s NAME` runs a row anew.

| session | Python | PyTorch | stack | others | passed / failed / skipped | commands | date |
|---|---|---|---|---|---|---|---|
"""
SWAPPED = "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"


def chain(tools: Path) -> Iterator[tuple[str, list[str]]]:
    """The commands of the chain, each with what it is called in the table."""

    def tool(name: str, *args: object) -> list[str]:
        return [sys.executable, str(tools / f"{name}.py"), *map(str, args)]

    checkpoint = "run/epoch_2.pth"
    longer = ("--cfg-options", "train_cfg.max_epochs=2")
    yield "shapes", tool("make_shapes", "data/shapes", "--train", 8, "--val", 4, "--size", 64, 64)
    yield "train", tool("train", "tiny.py", "--work-dir", "run", "--seed", 0)
    yield "resume", tool("train", "tiny.py", "--work-dir", "run", "--seed", 0, "--resume", *longer)
    yield "test", tool("test", "tiny.py", checkpoint, "--work-dir", "tested")
    yield "predict", tool("predict", "tiny.py", checkpoint, "data/shapes/val2017", "--out", "seen")
    yield "swap", tool("swap_backbone", SWAPPED, "--arch", "b0", "--out", "swapped.py")
    yield (
        "train swapped",
        tool(
            *("train", "swapped.py", "--data", "data/shapes", "--data-format", "coco"),
            *("--epochs", 1, "--pretrained", "none", "--work-dir", "swapped", "--cfg-options"),
            "train_dataloader.dataset.pipeline.2.scale=(96,96)",
            "val_dataloader.dataset.pipeline.1.scale=(96,96)",
        ),
    )
    if not EXPORTS:
        return
    yield "export", tool("export", "tiny.py", checkpoint, "--out", "model.onnx")
    yield "run ONNX", tool("run_onnx", "model.onnx", "data/shapes/val2017", "--out", "onnx")


def run_chain() -> dict[str, str]:
    """``"passed"``, or the last line that was printed, of each command in turn."""
    import mmpvt

    tools = Path(mmpvt.__file__).parent / ".mim" / "tools"
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        base = tools.parent / "configs" / "retinanet_pvt_v2_b0_fpn_shapes.py"
        Path(folder, "tiny.py").write_text(CONFIG.format(base=base))
        for name, command in chain(tools):
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            lines = (done.stderr or done.stdout).strip().splitlines()
            results[name] = "passed" if done.returncode == 0 else (lines or ["no output"])[-1]
            print(f"{name}: {results[name]}", flush=True)
            if done.returncode:
                print(done.stdout[-2000:], done.stderr[-4000:], flush=True)
    return results


def run_suite(arguments: Iterable[str]) -> dict[str, int]:
    """How many of the tests of ``SUITE`` passed, failed and were skipped."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-m", "not full", "--tb=short"]
        folders = [f"tests/{name}" for name in SUITE if EXPORTS or name != "deploy"]
        command += [*folders, f"--junitxml={report}", *arguments]
        subprocess.run(command, cwd=ROOT, check=False)
        suite = ET.parse(report).getroot().find("testsuite")
    counts = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    return dict(passed=passed, failed=failed, skipped=counts["skipped"])


def versions() -> dict[str, str]:
    found = {}
    for name in ("torch", *(n for names in STACKS.values() for n in names), *OPTIONAL):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def page(records: list[dict]) -> str:
    """``docs/compatibility.md``."""
    lines = []
    for record in sorted(records, key=lambda r: r["name"]):
        known, suite, steps = record["versions"], record["suite"], record["chain"]
        stack = next(names for mark, names in STACKS.items() if mark in known)
        failed = [name for name, result in steps.items() if result != "passed"]
        cells = (
            f"`{record['name']}`",
            record["python"],
            known["torch"],
            ", ".join(f"{n} {known[n]}" for n in stack if n in known),
            ", ".join(f"{n} {known[n]}" for n in OPTIONAL if n in known),
            " / ".join(str(suite[key]) for key in ("passed", "failed", "skipped")),
            f"failed: {', '.join(failed)}" if failed else f"all {len(steps)} passed",
            record["date"],
        )
        lines.append(f"| {' | '.join(cells)} |")
    return INTRODUCTION + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("name", help="the session's, of noxfile.py")
    parser.add_argument("--no-record", action="store_true", help="leave the documentation as it is")
    args, for_pytest = parser.parse_known_args()
    started = time.monotonic()
    chained = run_chain()
    record = dict(
        name=args.name,
        date=datetime.date.today().isoformat(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        versions=versions(),
        chain=chained,
        suite=run_suite(for_pytest),
    )
    print(json.dumps(record), f"in {time.monotonic() - started:.0f} s")
    if not args.no_record:
        lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
        records = [r for r in map(json.loads, lines) if r["name"] != args.name] + [record]
        records.sort(key=lambda r: r["name"])
        RESULTS.write_text("".join(json.dumps(r) + "\n" for r in records))
        PAGE.write_text(page(records), encoding="utf-8")
    if record["suite"]["failed"] or any(result != "passed" for result in chained.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
