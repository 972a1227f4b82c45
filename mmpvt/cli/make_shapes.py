"""Writes the built-in shapes data set.

mmpvt make-shapes data/shapes
"""

from __future__ import annotations

import argparse
import json

from mmpvt.datasets import shapes
from mmpvt.datasets.shapes_drawing import CLASSES
from mmpvt.engine.cli import user_errors
from mmpvt.utils.text import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write the built-in shapes data set, in COCO's and in ADE20K's layout."
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("root", help="the folder to write")
    parser.add_argument(
        "--train", dest="num_train", type=int, metavar="N", help="images to train on"
    )
    parser.add_argument(
        "--val", dest="num_val", type=int, metavar="N", help="images to validate on"
    )
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("LO", "HI"), help="shortest and longest side, pixels"
    )
    parser.add_argument("--seed", type=int, metavar="S", help="another seed, another data set")
    parser.add_argument(
        "--classification",
        action="store_true",
        help="one shape an image, in ImageNet's layout: a folder a class",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace a shapes data set of other settings"
    )
    parser.set_defaults(**(shapes.generate.__kwdefaults__ or {}))


def run(args: argparse.Namespace) -> None:
    with user_errors(on_interrupt="interrupted; nothing was written"):
        root = shapes.generate(**vars(args))
        settings = json.loads((root / "shapes.json").read_text())
        print(
            f"{printable(root)}: {settings['train']} training and {settings['val']} validation "
            f"images of {len(CLASSES)} classes"
        )
