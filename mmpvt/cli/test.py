"""Evaluates a detector's, segmenter's or classifier's checkpoint.

mmpvt test retinanet_pvt_s_fpn_1x_coco CHECKPOINT --data-root data/coco
"""

from __future__ import annotations

import argparse

from mmpvt.engine.choices import AMP_DTYPES
from mmpvt.engine.cli import (
    AMP,
    CHECKPOINT,
    add_run_arguments,
    add_tile_arguments,
    options_from,
    user_errors,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("checkpoint", help=CHECKPOINT)
    parser.add_argument(
        "--out",
        metavar="PATH",
        help="keep the predictions: a .pkl file for a detector, a folder for a segmenter",
    )
    parser.add_argument("--force", action="store_true", help="overwrite the file of --out")
    parser.add_argument("--show-dir", metavar="DIR", help="draw every image into this folder")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    add_tile_arguments(parser)
    parser.add_argument("--amp", choices=AMP_DTYPES, help=AMP)


def run(args: argparse.Namespace) -> None:
    with user_errors():
        from mmengine.runner import Runner

        from mmpvt.engine.config import load_config
        from mmpvt.engine.preparation import TestOptions, prepare_test

        config = load_config(args.config, args.cfg_options)
        config = prepare_test(config, options_from(args, TestOptions))
        Runner.from_cfg(config).test()
