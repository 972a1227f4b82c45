"""Results as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers import mmpvt
from benchmarks.workloads import Case

OURS = "mmpvt"
PASSES = {"forward": 1, "forward+backward": 3}  # the backward pass takes each product twice


@dataclass
class Measured:
    """What one peer gave.

    Attributes:
        seconds: of each run.
        peak: memory over that at the start, bytes; None where it can't be had.
        norms: of the maps, to compare with another peer's.
        products: the machine's matrix-product rate, FLOP/s, beside each run.
        refused: why there is nothing else, if so.
    """

    seconds: list[float] = field(default_factory=list)
    peak: int | None = None
    norms: list[float] = field(default_factory=list)
    products: list[float] = field(default_factory=list)
    refused: str | None = None

    def add(self, seconds: float = 0.0, refused: str | None = None) -> None:
        """Takes what a run gave."""
        if refused:
            self.refused = refused
            self.seconds.clear()
        else:
            self.seconds.append(seconds)


def operations(case: Case) -> int:
    """Multiplications and additions of a backbone's run, attention's included, recomputed not."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counted:
        mmpvt(case.arch).eval()(torch.empty(case.batch, 3, case.height, case.width))
    return counted.get_total_flops() * PASSES[case.work]


def markdown(case: Case, results: Mapping[str, Measured]) -> str:
    """One case's table.

    Args:
        case (Case): what was run.
        results (Mapping[str, Measured]): by peer, ours among them.

    Returns:
        str: a heading, the table, and a line on the machine's own rate where it applies.
    """
    ours = results[OURS]
    lines = [
        f"### {case}",
        "",
        "| | median, s | least, s | most, s | mmpvt is faster | peak memory, MB | mmpvt's share |",
        "|---|---|---|---|---|---|---|",
    ]
    for peer, result in results.items():
        if result.refused:
            lines.append(f"| {peer} | {result.refused} | | | | | |")
            continue
        time = median(result.seconds)
        ratio = f"{_ratio(result.seconds, ours.seconds):.2f} x" if ours.seconds else ""
        lines.append(
            f"| {peer} | {time:.3g} | {min(result.seconds):.3g} | {max(result.seconds):.3g} "
            f"| {ratio} | {_megabytes(result.peak)} | {_share(ours.peak, result.peak)} |"
        )
    if ours.products and case.work in PASSES:
        count, product = operations(case), median(ours.products)
        share = count / median(ours.seconds) / product
        lines += [
            "",
            f"{count / 1e9:.0f} GFLOP: {share:.2f} of the rate of PyTorch's matrix product here, "
            f"{product / 1e9:.0f} GFLOP/s.",
        ]
    return "\n".join(lines)


def _ratio(theirs: list[float], ours: list[float]) -> float:
    """The median over the rounds, in each of which both ran one after the other."""
    return median(t / o for t, o in zip(theirs, ours, strict=True))


def _megabytes(peak: int | None) -> str:
    return "" if peak is None else f"{peak / 1e6:.0f}"


def _share(ours: int | None, theirs: int | None) -> str:
    return f"{ours / theirs:.2f}" if ours and theirs else ""
