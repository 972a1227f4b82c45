"""Memory does not grow with the iterations."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest


def own_memory(pid: int) -> int:
    """Kilobytes of a process and of those it started, shared ones counted once.

    Without the files mapped into memory (libraries, that is), whose pages other processes of the
    machine share, and so count less or more as those come and go.
    """
    total = 0
    for process in (pid, *children(pid)):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            total += int(line.split()[1]) if line.startswith(("Pss_Anon:", "Pss_Shmem:")) else 0
    return total


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.full
def test_memory_stays_flat(tmp_path: Path, shapes: Path, tiny_config: Path, start_tool):
    work = tmp_path / "work"
    process = start_tool(
        "train.py",
        *(tiny_config, "--data-root", shapes, "--work-dir", work, "--cfg-options"),
        *("train_cfg.max_epochs=500", "train_cfg.val_interval=1000"),
        *("default_hooks.checkpoint.interval=100", "default_hooks.checkpoint.max_keep_ckpts=1"),
        copied=False,
    )
    measured = {}
    for epoch in range(110, 500, 26):  # none of them one that ends with a checkpoint
        line = re.compile(rf"Epoch\(train\) +\[ *{epoch}\]\[4/4\]")
        process.wait_for(lambda line=line: line.search(process.text), timeout=1800, pause=0.5)
        measured[4 * epoch] = own_memory(process.pid)
    print("iterations: MB", {iteration: kb // 1000 for iteration, kb in measured.items()})
    first, *later = measured.values()
    assert max(later) < 1.02 * first, measured
    assert process.wait() == 0, process.text[-2000:]
    (scalars,) = work.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    assert sum("loss" in line for line in lines) == 2000
