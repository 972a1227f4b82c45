"""Runs an exported model: with onnxruntime, OpenVINO or PyTorch, NumPy and Pillow alone.

mmpvt run-onnx model.onnx photos/ --out results/

The script is ``tools/run_onnx.py``, which can be copied to where nothing else of this is.
"""

from __future__ import annotations

import argparse
import runpy
import sys

from mmpvt.engine.cli import user_errors
from mmpvt.engine.zoo import files_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="mmpvt run-onnx --help")


def run_script(arguments: list[str]) -> int:
    """Runs the script with its own options; its exit code."""
    with user_errors():
        script = files_folder() / "tools" / "run_onnx.py"
    sys.argv = ["mmpvt run-onnx", *arguments]
    runpy.run_path(str(script), run_name="__main__")
    return 0
