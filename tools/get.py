"""Gets the data or the published ImageNet weights: python tools/get.py coco --dir data/coco"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch

import mmpvt.setup  # noqa: F401  before MMDetection is imported
from mmpvt.datasets.download import get_archives, get_weights
from mmpvt.datasets.download.sources import ARCHIVES, choose
from mmpvt.datasets.download.transfer import Patience
from mmpvt.engine.cli import user_errors
from mmpvt.utils.text import printable

FOLDERS = dict(coco="data/coco", ade20k="data/ade")  # where the configs look


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Get COCO 2017, ADE20K (SceneParse150) or the published ImageNet weights: "
        "whole, checked, unpacked. A download that was stopped goes on with the same command."
    )
    parser.add_argument("what", choices=[*ARCHIVES, "weights"])
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="some of it: val2017, annotations; pvt_small, pvt_v2_b2, … (default: all)",
    )
    parser.add_argument(
        "--dir",
        type=Path,
        help="the folder to fill (default: where training looks: data/coco, data/ade, PyTorch's "
        "hub folder)",
    )
    parser.add_argument(
        "--mirror", metavar="URL", help="a server that has the files, as URL/FILE (docs/data.md)"
    )
    parser.add_argument(
        "--keep-archives", action="store_true", help="keep them in DIR/.getting once unpacked"
    )
    parser.add_argument(
        "--timeout",
        type=_positive,
        default=Patience.timeout,
        metavar="SECONDS",
        help="without a byte, after which a connection is given up (default: %(default)g)",
    )
    parser.add_argument(
        "--tries",
        type=int,
        default=Patience.tries,
        metavar="N",
        help="connections in a row that may bring nothing (default: %(default)d)",
    )
    return parser.parse_args()


def _positive(text: str) -> float:
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds")
    return value


def main() -> None:
    args = parse_args()
    with user_errors(on_interrupt="stopped: the same command goes on from there"):
        sources = choose(args.what, args.names, args.mirror)
        patience = Patience(timeout=args.timeout, tries=args.tries)
        if args.what == "weights":
            folder = args.dir or Path(torch.hub.get_dir()) / "checkpoints"
            get_weights(sources, folder, patience)
        else:
            folder = args.dir or Path(FOLDERS[args.what])
            get_archives(sources, folder, patience, args.keep_archives)
        print(f"everything is in {printable(folder)}")


if __name__ == "__main__":
    main()
