"""Shows a detector or segmenter on a page on this machine, to be tried on images.

python tools/app.py configs/retinanet_pvt_s_fpn_1x_coco.py CHECKPOINT
"""

from __future__ import annotations

import argparse

import mmpvt.setup  # noqa: F401  before MMDetection is imported
from mmpvt.app import serving
from mmpvt.engine.cli import user_errors
from mmpvt.inference.predictor import Predictor


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("config", help="config file, or mmdet::… / mmseg::… for an installed one")
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument("--port", type=int, default=7860, help="default: %(default)s")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen at; 0.0.0.0 lets others in (default: %(default)s, this machine)",
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further host name that the page is opened under, behind a proxy, say; may be given "
        "several times",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 … (default: a GPU where there is one)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors("closed"), serving.private_folder():
        serving.check(args.host, args.port, args.allow_host)
        predictor = Predictor(args.config, args.checkpoint, args.device)
        serving.serve(predictor, args.config, args.host, args.port, args.allow_host)


if __name__ == "__main__":
    main()
