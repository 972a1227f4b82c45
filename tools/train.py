"""Trains a detector or segmenter.

python tools/train.py configs/retinanet_pvt_s_fpn_1x_coco.py --data-root data/coco
"""

from __future__ import annotations

import argparse

from mmengine.config import DictAction
from mmengine.runner import Runner

import mmpvt  # noqa: F401  registers the modules
from mmpvt.engine import settings
from mmpvt.engine.cli import user_errors
from mmpvt.engine.data_check import check_data
from mmpvt.engine.launch import LAUNCHERS, is_first_process, prepare_launcher


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("config", help="config file, or mmdet::… / mmseg::… for an installed one")
    parser.add_argument("--work-dir", help="where logs, checkpoints and pictures go")
    parser.add_argument("--data-root", metavar="DIR", help="the folder the data lies in")
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
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision")
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate with the batch that this machine makes up",
    )
    parser.add_argument("--seed", type=int, help="of every random draw")
    parser.add_argument("--deterministic", action="store_true", help="deterministic kernels only")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        metavar="KEY=VALUE",
        help="settings to override, such as train_dataloader.batch_size=4",
    )
    parser.add_argument("--launcher", choices=LAUNCHERS, default="none", help="job launcher")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors("interrupted; --resume goes on from the last checkpoint"):
        config = settings.load_config(args.config, args.cfg_options)
        if args.work_dir:
            config.work_dir = args.work_dir
        if args.data_root:
            settings.set_data_root(config, args.data_root)
        if args.pretrained:
            settings.set_pretrained(config, args.pretrained)
        if args.resume:
            settings.set_resume(config, args.resume)
        if args.amp:
            settings.set_amp(config)
        if args.auto_scale_lr:
            settings.set_auto_scale_lr(config)
        settings.set_randomness(config, args.seed, args.deterministic)
        if is_first_process():
            check_data(config, ("train", "val") if config.get("val_cfg") else ("train",))
        settings.make_work_dir(config)
        settings.name_broken_files(config)
        settings.add_tensorboard(config)
        settings.spare_amp_without_gpu(config)
        settings.add_hook(config, type="mmpvt.CheckpointFitHook", strict=bool(config.get("resume")))
        settings.add_hook(config, type="mmpvt.PicturesHook")
        prepare_launcher(config, args.launcher)
        Runner.from_cfg(config).train()


if __name__ == "__main__":
    main()
