"""Times the COCO metric beside pycocotools, and what memory each takes.

python tools/benchmark_evaluation.py                              # 5,000 images, 100 boxes each
python tools/benchmark_evaluation.py --metric segm --images 1000

Each evaluation is a process of its own, and the implementations take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

from rich.progress import Progress

from benchmarks import coco_worker
from mmpvt.engine.cli import user_errors
from mmpvt.errors import UserError

TOLERANCE = 1e-6  # of the summary's scores


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--metric", choices=("bbox", "segm"), default="bbox")
    parser.add_argument("--images", type=int, default=5000, help="default: 5000")
    parser.add_argument("--detections", type=int, default=100, help="of an image (default: 100)")
    parser.add_argument("--runs", type=int, default=3, help="of each (default: 3)")
    ways = [*coco_worker.IMPLEMENTATIONS]
    parser.add_argument("--ways", nargs="+", choices=ways, default=ways, help="implementations")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.worker:
        coco_worker.main(args.worker, args.metric, args.images, args.detections)
    else:
        with user_errors():
            run(args)


def run(args: argparse.Namespace) -> None:
    """Prints a table of medians."""
    if min(args.images, args.detections, args.runs) < 1:
        raise UserError("--images, --detections and --runs take at least 1")
    found: dict[str, list[dict]] = {way: [] for way in args.ways}
    with Progress(transient=True, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("evaluating", total=args.runs * len(args.ways))
        for _ in range(args.runs):
            for way in args.ways:
                found[way].append(start(way, args))
                progress.advance(bar)
    check_equal(found)
    print(
        f"{args.metric}, {args.images} images, {args.detections} detections each, "
        f"medians of {args.runs} runs\n\n| | seconds | peak memory, GB |\n| --- | --- | --- |"
    )
    for way, results in found.items():
        seconds = statistics.median(result["seconds"] for result in results)
        peak = statistics.median(result["peak"] for result in results) / 1e9
        print(f"| {coco_worker.IMPLEMENTATIONS[way]} | {seconds:.1f} | {peak:.2f} |")


def start(way: str, args: argparse.Namespace) -> dict:
    """One evaluation in a process of its own."""
    command = [sys.executable, __file__, "--worker", way, "--metric", args.metric]
    command += ["--images", str(args.images), "--detections", str(args.detections)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if done.returncode:
        raise UserError(f"a run failed with code {done.returncode}: {done.stderr[-500:]}")
    return json.loads(done.stdout)


def check_equal(found: dict[str, list[dict]]) -> None:
    """Checks that all implementations give the same scores."""
    results = [result for results in found.values() for result in results]
    if any(result["scores"] != results[0]["scores"] for result in results):
        raise RuntimeError("the implementations give different scores")
    stats = [result["stats"] for result in results if result["stats"]]
    for other in stats[1:]:
        if any(abs(a - b) > TOLERANCE for a, b in zip(stats[0], other, strict=True)):
            raise RuntimeError("the implementations give different summaries")


if __name__ == "__main__":
    main()
