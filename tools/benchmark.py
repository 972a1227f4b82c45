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
from contextlib import suppress
from dataclasses import asdict
from itertools import groupby, product
from pathlib import Path

import torch
from rich.progress import Progress

import mmpvt.setup  # before MMDetection is imported
from benchmarks import backbone_worker
from benchmarks.peers import PEERS
from benchmarks.results_table import OURS, Measured, markdown
from benchmarks.workloads import BACKBONE, WORK, Case
from mmpvt.cli import share_processors
from mmpvt.engine.cli import user_errors
from mmpvt.errors import UserError
from mmpvt.models.archs import find_variant
from mmpvt.utils.processors import usable_processors

TOLERANCE = 1e-3  # relative, of the norms of equal maps in float32
RATE = "rate"  # the process that measures the machine's matrix product


def parse_args(options: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="--then begins another set of options, for tables that follow in the same run.",
    )
    parser.add_argument("--arch", nargs="+", default=["small"], help="variants (default: small)")
    parser.add_argument("--work", nargs="+", choices=WORK, default=list(BACKBONE), help="what runs")
    parser.add_argument(
        "--sizes", nargs="+", default=["800x1216"], metavar="HxW", help="pixels of an image"
    )
    parser.add_argument(
        "--batch", type=int, nargs="+", default=[1], help="images at once (default: 1)"
    )
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
    parser.add_argument("--threads", type=int, default=usable_processors(), help="on the CPU")
    parser.add_argument("--out", metavar="FILE", help="where the figures go, as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(options)


def main() -> None:
    options = [list(group) for then, group in groupby(sys.argv[1:], "--then".__eq__) if not then]
    first, *others = map(parse_args, options or [[]])
    if first.worker:
        backbone_worker.main(first.worker, first.threads)
    else:
        with user_errors():
            run([first, *others])


def run(sets: list[argparse.Namespace]) -> None:
    """Prints a table for each case, and keeps the figures in the first set's ``--out``."""
    cases = [(case, args) for args in sets for case in make_cases(args)]
    out = Path(sets[0].out) if sets[0].out else None
    if out and not out.parent.is_dir():
        raise UserError(f"no folder {out.parent} for --out")
    print(machine(sets[0]), flush=True)
    records = []
    processes: dict[str, subprocess.Popen] = {}
    try:
        for case, args in cases:
            if case.device == "cpu":  # memory that a case leaves to the process would count as ours
                stop(processes)
            peers = [OURS, *(peer for peer in args.peers if peer != OURS)]
            results = compare(case, peers, args.runs, args.threads, processes)
            print(f"\n{markdown(case, results)}", flush=True)
            records.append(dict(asdict(case), results={k: asdict(v) for k, v in results.items()}))
            if out:
                out.write_text(json.dumps(dict(machine=machine(sets[0]), cases=records), indent=1))
    finally:
        stop(processes)


def make_cases(args: argparse.Namespace) -> list[Case]:
    """Every combination of the options."""
    if min(args.runs, *args.batch, args.threads) < 1:
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
        Case(arch, work, int(size[1]), int(size[2]), batch, precision, args.device)
        for arch, precision, size, batch, work in product(
            args.arch, args.precision, sizes, args.batch, args.work
        )
    ]


def compare(
    case: Case,
    peers: list[str],
    runs: int,
    threads: int,
    processes: dict[str, subprocess.Popen],
) -> dict[str, Measured]:
    """Has the peers' processes, started where they are missing, run a case in turn."""
    results = {peer: Measured() for peer in peers}
    for peer in (*peers, RATE):
        if peer not in processes:
            processes[peer] = start(peer, threads)
    with Progress(transient=True, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task(str(case), total=len(peers) * (runs + 1))
        for peer in peers:
            for key, value in ask(processes[peer], "prepare", case).items():
                setattr(results[peer], key, value)
            progress.advance(bar)
        for _, peer in product(range(runs), peers):
            if peer == OURS:
                rate = ask(processes[RATE], "rate", case).get("product")  # refused without memory
                results[OURS].products += [rate] if rate else []
            if not results[peer].refused:
                results[peer].add(**ask(processes[peer], "run", case))
            progress.advance(bar)
    check_equal(results)
    return results


def start(peer: str, threads: int) -> subprocess.Popen:
    """A peer's process, in which mmpvt has what its tools set."""
    variables = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if peer == OURS:
        share_processors(variables)
    return subprocess.Popen(
        [sys.executable, __file__, "--threads", str(threads), "--worker", peer],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=variables,
    )


def stop(processes: dict[str, subprocess.Popen]) -> None:
    """Ends the peers' processes."""
    while processes:
        _, process = processes.popitem()
        process.kill()
        process.wait()


def ask(process: subprocess.Popen, command: str, case: Case) -> dict:
    """Sends a process a command of ``backbone_worker``'s; returns its answer."""
    with suppress(BrokenPipeError):  # it has ended
        print(json.dumps((command, asdict(case))), file=process.stdin, flush=True)
    line = process.stdout.readline()
    return json.loads(line) if line else dict(refused=f"its process ended with {process.wait()}")


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
