"""Writes a detector or segmenter as one ONNX file, which tools/run_onnx.py runs without PyTorch.

mmpvt export retinanet_pvt_s_fpn_1x_coco CHECKPOINT --out model.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mmengine.config import Config, DictAction

from mmpvt.engine.cli import CHECKPOINT, CONFIG, user_errors
from mmpvt.errors import UserError
from mmpvt.utils.outputs import check_free

if TYPE_CHECKING:
    import numpy as np

PACKAGES = ("onnx", "onnxscript", "onnx_ir", "onnxruntime")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help=CONFIG)
    parser.add_argument("checkpoint", help=CHECKPOINT)
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="model.onnx")
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--shape",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="fit every image into one size; the rest of it is padding",
    )
    size.add_argument(
        "--dynamic",
        action="store_true",
        help="the sizes that the config's test pipeline gives images (the default)",
    )
    small = parser.add_mutually_exclusive_group()
    small.add_argument("--fp16", action="store_true", help="layers in float16, for a GPU")
    small.add_argument(
        "--int8",
        nargs="+",
        type=Path,
        metavar="IMAGE",
        help="layers in int8, calibrated on these images or folders of images",
    )
    parser.add_argument("--check", type=Path, metavar="IMAGE", help="image to compare results on")
    parser.add_argument("--force", action="store_true", help="overwrite FILE")
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE")


def run(args: argparse.Namespace) -> None:
    with user_errors():
        from mmpvt.engine.config import load_config, set_checkpoint
        from mmpvt.engine.pipeline import load_model
        from mmpvt.engine.start_from import find_checkpoint
        from mmpvt.inference.sources import find_sources

        if args.out.suffix != ".onnx":
            raise UserError(f"--out takes a file ending in .onnx, not {args.out}")
        check_free(args.out, args.force, "out")
        if args.shape and min(args.shape) < 32:
            raise UserError(f"--shape takes sides of at least 32 pixels, not {min(args.shape)}")
        config = load_config(args.config, args.cfg_options)
        checkpoint = find_checkpoint(config, args.checkpoint)
        set_checkpoint(config, checkpoint)
        sources = find_sources(args.int8)[0] if args.int8 else ()
        image = None if args.check is None else read_bytes(config, args.check)
        photos = [read_bytes(config, source.path) for source in sources] or None
        deploy = load_deploy()
        model = load_model(config, checkpoint)
        deploy.write(model, config, args.out, args.shape, args.fp16, photos, image)


def read_bytes(config: Config, path: Path) -> np.ndarray:
    """An image as the test pipeline decodes it, uint8.

    Raises:
        UserError: it can't be read, or has more than 8 bits a channel.
    """
    import numpy as np

    from mmpvt.engine.pipeline import TestPipeline

    image = TestPipeline(config).load(path)
    if (image.astype(np.uint8) != image).any():
        raise UserError(f"{path} has more than 8 bits a channel, and an exported file takes 8")
    return image.astype(np.uint8)


def load_deploy() -> ModuleType:
    """What needs the extra packages."""
    try:
        from mmpvt import deploy
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in PACKAGES:
            raise
        raise UserError(f"exporting needs {error.name}: pip install 'mmpvt[export]'") from error
    return deploy
