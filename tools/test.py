"""Evaluates a detector's or segmenter's checkpoint.

python tools/test.py configs/retinanet_pvt_s_fpn_1x_coco.py CHECKPOINT --data-root data/coco
"""

from __future__ import annotations

import argparse

from mmengine.runner import Runner

import mmpvt.setup  # noqa: F401  before MMDetection is imported
from mmpvt.engine import reliable, settings
from mmpvt.engine.checks import check_data, check_pixels, keep_inside
from mmpvt.engine.cli import add_run_arguments, user_errors
from mmpvt.engine.hooks.skipped_data import leave_out_unusable_annotations
from mmpvt.engine.launch import is_first_process, prepare_launcher
from mmpvt.utils.outputs import Outputs


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add_run_arguments(parser)
    parser.add_argument("checkpoint", help="checkpoint file or address")
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
        config = settings.from_arguments(args)
        settings.set_checkpoint(config, args.checkpoint)
        if args.out:
            settings.set_out(config, args.out, args.force)
        if args.show_dir:
            Outputs(args.show_dir, "show_dir").check_folder()
        contents = check_data(config, ("test",)) if is_first_process() else {}
        if is_first_process():
            check_pixels(config, ("test",), contents)
        settings.make_work_dir(config)
        leave_out_unusable_annotations(config, ("test",), args.on_bad_data, contents)
        settings.set_coco_metric(config)
        if args.tta:
            settings.set_tta(config)
        settings.name_broken_files(config)  # of the pipeline of --tta, too
        keep_inside(config)
        reliable.shield_workers(config)
        settings.add_hook(config, type="mmpvt.CheckpointFitHook")
        settings.add_hook(config, type="mmpvt.PicturesHook", show_dir=args.show_dir)
        settings.add_hook(config, type="mmpvt.InterruptHook")
        prepare_launcher(config, args.launcher, trains=False)
        Runner.from_cfg(config).test()


if __name__ == "__main__":
    main()
