"""Functions that the tests share."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.utils import ManagerMixin

from mmpvt.models import PyramidVisionTransformer, PyramidVisionTransformerV2
from mmpvt.models.backbone import PyramidBackbone

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
DATA = Path(__file__).parent / "data"


def need(path: Path) -> Path:
    """The path, or the test is skipped where the shared folder isn't there."""
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    return path


def build_backbone(name: str, **kwargs) -> PyramidBackbone:
    """A backbone by its published name: ``pvt_small``, ``pvt_v2_b2_li``."""
    if name.startswith("pvt_v2_"):
        return PyramidVisionTransformerV2(name.removeprefix("pvt_v2_"), **kwargs)
    return PyramidVisionTransformer(name.removeprefix("pvt_"), **kwargs)


def relative(ours: torch.Tensor | np.ndarray, theirs: torch.Tensor | np.ndarray) -> float:
    """Norm of the difference over norm."""
    ours, theirs = (np.asarray(torch.as_tensor(x).detach()) for x in (ours, theirs))
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@dataclass
class Ended:
    """How a tool ended."""

    code: int
    out: str
    err: str

    def one_sentence(self) -> str:
        """The error it printed, made sure to be one line, without a traceback, with code 2."""
        assert self.code == 2, self.out + self.err
        assert "Traceback" not in self.out + self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert self.err.rstrip().endswith(lines[0]), self.err
        return lines[0]


def forget_runs() -> None:
    """Drops the scopes, loggers and visualizers of runs within this process.

    MMEngine finds them again by a name that ends in the second a run started: the next run within
    that second would log to a stream that is closed by now.
    """
    kinds = [ManagerMixin]
    for kind in kinds:
        kind._instance_dict.clear()
        kinds.extend(kind.__subclasses__())


def environment() -> dict[str, str]:
    """Of a tool run as a process: this checkout first, one thread."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def command(tool: str, *args: object) -> list[str]:
    """The command line of ``tools/TOOL``."""
    return [sys.executable, str(ROOT / "tools" / tool), *map(str, args)]
