"""Counts a model's parameters and multiply-adds, as the PVT papers do.

python tools/get_flops.py configs/gfl_pvt_v2_b2_fpn_3x_mstrain_fp16.py --shape 1280 800
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmengine.config import DictAction

import mmpvt.setup  # noqa: F401  before MMDetection is imported
from mmpvt.engine.cli import user_errors
from mmpvt.engine.config import load_config
from mmpvt.models import complexity
from mmpvt.models.data_preprocessor import input_channels


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("config", help="config file, or mmdet::… / mmseg::… for an installed one")
    parser.add_argument(
        "--shape",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="the image's sides in pixels (default: 1280 800 for a detector, 512 512 for a "
        "segmenter)",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="settings to override, such as model.backbone.arch=small",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        config = load_config(args.config, args.cfg_options)
        model = complexity.build_without_memory(config)
        shape = tuple(args.shape or complexity.default_shape(model))
        channels = input_channels(model.backbone)
        print(f"one image of {channels}x{shape[0]}x{shape[1]}, a multiply-add counted once")
        print_table(complexity.count(model, shape))


def print_table(costs: Sequence[complexity.ModuleCost]) -> None:
    """Each module's cost, and their sum."""
    width = max(len(cost.name) for cost in costs)
    print(f"{'':{width}}  parameters, M    GFLOPs")
    total = complexity.ModuleCost(
        "all", sum(cost.parameters for cost in costs), sum(cost.macs for cost in costs)
    )
    for cost in (*costs, total):
        print(f"{cost.name:{width}}  {cost.parameters / 1e6:13.2f}  {cost.macs / 1e9:8.2f}")


if __name__ == "__main__":
    main()
