"""Serves a detector, segmenter or classifier to programs over HTTP, in batches.

mmpvt serve retinanet_pvt_s_fpn_1x_coco CHECKPOINT
curl --data-binary @photo.jpg -H "Content-Type: image/jpeg" http://127.0.0.1:8000/predict
"""

from __future__ import annotations

import argparse
import os

from mmpvt.engine.cli import CHECKPOINT, CONFIG, DEVICE, HOST, check_score, user_errors
from mmpvt.errors import UserError
from mmpvt.utils.constants import MAX_PIXELS, OPENCV_LIMIT, SCORE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help=CONFIG)
    parser.add_argument("checkpoint", help=CHECKPOINT)
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help=HOST,
    )
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    parser.add_argument("--device", help=DEVICE)
    parser.add_argument(
        "--batch",
        type=int,
        default=8,
        metavar="N",
        help="images of one prepared size at a time, at most (default: %(default)s)",
    )
    parser.add_argument(
        "--max-delay-ms",
        type=float,
        default=5.0,
        metavar="MS",
        help="milliseconds that an image waits for others of its size (default: %(default)g)",
    )
    parser.add_argument(
        "--queue",
        type=int,
        default=64,
        metavar="N",
        help="requests at a time; others get 503 at once (default: %(default)s)",
    )
    parser.add_argument(
        "--max-bytes",
        type=int,
        default=25 << 20,
        metavar="N",
        help="of an image file (default: %(default)s)",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=25_000_000,
        metavar="N",
        help="of an image (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=30.0,
        metavar="S",
        help="seconds in which an image has to arrive, and then to be answered "
        "(default: %(default)g)",
    )
    parser.add_argument(
        "--score",
        type=float,
        default=SCORE,
        help="instances below are not drawn; JSON holds all (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> None:
    os.environ[OPENCV_LIMIT] = str(args.max_pixels)
    with user_errors():
        from mmpvt.server.running import check_installed, serve
        from mmpvt.utils.sockets import listen_at

        check_score(args.score)
        for flag in ("batch", "queue", "max_bytes", "max_pixels"):
            if getattr(args, flag) < 1:
                name = UserError.name_setting(flag)
                raise UserError(f"{name} {getattr(args, flag)}: a number from 1 on")
        if args.max_pixels > MAX_PIXELS:
            raise UserError(f"--max-pixels {args.max_pixels}: {MAX_PIXELS} are decoded at most")
        if not 0 <= args.max_delay_ms < float("inf"):
            raise UserError(f"--max-delay-ms {args.max_delay_ms}: a number from 0 on")
        if not 0 < args.timeout < float("inf"):
            raise UserError(f"--timeout {args.timeout}: a number greater than 0")
        check_installed()
        with listen_at(args.host, args.port) as listening:
            from mmpvt.inference.predictor import Predictor
            from mmpvt.server.service import ServerOptions

            options = ServerOptions(
                score=args.score,
                batch_size=args.batch,
                max_delay=args.max_delay_ms / 1000,
                queue=args.queue,
                max_bytes=args.max_bytes,
                timeout=args.timeout,
            )
            serve(
                lambda: Predictor(args.config, args.checkpoint, args.device, args.max_pixels),
                listening,
                args.host,
                options,
            )
