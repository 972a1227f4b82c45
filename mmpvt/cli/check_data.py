"""Inspects all of a config's data.

mmpvt check-data CONFIG --data-root data/coco
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from mmpvt.engine.choices import ON_BAD_DATA
from mmpvt.engine.cli import (
    CONFIG,
    FAILURE,
    add_cfg_options,
    add_data_arguments,
    check_workers,
    data_options_from,
    user_errors,
)
from mmpvt.engine.config_parts import SPLITS
from mmpvt.utils.outputs import Outputs
from mmpvt.utils.processors import usable_processors
from mmpvt.utils.text import counted, printable, to_json

PICTURE, LISTING = "data.png", "data.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Decode every file of a config's data sets and check every annotation; say what is wrong, "
        "and draw a summary."
    )
    parser.epilog = "Exit code 0: all is well; 1: there are errors; 2: there is no data to inspect."
    parser.add_argument("config", help=CONFIG)
    add_data_arguments(parser)
    parser.add_argument(
        "--on-bad-data",
        choices=ON_BAD_DATA,
        default="auto",
        help="annotations of --data that can't be used: end with an error (auto, stop), or skip "
        "them and say how many",
    )
    parser.add_argument("--data-root", metavar="DIR", help="the folder the data lies in")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where data.png and data.json go (default: the config's work directory)",
    )
    parser.add_argument(
        "--splits", nargs="+", choices=SPLITS, default=SPLITS, help="which (default: all)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=min(16, usable_processors()),
        metavar="N",
        help="processes that decode files (default: %(default)d)",
    )
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> int:
    with user_errors("interrupted; nothing was written", format="data_format"):
        from mmpvt.engine.config import load_config, make_work_dir, set_data_root
        from mmpvt.engine.own_data import use_own_data
        from mmpvt.inspection import compare, describe, draw, inspect_datasets

        check_workers(args.workers)
        data = data_options_from(args)
        config = load_config(args.config, args.cfg_options)
        if args.data_root:
            set_data_root(config, args.data_root)
        if args.out:
            config.work_dir = str(args.out)
        out = Outputs(config.work_dir)
        out.check(PICTURE, LISTING)
        if data:
            with ExitStack() as undo:
                config = use_own_data(config, data, undo, args.cfg_options, args.on_bad_data)
                undo.pop_all()
        reports = inspect_datasets(config, args.splits, max(1, args.workers))
        compare(reports)
        print(describe(reports))
        make_work_dir(config)
        picture = out.write(PICTURE, draw(reports))
        found = [
            dict(data=one.name, place=one.place, errors=one.errors, notes=one.notes)
            for one in reports
        ]
        listing = out.write(LISTING, to_json(found, indent=1))
        number = sum(len(said) for one in reports for said in one.errors.values())
        print(printable(f"summary: {picture}; all that was found: {listing}"))
        print(counted(number, "error") if number else "all is well")
    return FAILURE if number else 0
