"""Tests a checkpoint and writes a page on it: curves, classes, confusions, errors, data.

mmpvt report retinanet_pvt_v2_b0_fpn_shapes work_dirs/shapes/epoch_10.pth
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmpvt.engine.cli import CHECKPOINT, add_run_arguments, options_from, user_errors
from mmpvt.errors import ConfigError
from mmpvt.utils.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run_arguments(parser)
    parser.add_argument("checkpoint", help=CHECKPOINT)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="of the report (default: report/ in the work dir)",
    )
    parser.add_argument(
        "--logs",
        type=Path,
        metavar="DIR",
        help="work directory of the training, for its curves (default: the checkpoint's folder)",
    )
    parser.add_argument(
        "--pictures", type=int, metavar="N", default=24, help="images shown (default: %(default)s)"
    )


def check_page_options(args: argparse.Namespace) -> None:
    """Raises a ConfigError where ``--pictures`` or ``--logs`` has a value that can't be used."""
    if args.pictures < 0:
        raise ConfigError(f"{args.pictures} is not at least 0", setting="pictures")
    if args.logs and not args.logs.is_dir():
        raise ConfigError(f"there is no folder {args.logs}", setting="logs")


def run(args: argparse.Namespace) -> None:
    with user_errors():
        from mmpvt.engine.config import load_config
        from mmpvt.engine.launch import is_first_process
        from mmpvt.engine.preparation import TestOptions
        from mmpvt.reproduction.run_report import FOLDER, write_run_report

        check_page_options(args)
        config = load_config(args.config, args.cfg_options)
        out = args.out or Path(args.work_dir or config.work_dir, FOLDER)
        args.out = None
        options = options_from(args, TestOptions)
        page = write_run_report(config, options, out, args.logs, args.pictures)
        if is_first_process():
            print(f"the report is {printable(page)}")
