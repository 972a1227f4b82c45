"""Shows a detector, segmenter or classifier on a page on this machine.

mmpvt app retinanet_pvt_s_fpn_1x_coco CHECKPOINT
"""

from __future__ import annotations

import argparse
import os

from mmpvt.engine.cli import CHECKPOINT, CONFIG, DEVICE, HOST, user_errors
from mmpvt.utils.constants import MAX_PAGE_PIXELS, OPENCV_LIMIT


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help=CONFIG)
    parser.add_argument("checkpoint", help=CHECKPOINT)
    parser.add_argument("--port", type=int, default=7860, help="default: %(default)s")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help=HOST,
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further host name that the page is opened under, behind a proxy, say; may be given "
        "several times",
    )
    parser.add_argument("--device", help=DEVICE)


def run(args: argparse.Namespace) -> None:
    os.environ[OPENCV_LIMIT] = str(MAX_PAGE_PIXELS)
    with user_errors("closed"):
        from mmpvt.app import serving
        from mmpvt.inference.predictor import Predictor

        with serving.private_folder():
            serving.check(args.host, args.port, args.allow_host)
            predictor = Predictor(args.config, args.checkpoint, args.device)
            serving.serve(predictor, args.config, args.host, args.port, args.allow_host)
