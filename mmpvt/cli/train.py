"""Trains a detector, segmenter or classifier.

mmpvt train retinanet_pvt_s_fpn_1x_coco --data-root data/coco
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from mmpvt.engine.choices import AMP_DTYPES, EMA_MOMENTUM, LOGGERS, REACTIONS
from mmpvt.engine.cli import (
    add_data_arguments,
    add_run_arguments,
    data_options_from,
    options_from,
    user_errors,
)
from mmpvt.utils.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    add_data_arguments(parser)
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
        help="checkpoint of a whole model to start from, of the same or other classes, or "
        "published (docs/own_data.md)",
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
        help="automatic mixed precision; on a CPU: bfloat16 (default: float16, for GPUs)",
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
    parser.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="how long to train; the schedule's milestones move in proportion",
    )
    parser.add_argument(
        "--freeze", type=int, metavar="N", help="don't train the backbone's first N stages"
    )
    parser.add_argument(
        "--early-stop",
        type=int,
        metavar="N",
        help="end after N validations in a row without a better score (mask or box AP, mIoU)",
    )
    parser.add_argument(
        "--ema",
        nargs="?",
        type=float,
        const=EMA_MOMENTUM,
        metavar="MOMENTUM",
        help="validate and save an exponential moving average of the weights (default: "
        f"{EMA_MOMENTUM} of the new ones, more in the first steps)",
    )
    parser.add_argument(
        "--val-loss", action="store_true", help="log the loss on the validation data, val/loss"
    )
    parser.add_argument(
        "--loggers",
        type=lambda names: names.split(","),
        default=(),
        metavar="NAME,…",
        help=f"write scalars for {', '.join(LOGGERS)}; TensorBoard's are written where it is "
        "installed",
    )


def run(args: argparse.Namespace) -> None:
    with user_errors(format="data_format"), ExitStack() as locks, ExitStack() as undo:
        from mmengine.dist import is_main_process
        from mmengine.runner import Runner

        from mmpvt.engine.config import load_config
        from mmpvt.engine.hooks.training import StartHook
        from mmpvt.engine.preparation import TrainOptions, prepare_training

        args.data = data_options_from(args)
        config = load_config(args.config, args.cfg_options, args.backbone)
        config = prepare_training(config, options_from(args, TrainOptions), locks, undo)
        runner = Runner.from_cfg(config)
        runner.register_hook(StartHook(undo), priority="LOWEST")
        runner.train()
        if args.data:
            from mmpvt.reproduction.run_report import report_on_training

            said = report_on_training(config)
            if is_main_process():
                print(printable(said))
