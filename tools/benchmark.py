"""Times PVT's implementations beside each other, and what memory they take.

python tools/benchmark.py                                     # v1 small, 800x1216, on the CPU
python tools/benchmark.py --arch b2 --work train predict --sizes 640x640 --device cuda

Each implementation has a process of its own and they take turns, so that a machine whose speed
drifts slows all of them: ratios of one run can be trusted, seconds can't be compared across runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict
from itertools import product
from pathlib import Path

import torch
from rich.progress import Progress

import mmpvt.setup  # before MMDetection is imported
from benchmarks import backbone_worker
from benchmarks.peers import PEERS
from benchmarks.results_table import OURS, Measured, markdown
from benchmarks.workloads import BACKBONE, WORK, Case
from mmpvt.engine.cli import user_errors
from mmpvt.errors import UserError
from mmpvt.models.archs import find_variant

TOLERANCE = 1e-3  # relative, of the norms of equal maps in float32


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--arch", nargs="+", default=["small"], help="variants (default: small)")
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(BACKBONE), help="what runs")
    parser.add_argument(
        "--sizes", nargs="+", default=["800x1216"], metavar="HxW", help="pixels of an image"
    )
    parser.add_argument("--batch", type=int, default=1, help="images at once (default: 1)")
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=("float32", "bfloat16", "float16"),
        default=["float32"],
        help="float32, or what autocast computes in",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=PEERS,
        default=["published", "mmdet", "transformers", "timm"],
        help="what mmpvt is compared with: other implementations, or itself compiled or with_cp",
    )
    parser.add_argument("--runs", type=int, default=5, help="of each (default: 5)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="on the CPU")
    parser.add_argument("--out", metavar="FILE", help="where the figures go, as JSON")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.worker:
        backbone_worker.main(Case(**json.loads(args.worker[0])), args.worker[1], args.threads)
    else:
        with user_errors():
            run(args)


def run(args: argparse.Namespace) -> None:
    """Prints a table for each case, and keeps the figures in ``--out``."""
    cases = make_cases(args)
    peers = [OURS, *(peer for peer in args.peers if peer != OURS)]
    out = Path(args.out) if args.out else None
    if out and not out.parent.is_dir():
        raise UserError(f"no folder {out.parent} for --out")
    print(machine(args), flush=True)
    records = []
    for case in cases:
        results = compare(case, peers, args.runs, args.threads)
        print(f"\n{markdown(case, results)}", flush=True)
        records.append(dict(asdict(case), results={k: asdict(v) for k, v in results.items()}))
        if out:
            out.write_text(json.dumps(dict(machine=machine(args), cases=records), indent=1))


def make_cases(args: argparse.Namespace) -> list[Case]:
    """Every combination of the options."""
    if min(args.runs, args.batch, args.threads) < 1:
        raise UserError("--runs, --batch and --threads take at least 1")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch sees no GPU here")
    sizes = [re.fullmatch(r"(\d+)x(\d+)", size) for size in args.sizes]
    for text, size in zip(args.sizes, sizes, strict=True):
        if size is None or min(map(int, size.groups())) < 32:
            raise UserError(f"--sizes takes HEIGHTxWIDTH, each at least 32 pixels, not {text!r}")
    for arch in args.arch:
        find_variant(arch)
    return [
        Case(arch, work, int(size[1]), int(size[2]), args.batch, precision, args.device)
        for arch, precision, size, work in product(args.arch, args.precision, sizes, args.work)
    ]


def compare(case: Case, peers: list[str], runs: int, threads: int) -> dict[str, Measured]:
    """Starts a process for each peer, and has them run in turn."""
    results = {peer: Measured() for peer in peers}
    processes: dict[str, subprocess.Popen] = {}
    with Progress(transient=True, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task(str(case), total=len(peers) * (runs + 1))
        try:
            for peer in peers:
                processes[peer] = start(case, peer, threads)
                for key, value in read(processes[peer]).items():
                    setattr(results[peer], key, value)
                progress.advance(bar)
            running = [peer for peer in peers if not results[peer].refused]
            for _, peer in product(range(runs), running):
                said = ask(processes[peer], "rate" if peer == OURS else "run")
                results[peer].seconds.append(said["seconds"])
                if said["product"]:
                    results[peer].products.append(said["product"])
                progress.advance(bar)
        finally:
            for process in processes.values():
                process.kill()
                process.wait()
    check_equal(results)
    return results


def start(case: Case, peer: str, threads: int) -> subprocess.Popen:
    """A peer's process."""
    command = [sys.executable, __file__, "--threads", str(threads)]
    return subprocess.Popen(
        [*command, "--worker", json.dumps(asdict(case)), peer],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )


def read(process: subprocess.Popen) -> dict:
    """The next message of a peer's process."""
    line = process.stdout.readline()
    if line:
        return json.loads(line)
    return dict(refused=f"its process ended with code {process.wait()}")


def ask(process: subprocess.Popen, command: str) -> dict:
    """A peer's process's answer to a command."""
    print(command, file=process.stdin, flush=True)
    said = read(process)
    if "seconds" not in said:
        raise UserError(f"a run failed: {said['refused']}; smaller --batch or --sizes may help")
    return said


def check_equal(results: dict[str, Measured]) -> None:
    """Checks that the published formula, with our weights, gives our maps."""
    if "published" not in results or results["published"].refused or results[OURS].refused:
        return
    pairs = zip(results[OURS].norms, results["published"].norms, strict=True)
    if any(abs(ours - theirs) > TOLERANCE * theirs for ours, theirs in pairs):
        raise RuntimeError("the published formula gives other maps than mmpvt's")


def machine(args: argparse.Namespace) -> str:
    """The processor and versions."""
    if args.device == "cuda":
        processor = torch.cuda.get_device_name()
    else:
        text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
        names = re.findall(r"model name\s*: (.*)", text) or [platform.processor()]
        processor = f"{names[0]}, {torch.backends.cpu.get_cpu_capability()}, {args.threads} threads"
    return f"{processor}; PyTorch {torch.__version__}, mmpvt {mmpvt.__version__}"


if __name__ == "__main__":
    main()
