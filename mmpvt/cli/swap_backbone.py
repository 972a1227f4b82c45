"""Puts PVT under an existing MMDetection or MMSegmentation config.

mmpvt swap mmdet::atss/atss_r50_fpn_1x_coco.py --arch small --out my_config.py
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from mmpvt.engine.cli import CONFIG, user_errors
from mmpvt.errors import OutputError
from mmpvt.utils.outputs import check_free
from mmpvt.utils.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", help=CONFIG)
    parser.add_argument("--arch", required=True, help="tiny … large, b0 … b5, b2_li")
    parser.add_argument("--out", metavar="FILE", help="where to write the config (default: print)")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument(
        "--part",
        metavar="NAME",
        help="which backbone, where there are several, such as teacher (default: the student's, "
        "the detector's)",
    )
    parser.add_argument("--keep-optimizer", action="store_true", help="leave the optimizer")


def run(args: argparse.Namespace) -> None:
    with user_errors():
        swap_config(args)


def swap_config(args: argparse.Namespace) -> None:
    from mmpvt.engine.config import read_config
    from mmpvt.swap import as_text, swap
    from mmpvt.utils.atomic import atomic_write

    out = check_out(Path(args.out), args.force, args.base) if args.out else None
    base = read_config(args.base)
    swapped = swap(base, args.arch, args.part, args.keep_optimizer)
    name = args.base
    if "::" not in name:
        name = os.path.relpath(base.filename, out.parent if out else ".")
    title = f"{Path(args.base.rpartition('::')[2]).stem} on {swapped.name}"
    text = as_text(base, swapped.config, name, title)
    if out:
        try:
            # within quotes: the same name
            atomic_write(out, text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise OutputError(f"{out} can't be written ({error.strerror})", where=out) from error
    else:
        print(text, end="")
    # what is printed may be piped into a file
    for change in swapped.changes:
        line = printable(f"{change.where}: {change.what}")
        print(line, file=sys.stdout if out else sys.stderr)
    if out:
        is_tool = Path(sys.argv[0]).stem == "swap_backbone"
        trains = "python tools/train.py" if is_tool else "mmpvt train"
        print(printable(f"wrote {out}; train it with: {trains} {out}"))


def check_out(out: Path, force: bool, base: str) -> Path:
    """``out``, or an OutputError if it is no config's name, exists, or is the base itself."""
    if out.suffix != ".py":
        raise OutputError(f"--out {out}: a config's name ends in .py")
    check_free(out, force, "out")
    if out.exists() and Path(base).exists() and out.samefile(base):
        raise OutputError(f"--out {out} is the base itself, which the new config inherits")
    return out
