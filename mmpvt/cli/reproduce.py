"""Tests published checkpoints and reports what came out beside what the papers say.

mmpvt reproduce --checkpoints DIR --coco data/coco --ade data/ade/ADEChallengeData2016 --out report
"""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from mmpvt.cli.report import check_page_options
from mmpvt.engine.choices import LAUNCHERS
from mmpvt.engine.cli import FAILURE, setting, user_errors
from mmpvt.errors import Interrupted
from mmpvt.utils.signals import handle
from mmpvt.utils.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Exit code: 0 if every checkpoint that has a config was tested, 1 if one failed, 2 for a "
        "mistake on the command line. The same command resumes where it was stopped."
    )
    parser.add_argument(
        "--checkpoints", type=Path, metavar="DIR", required=True, help="searched recursively"
    )
    parser.add_argument("--coco", metavar="DIR", help="COCO 2017 (default: where configs say)")
    parser.add_argument("--ade", metavar="DIR", help="ADEChallengeData2016 (default: as above)")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="of the report")
    parser.add_argument(
        "--map",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=CONFIG",
        help="configs of checkpoints whose names don't tell, or tell another one",
    )
    parser.add_argument(
        "--logs", type=Path, metavar="DIR", help="training logs or work directories, for curves"
    )
    parser.add_argument(
        "--pictures", type=int, metavar="N", default=24, help="of a model (default: %(default)s)"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        type=setting,
        default=[],
        metavar="KEY=VALUE",
        help="settings to override in all configs, such as test_dataloader.num_workers=8",
    )
    parser.add_argument("--launcher", choices=LAUNCHERS, default="none", help="job launcher")
    parser.add_argument("--device", metavar="{cpu,cuda,cuda:N}", help="default: a GPU if there is")


def stop(number: int, frame: object) -> None:
    """Ends the running test, too."""
    raise Interrupted(number)


def run(args: argparse.Namespace) -> int:
    handle(signal.SIGTERM, stop)
    with user_errors("interrupted; the same command resumes from here"):
        from mmpvt.engine.launch import check_launcher, is_first_process
        from mmpvt.engine.zoo import files_folder
        from mmpvt.reproduction import (
            ReproduceOptions,
            check_device,
            find_checkpoints,
            parse_map,
            read_published,
            reproduce,
        )

        check_launcher(args.launcher)
        check_device(args.device)
        check_page_options(args)
        root = files_folder()
        zoo = read_published(root)
        checkpoints = find_checkpoints(
            args.checkpoints,
            {name: path for name, (path, _) in zoo.items()},
            parse_map(args.map),
        )
        options = ReproduceOptions(
            tool=root / "tools" / "test.py",
            out=args.out,
            published={name: record for name, (_, record) in zoo.items()},
            roots=dict(coco=args.coco, ade=args.ade),
            logs=args.logs,
            max_images=args.pictures,
            cfg_options=args.cfg_options,
            launcher=args.launcher,
            device=args.device,
        )
        records = reproduce(options, checkpoints)
        if is_first_process():
            print(f"the report is {printable(args.out / 'index.html')}")
        return FAILURE if any(record["status"] == "failed" for record in records) else 0
    return 0
