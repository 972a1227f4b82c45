"""Prints what a bug report needs: versions, devices, which operators answer.

mmpvt env

It imports nothing of mmpvt before it asks what imports, so that it also runs beside a broken stack:
``mmpvt_command`` runs this file as it is where ``import mmpvt`` fails.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import platform
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib import metadata, util
from pathlib import Path

from mmpvt.utils.processors import usable_processors

# modules, and the distributions that bring them
STACK = {
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "mmengine": ("mmengine", "mmengine-lite", "onedl-mmengine"),
    "mmcv": ("mmcv", "mmcv-lite", "mmcv-full", "onedl-mmcv"),
    "mmdet": ("mmdet", "onedl-mmdetection"),
    "mmseg": ("mmsegmentation", "onedl-mmsegmentation"),
    "mmpretrain": ("mmpretrain", "onedl-mmpretrain"),
    "numpy": ("numpy",),
    "cv2": ("opencv-python", "opencv-python-headless", "opencv-contrib-python"),
    "PIL": ("pillow",),
    "pycocotools": ("pycocotools",),
    "transformers": ("transformers",),
    "timm": ("timm",),
    "safetensors": ("safetensors",),
    "huggingface_hub": ("huggingface-hub",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu"),
}
OPTIONAL = {
    *("torchvision", "mmpretrain", "transformers", "timm", "safetensors", "huggingface_hub"),
    "onnxruntime",
}
NOT_IMPORTED = {"transformers", "timm", "onnxruntime"}  # seconds each, and mmpvt hardly needs them
VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "CUDA_VISIBLE_DEVICES",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTHONPATH",
)
WORKS = "works"
WIDTH = 16  # characters of the names


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def run(args: argparse.Namespace | None = None) -> int:
    """Prints it all, a line a thing, whatever fails; 2 where ``import mmpvt`` does."""
    lines = {}
    for name, what in _lines():
        lines[name] = what
        print(f"{name + ':':{WIDTH}} {what}", flush=True)  # the next may crash the process
    return 0 if lines["import mmpvt"] == WORKS else 2


def _lines() -> Iterator[tuple[str, str]]:
    package = Path(__file__).parents[1]
    version = runpy.run_path(str(package / "version.py"))["__version__"]  # imports nothing else
    yield "mmpvt", f"{version} in {package}"
    yield "Python", f"{platform.python_version()}, {sys.executable}"
    yield "OS", platform.platform()
    yield "CPU", f"{_cpu()}, {os.cpu_count()} cores"
    reason = _failure(_set_up)
    for module, distributions in STACK.items():
        versions = [
            f"{name} {metadata.version(name)}" for name in distributions if _is_installed(name)
        ]
        if not versions and util.find_spec(module) is None:
            yield module, "not installed" + ("" if module in OPTIONAL else ": mmpvt needs it")
            continue
        failure = ""
        if module not in NOT_IMPORTED:
            failure = _failure(partial(importlib.import_module, module))
        said = " and ".join(versions) or "of unknown version"
        if len(versions) > 1:
            said += ", which write over one another's files: uninstall all, then install one"
        yield module, said + (f", doesn't import: {failure}" if failure else "")
    yield "import mmpvt", f"fails: {reason}" if reason else WORKS
    asked = dict(operators=_operators, devices=_devices, threads=_threads, products=_products)
    for name, ask in asked.items():
        try:
            yield name, ask()
        except Exception as error:  # whatever is broken
            yield name, f"unknown, {_describe(error)}"
    for name in VARIABLES:
        if name in os.environ:
            yield name, os.environ[name]


def _set_up() -> None:
    import mmpvt

    mmpvt.setup_environment()


def _operators() -> str:
    """Who answers for mmcv's operators."""
    import mmcv.ops  # noqa: F401  asks for them
    import torch

    answers = sys.modules["mmcv._ext"]
    if answers.__name__ == "mmcv._ext":
        return f"mmcv's compiled extension answers for all, {getattr(answers, '__file__', '')}"
    from mmpvt.ops.nms import _torchvision_nms
    from mmpvt.ops.roi_align import _torchvision_kernels

    device = "cuda" if torch.cuda.is_available() else "cpu"
    ours = sorted(
        {
            re.sub("_(forward|backward).*", "", name)
            for name, thing in vars(answers).items()
            if not name.startswith("_")
            and inspect.isfunction(thing)
            and thing.__module__.startswith("mmpvt.ops.")
            and thing.__module__ != answers.__name__
        }
    )
    theirs: dict[str, Callable[[str], object]] = dict(
        nms=_torchvision_nms, roi_align=_torchvision_kernels
    )
    faster = [name for name, find in theirs.items() if find(device)]
    said = f"mmpvt answers for {', '.join(ours)}"
    if faster:
        said += f" (torchvision's kernels for {' and '.join(faster)} on {device})"
    return f"{said}; nobody for mmcv's others"


def _products() -> str:
    """What runs PVT's linear layers and attention on the CPU."""
    import torch

    from mmpvt.models.kernels import describe

    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    return (
        ", ".join(f"{name} by {describe(dtype)}" for name, dtype in kinds.items()) + " on the CPU"
    )


def _devices() -> str:
    import torch

    names = [
        f"cuda:{i} {torch.cuda.get_device_name(i)}, "
        f"{torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB"
        for i in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        names.append("mps")
    built = torch.version.cuda or getattr(torch.version, "hip", None)
    built = f"PyTorch is built for CUDA {built}" if built else "PyTorch is built without CUDA"
    return f"{'; '.join(['cpu', *names])}; {built}"


def _threads() -> str:
    import torch

    return f"PyTorch's {torch.get_num_threads()}, on {usable_processors()} usable cores"


def _cpu() -> str:
    with suppress(OSError):
        if found := re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text()):
            return found[1]
    return platform.processor() or platform.machine()


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _failure(action: Callable[[], object]) -> str:
    """What an action raises, in a line; empty if it ends well."""
    try:
        action()
    except Exception as error:  # whatever is broken
        return _describe(error)
    return ""


def _describe(error: Exception) -> str:
    line = next(iter(str(error).splitlines()), "")
    is_ours = type(error).__module__ == "mmpvt.errors"  # a sentence with what to do
    return line if is_ours else f"{type(error).__name__}: {line}"
