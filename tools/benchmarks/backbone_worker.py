"""A peer's process: builds a workload, runs it on command, and measures time and memory.

Commands come as lines on standard input and results go as JSON lines to standard output; whatever
libraries print is sent to standard error.
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


def main(case: Case, peer: str, threads: int) -> None:
    """Serves until standard input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(**fields: object) -> None:
        print(json.dumps(fields), file=replies, flush=True)

    torch.set_num_threads(threads)
    try:
        step, said = first_run(case, peer)
    except (UserError, RuntimeError) as error:  # PyTorch's own: a shape it can't take, no memory
        reply(refused=str(error).splitlines()[0])
        return
    reply(**said)
    for line in sys.stdin:
        seconds = time_once(step, case.device)
        reply(seconds=seconds, product=product_rate(case) if line.strip() == "rate" else None)


def first_run(case: Case, peer: str) -> tuple[Callable[[], object], dict]:
    """The work, done once, which allocates and chooses kernels; and what is known from it."""
    step = prepare(case, peer)
    gc.collect()
    meter = Meter(case.device)
    out = step()
    peak = meter.peak()
    norms = [o.float().norm().item() for o in out] if case.work == "forward" else []
    return step, dict(peak=peak, norms=norms)


def time_once(step: Callable[[], object], device: str) -> float:
    """Seconds that one run takes."""
    _wait(device)
    start = time.perf_counter()
    step()
    _wait(device)
    return time.perf_counter() - start


def product_rate(case: Case, side: int = 2048, runs: int = 5) -> float:
    """The machine's matrix-product rate in the case's precision, FLOP/s, the best of ``runs``."""
    side *= 4 if case.device == "cuda" else 1
    dtype = getattr(torch, case.precision)
    a, b = (torch.randn(side, side, device=case.device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / min(time_once(lambda: a @ b, case.device) for _ in range(runs))


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
