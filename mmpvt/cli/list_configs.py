"""Lists the configs that come with mmpvt, and what the papers report of them.

mmpvt list retinanet v2
"""

from __future__ import annotations

import argparse

from mmpvt.engine.cli import user_errors
from mmpvt.engine.zoo import ZooEntry, read_zoo
from mmpvt.errors import ConfigError

NOTE = """\
AP, mIoU, accuracy in percent, as published: targets of a training, not results of this project's.
GFLOPs: multiply-adds, counted once. Where a checkpoint is published, by MMDetection or the papers'
authors, CHECKPOINT can be the word published.\
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "words", nargs="*", metavar="WORD", help="that the name or the data set holds, all of them"
    )


def run(args: argparse.Namespace) -> None:
    with user_errors():
        words = [word.lower() for word in args.words]
        found = [
            entry
            for entry in read_zoo()
            if all(word in f"{entry.name} {entry.dataset}".lower() for word in words)
        ]
        if not found:
            raise ConfigError(f"no config's name holds {' and '.join(args.words)}")
        head = ("config", "published figures", "params, M", "GFLOPs", "checkpoint")
        rows = [head, *map(row, found)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for cells in rows:
            aligned = [cells[0].ljust(widths[0]), cells[1].ljust(widths[1])]
            aligned += [cells[i].rjust(widths[i]) for i in (2, 3)]
            print("  ".join([*aligned, cells[4]]).rstrip())
        if any(entry.parameters for entry in found):
            print(f"\n{NOTE}")


def row(entry: ZooEntry) -> tuple[str, ...]:
    """A config's line."""
    scores = ", ".join(f"{name} {value:.1f}" for name, value in (entry.scores or {}).items())
    return (
        entry.name,
        f"{scores} on {entry.dataset}" if scores else "-",
        f"{entry.parameters / 1e6:.1f}" if entry.parameters else "-",
        f"{entry.macs / 1e9:.3g}" if entry.macs else "-",
        "published" if entry.weights else "",
    )
