"""Converts annotated images to another format.

mmpvt convert-dataset IN OUT --to coco
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from mmpvt.engine.choices import ON_BAD_DATA
from mmpvt.engine.cli import user_errors
from mmpvt.errors import OutputError
from mmpvt.utils.constants import FORMATS, WRITTEN_FORMATS
from mmpvt.utils.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Copy a data set in COCO's, Pascal VOC's, YOLO's, LabelMe's or CVAT's format, or of label "
        "maps, to another format. The data set itself stays as it is."
    )
    parser.add_argument(
        "source", metavar="IN", help="a folder, .zip, data.yaml, .json or .xml: the data set"
    )
    parser.add_argument("out", metavar="OUT", type=Path, help="a new folder")
    parser.add_argument("--to", required=True, choices=WRITTEN_FORMATS, help="the format to write")
    parser.add_argument(
        "--format", choices=FORMATS, help="of the data set (default: recognised by what is there)"
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME",
        help="of label maps, in the order of their values; of other formats, those to take",
    )
    parser.add_argument(
        "--val-fraction",
        type=float,
        metavar="F",
        help="make a validation split of this part of the images where there is none",
    )
    parser.add_argument(
        "--test-fraction", type=float, default=0.0, metavar="F", help="and a test split"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, another split")
    parser.add_argument(
        "--keep-empty",
        action="store_true",
        help="take images without annotations as images without objects",
    )
    parser.add_argument(
        "--on-bad-data",
        choices=ON_BAD_DATA,
        default="auto",
        help="annotations and images that can't be used: end with an error (auto, stop), or skip "
        "them and say how many",
    )


def run(args: argparse.Namespace) -> None:
    with user_errors(on_interrupt="interrupted; nothing was written"):
        from mmpvt.datasets.formats import open_dataset

        if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
            raise OutputError(f"{args.out} exists", where=args.out, hint="name a new folder")
        source = Path(args.source).resolve()
        if source.is_dir() and args.out.resolve().is_relative_to(source):
            raise OutputError(
                f"{args.out} lies in {args.source}, whose data it would be part of",
                where=args.out,
                hint="name a folder outside of it",
            )
        with tempfile.TemporaryDirectory(prefix="mmpvt-") as folder:
            opened = open_dataset(
                args.source,
                format=args.format,
                classes=args.classes,
                unpack_to=Path(folder) / "data",
                task="semantic" if args.to == "masks" else None,
                keep_empty=args.keep_empty,
                on_bad_data=args.on_bad_data,
            )
            logged = len(opened.notes)
            if args.val_fraction or args.test_fraction:
                opened = opened.split(args.val_fraction or 0.0, args.seed, args.test_fraction)
            for sentence in (opened.describe(), *opened.notes[logged:]):
                print(printable(sentence))
            out = opened.write(args.out, args.to)
        print(printable(f"{out}: {args.to}"))
