"""Trains a detector or segmenter.

python tools/train.py configs/retinanet_pvt_s_fpn_1x_coco.py --data-root data/coco
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from mmengine.runner import Runner

import mmpvt.setup  # noqa: F401  before MMDetection is imported
from mmpvt.engine.cli import add_run_arguments, options_from, user_errors
from mmpvt.engine.config import load_config
from mmpvt.engine.hooks.divergence import REACTIONS
from mmpvt.engine.preparation import AMP_DTYPES, TrainOptions, prepare_training


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_run_arguments(parser)
    parser.add_argument(
        "--backbone",
        metavar="NAME",
        help="PVT to put in the place of the model's backbone: pvt_small, pvt_v2_b2, …",
    )
    parser.add_argument(
        "--pretrained",
        metavar="{FILE,URL,none}",
        help="backbone weights to start from, in any known layout (default: the config's)",
    )
    parser.add_argument(
        "--start-from",
        metavar="{FILE,URL,published}",
        help="checkpoint of a whole model to start from, of the same or other classes; published: "
        "MMDetection's for this config",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="checkpoint to resume from (default: the work directory's newest)",
    )
    parser.add_argument(
        "--amp",
        nargs="?",
        const="float16",
        choices=AMP_DTYPES,
        help="automatic mixed precision, on a GPU (default: float16)",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the backbone, for a GPU and images of few sizes (docs/performance.md)",
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate with the batch that this machine makes up",
    )
    parser.add_argument(
        "--on-nan",
        choices=REACTIONS,
        default="stop",
        help="where the loss or a gradient is NaN or Inf: end the run, or skip the step",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors(), ExitStack() as locks:
        config = load_config(args.config, args.cfg_options, args.backbone)
        config = prepare_training(config, options_from(args, TrainOptions), locks)
        Runner.from_cfg(config).train()


if __name__ == "__main__":
    main()
