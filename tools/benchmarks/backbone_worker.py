"""A peer's process: builds a workload, runs it on command, and measures time and memory.

Commands come as JSON lines on standard input and results go as JSON lines to standard output;
whatever libraries print is sent to standard error.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.workloads import Case, prepare
from mmpvt.errors import UserError

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

# On a GPU, where a run can be shorter than what it takes to start and end a measurement:
MEASUREMENT = 0.1  # seconds that it shall take
MOST_REPEATS = 50

PAUSE = 0.05  # seconds before a run: idle threads of the peer before it spin for a while (OpenMP)


def main(peer: str, threads: int) -> None:
    """Serves until standard input ends. A command is a word and a case: ``prepare``, then as many
    runs as are asked for; or ``rate``, of a process of its own, as its memory is not the peer's."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(threads)
    step: Callable[[], object] | None = None
    for line in sys.stdin:
        command, fields = json.loads(line)
        case = Case(**fields)
        try:
            if command == "rate":
                said = dict(product=product_rate(case))
            elif command == "prepare":
                step = None  # its memory is the next case's
                step, repeats, said = first_runs(case, peer)
            else:
                if case.device == "cpu":
                    time.sleep(PAUSE)
                said = dict(seconds=time_runs(step, case.device, repeats))
        except (UserError, RuntimeError) as error:  # PyTorch's own: a shape, no memory
            said = dict(refused=str(error).splitlines()[0].split(". ")[0])
        print(json.dumps(said), file=replies, flush=True)


def first_runs(case: Case, peer: str) -> tuple[Callable[[], object], int, dict]:
    """The work, done so often that memory is allocated and kernels are chosen.

    Returns:
        tuple: the work; how many times to run it for one measurement; and what is known from it.
    """
    gc.collect()
    if peer.startswith("compiled"):
        torch.compiler.reset()
    step = prepare(case, peer)
    gc.collect()
    meter = Meter(case.device)
    out = step()
    said = dict(
        peak=meter.peak(),
        norms=[o.float().norm().item() for o in out] if case.work == "forward" else [],
    )
    del out
    if case.device == "cpu":
        return step, 1, said
    seconds = time_runs(step, case.device)
    return step, max(1, min(MOST_REPEATS, round(MEASUREMENT / seconds))), said


def time_runs(step: Callable[[], object], device: str, repeats: int = 1) -> float:
    """Seconds that one run takes: the mean of ``repeats`` without a wait between them.

    On a GPU a run before them takes the memory, which others have afterwards.
    """
    if device == "cuda":
        step()
    _wait(device)
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    _wait(device)
    seconds = (time.perf_counter() - start) / repeats
    if device == "cuda":
        torch.cuda.empty_cache()
    return seconds


def product_rate(case: Case, side: int = 2048, runs: int = 5) -> float:
    """The machine's matrix-product rate in the case's precision, FLOP/s, the best of ``runs``."""
    side *= 4 if case.device == "cuda" else 1
    dtype = getattr(torch, case.precision)
    a, b = (torch.randn(side, side, device=case.device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / min(time_runs(lambda: a @ b, case.device) for _ in range(runs))


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


class Meter:
    """The highest memory use since it was made, over that at the start."""

    def __init__(self, device: str) -> None:
        self.device = device
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
        elif CLEAR.exists():
            CLEAR.write_text("5")  # the high-water mark starts anew
            self.start = self._status("VmRSS")

    def peak(self) -> int | None:
        """Bytes; None where the system doesn't tell (Linux and CUDA do)."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated() - self.start
        return self._status("VmHWM") - self.start if CLEAR.exists() else None

    @staticmethod
    def _status(field: str) -> int:
        line = next(x for x in STATUS.read_text().splitlines() if x.startswith(field))
        return int(line.split()[1]) * 1024
