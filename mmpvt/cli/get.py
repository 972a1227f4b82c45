"""Downloads data sets, weights, detectors.

mmpvt get coco --dir data/coco
"""

from __future__ import annotations

import argparse
from pathlib import Path
from threading import TIMEOUT_MAX

from mmpvt.engine.cli import user_errors
from mmpvt.utils.constants import DOWNLOADS
from mmpvt.utils.download import RetryPolicy
from mmpvt.utils.text import printable

FOLDERS = dict(coco="data/coco", ade20k="data/ade")  # where the configs look


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Download COCO 2017, ADE20K (SceneParse150), the published ImageNet weights or the "
        "RetinaNets with PVT that MMDetection published: complete, verified, unpacked. The same "
        "command resumes a download that was stopped."
    )
    parser.add_argument("what", choices=DOWNLOADS)
    parser.add_argument(
        "names",
        nargs="*",
        default=[],
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
        "--keep-archives", action="store_true", help="keep them in DIR/.download once unpacked"
    )
    parser.add_argument(
        "--timeout",
        type=_positive,
        default=RetryPolicy.timeout,
        metavar="SECONDS",
        help="without a byte, after which a connection is closed (default: %(default)g)",
    )
    parser.add_argument(
        "--retries",
        type=int,
        default=RetryPolicy.retries,
        metavar="N",
        help="how many in a row may bring nothing new (default: %(default)d)",
    )
    parser.add_argument(
        "--tries", type=lambda n: int(n) - 1, dest="retries", help=argparse.SUPPRESS
    )


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return value


def run(args: argparse.Namespace) -> None:
    with user_errors(on_interrupt="stopped: the same command resumes from there"):
        import torch

        from mmpvt.datasets.download import download_archives, download_weights
        from mmpvt.datasets.download.catalog import choose

        files = choose(args.what, args.names, args.mirror)
        policy = RetryPolicy(args.timeout, args.retries)
        if args.what in ("weights", "detectors"):
            folder = args.dir or Path(torch.hub.get_dir()) / "checkpoints"
            download_weights(files, folder, policy)
        else:
            folder = args.dir or Path(FOLDERS[args.what])
            download_archives(files, folder, policy, args.keep_archives)
        print(f"everything is in {printable(folder)}")
