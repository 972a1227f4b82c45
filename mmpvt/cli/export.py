"""Writes a detector, segmenter or classifier as one file that runs without this project.

An .onnx file runs in onnxruntime, OpenVINO or TensorRT, an .xml file in OpenVINO, a .pt2 file in
PyTorch alone.

mmpvt export retinanet_pvt_s_fpn_1x_coco CHECKPOINT --out model.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from mmengine.config import Config

from mmpvt.engine.cli import CHECKPOINT, CONFIG, add_cfg_options, user_errors
from mmpvt.errors import UserError
from mmpvt.utils.outputs import check_free

if TYPE_CHECKING:
    import numpy as np

RUNTIMES = ("onnxruntime", "openvino", "tensorrt", "any")
OWN_RUNTIMES = {".onnx": "onnxruntime", ".xml": "openvino", ".pt2": "pytorch"}
MAX_BATCH = 256  # images
PACKAGES = ("onnx", "onnxscript", "onnx_ir", "onnxruntime")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help=CONFIG)
    parser.add_argument("checkpoint", help=CHECKPOINT)
    parser.add_argument(
        "--out", required=True, type=Path, metavar="FILE", help="model.onnx, model.xml or model.pt2"
    )
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        help="what is to run an .onnx file; any: standard operators only (default: onnxruntime)",
    )
    parser.add_argument(
        "--batch",
        metavar="N",
        help="so many resized images at once, or dynamic (default: one image of any size)",
    )
    parser.add_argument(
        "--without-nms", action="store_true", help="give what goes into NMS; run_onnx.py does it"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="of a .pt2 file: machine code for this processor, by AOTInductor",
    )
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
    add_cfg_options(parser, "model.test_cfg.score_thr=0.3")


def batch_size(text: str | None) -> int | str | None:
    """--batch: a number of images, or ``dynamic``."""
    if text in (None, "dynamic"):
        return text
    if not text.isdecimal() or not 1 <= int(text) <= MAX_BATCH:
        raise UserError(f"--batch takes a number from 1 to {MAX_BATCH}, or dynamic, not {text}")
    return int(text)


def check_options(args: argparse.Namespace) -> None:
    """Refuses options that don't go together, and sets the runtime that a file's name says."""
    suffix, runtime = args.out.suffix, args.runtime
    if suffix not in OWN_RUNTIMES:
        raise UserError(f"--out takes a file ending in .onnx, .xml or .pt2, not {args.out}")
    if suffix != ".onnx" and runtime not in (None, OWN_RUNTIMES[suffix]):
        raise UserError(f"--runtime {runtime} takes an .onnx file, and --out ends in {suffix}")
    args.runtime = runtime = runtime or OWN_RUNTIMES[suffix]
    if args.compile and suffix != ".pt2":
        raise UserError("--compile is for a .pt2 file")
    if args.int8 and suffix == ".onnx" and runtime != "onnxruntime":
        hint = ": OpenVINO's is an .xml file" if runtime == "openvino" else ""
        raise UserError(f"--int8 of an .onnx file is onnxruntime's, not {runtime}'s{hint}")
    if (args.int8 or args.fp16) and runtime in ("pytorch", "tensorrt"):
        raise UserError(f"a file for {runtime} holds float32: leave --fp16 and --int8 out")
    if not args.shape and runtime in ("pytorch", "tensorrt"):
        raise UserError(f"a file for {runtime} takes images of one size: add --shape HEIGHT WIDTH")
    if args.without_nms and not args.batch and runtime not in ("pytorch", "tensorrt"):
        raise UserError("--without-nms is for batches: add --batch N")
    if args.shape and min(args.shape) < 32:
        raise UserError(f"--shape takes sides of at least 32 pixels, not {min(args.shape)}")


def run(args: argparse.Namespace) -> None:
    with user_errors():
        from mmpvt.engine.config import load_config
        from mmpvt.engine.initial_weights import set_checkpoint
        from mmpvt.engine.pipeline import load_model
        from mmpvt.engine.start_from import find_checkpoint
        from mmpvt.inference.sources import find_sources

        check_options(args)
        batch = batch_size(args.batch)
        check_free(args.out, args.force, "out")
        if args.out.suffix == ".xml":
            check_free(args.out.with_suffix(".bin"), args.force, "out")
        config = load_config(args.config, args.cfg_options)
        checkpoint = find_checkpoint(config, args.checkpoint)
        set_checkpoint(config, checkpoint)
        sources = find_sources(args.int8)[0] if args.int8 else ()
        image = None if args.check is None else read_bytes(config, args.check)
        photos = [read_bytes(config, source.path) for source in sources] or None
        deploy = load_deploy()
        model = load_model(config, checkpoint)
        if args.out.suffix == ".pt2":
            from mmpvt.deploy.programs import write_program

            options = dict(compiled=args.compile, without_nms=args.without_nms, batch=batch or 1)
            write_program(model, config, args.out, args.shape, image=image, **options)
            return
        options = dict(runtime=args.runtime, batch=batch, without_nms=args.without_nms)
        deploy.write(model, config, args.out, args.shape, args.fp16, photos, image, **options)


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
