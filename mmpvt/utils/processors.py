"""How many of a machine's processors a process may use.

``tools/run_onnx.py``, which imports nothing of this, has the same.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

OWN_GROUPS = Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")


def affine_processors() -> int:
    """How many processors the scheduler may put this process on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_processors() -> int:
    """How many processors this process may keep busy.

    Those of :func:`affine_processors`, but no more than the time that Linux's control groups grant
    (``docker run --cpus``, a CPU limit of Kubernetes), rounded up. Python and PyTorch don't look at
    those: they start a thread for each processor of the machine.
    """
    return max(1, min([affine_processors(), *map(math.ceil, _quotas())]))


def granted_processors() -> int | None:
    """:func:`usable_processors` where those are fewer than there are; None otherwise, for what
    chooses well by itself."""
    usable = usable_processors()
    return usable if usable < (os.cpu_count() or 1) else None


def _quotas() -> Iterator[float]:
    """The limits of this process' control groups and those above, in processors."""
    with suppress(OSError):
        for line in OWN_GROUPS.read_text(errors="surrogateescape").splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:  # version 2
                root, names = GROUPS, ["cpu.max"]
            elif "cpu" in controllers.split(","):
                root, names = GROUPS / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
            else:
                continue
            folder = root / path.lstrip("/")  # a container may see it as the root instead
            for place in (folder, *folder.parents):
                if place.is_relative_to(root):
                    yield from _quota(" ".join(_read(place / name) for name in names))


def _quota(text: str) -> Iterator[float]:
    with suppress(ValueError):  # "max", or no such files
        quota, period = map(int, text.split())
        if quota > 0 < period:  # -1 is no limit
            yield quota / period


def _read(path: Path) -> str:
    with suppress(OSError):
        return path.read_text()
    return ""
