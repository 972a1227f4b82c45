"""Trains a detector or segmenter.

python tools/train.py configs/retinanet_pvt_s_fpn_1x_coco.py --data-root data/coco
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from mmengine.runner import Runner

import mmpvt.setup  # noqa: F401  before MMDetection is imported
from mmpvt.engine import reliable, settings, speed
from mmpvt.engine.checks import check_data, check_pixels, keep_inside
from mmpvt.engine.cli import add_run_arguments, user_errors
from mmpvt.engine.hooks.divergence import REACTIONS
from mmpvt.engine.hooks.skipped_data import leave_out_unusable_annotations
from mmpvt.engine.launch import is_first_process, prepare_launcher
from mmpvt.utils.locking import locked


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
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on with a run that was stopped (default: the work directory's newest)",
    )
    parser.add_argument(
        "--amp",
        nargs="?",
        const="float16",
        choices=speed.AMP_DTYPES,
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
        help="where the loss or a gradient is no number: end the run, or leave the batch out",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors(), ExitStack() as stack:
        config = settings.from_arguments(args)
        is_new = not Path(config.work_dir).is_dir()
        if is_first_process() and not is_new:  # before the newest checkpoint is looked for
            stack.enter_context(locked(config.work_dir, "work_dir"))
        if args.pretrained:
            settings.set_pretrained(config, args.pretrained)
        if args.resume:
            settings.set_resume(config, args.resume)
        if args.amp:
            speed.set_amp(config, args.amp)
        if args.auto_scale_lr:
            settings.set_auto_scale_lr(config)
        splits = ("train", "val") if config.get("val_cfg") else ("train",)
        contents = check_data(config, splits) if is_first_process() else {}
        if is_first_process():
            check_pixels(config, splits, contents)
        settings.make_work_dir(config)
        if is_first_process() and is_new:
            stack.enter_context(locked(config.work_dir, "work_dir"))
        leave_out_unusable_annotations(config, splits, args.on_bad_data, contents)
        settings.name_broken_files(config)
        keep_inside(config)
        settings.set_coco_metric(config)
        settings.add_tensorboard(config)
        speed.spare_amp_without_gpu(config)
        speed.fuse_optimizer(config)
        reliable.make_resumable(config, args.on_bad_data)
        reliable.keep_checkpoints(config)
        reliable.shield_workers(config)
        if args.compile:
            settings.add_hook(config, type="mmpvt.CompileHook")
        resume = bool(config.get("resume"))
        settings.add_hook(config, type="mmpvt.CheckpointFitHook", strict=resume, resume=resume)
        settings.add_hook(config, type="mmpvt.DivergenceHook", on_nan=args.on_nan)
        settings.add_hook(config, type="mmpvt.PicturesHook")
        settings.add_hook(config, type="mmpvt.InterruptHook")
        prepare_launcher(config, args.launcher)
        Runner.from_cfg(config).train()


if __name__ == "__main__":
    main()
