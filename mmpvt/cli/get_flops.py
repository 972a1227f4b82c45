"""Counts a model's parameters and multiply-adds, as the PVT papers do.

mmpvt get-flops gfl_pvt_v2_b2_fpn_3x_mstrain_fp16 --shape 1280 800
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmpvt.engine.cli import CONFIG, add_cfg_options, user_errors

if TYPE_CHECKING:
    from mmpvt.models import complexity


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help=CONFIG)
    parser.add_argument(
        "--shape",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="the image's sides in pixels (default: 1280 800 for a detector, 512 512 for a "
        "segmenter, 224 224 for a classifier)",
    )
    add_cfg_options(parser, "model.backbone.arch=small")


def run(args: argparse.Namespace) -> None:
    with user_errors():
        from mmpvt.engine.config import load_config
        from mmpvt.models import complexity
        from mmpvt.models.data_preprocessor import input_channels

        config = load_config(args.config, args.cfg_options)
        model = complexity.build_without_memory(config)
        shape = tuple(args.shape or complexity.default_shape(model))
        channels = input_channels(model.backbone)
        print(f"one image of {channels}x{shape[0]}x{shape[1]}, a multiply-add counted once")
        print_table(complexity.count(model, shape))


def print_table(costs: Sequence[complexity.ModuleCost]) -> None:
    """Each module's cost, and their sum."""
    from mmpvt.models import complexity

    width = max(len(cost.name) for cost in costs)
    print(f"{'':{width}}  parameters, M    GFLOPs")
    total = complexity.ModuleCost(
        "all", sum(cost.parameters for cost in costs), sum(cost.macs for cost in costs)
    )
    for cost in (*costs, total):
        print(f"{cost.name:{width}}  {cost.parameters / 1e6:13.2f}  {cost.macs / 1e9:8.2f}")
