"""Evaluates a detector's or segmenter's checkpoint.

python tools/test.py configs/retinanet_pvt_s_fpn_1x_coco.py CHECKPOINT --data-root data/coco
"""

from __future__ import annotations

import argparse

from mmengine.runner import Runner

import mmpvt.setup  # noqa: F401  before MMDetection is imported
from mmpvt.engine.cli import add_run_arguments, options_from, user_errors
from mmpvt.engine.config import load_config
from mmpvt.engine.preparation import TestOptions, prepare_test


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_run_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument(
        "--out",
        metavar="PATH",
        help="keep the predictions: a .pkl file for a detector, a folder for a segmenter",
    )
    parser.add_argument("--force", action="store_true", help="overwrite the file of --out")
    parser.add_argument("--show-dir", metavar="DIR", help="draw every image into this folder")
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        config = load_config(args.config, args.cfg_options)
        config = prepare_test(config, options_from(args, TestOptions))
        Runner.from_cfg(config).test()


if __name__ == "__main__":
    main()
