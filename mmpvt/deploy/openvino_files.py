"""OpenVINO's own files, an .xml and a .bin, of exported models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import onnx_ir as ir

from mmpvt.errors import SetupError

if TYPE_CHECKING:
    import openvino

FACTS = "framework"  # where OpenVINO keeps an ONNX file's metadata_props, in rt_info


def load_openvino() -> ModuleType:
    """The package.

    Raises:
        SetupError: it isn't installed.
    """
    try:
        import openvino
    except ModuleNotFoundError as error:
        raise SetupError(
            "OpenVINO's files need openvino, which isn't installed",
            hint="pip install 'mmpvt[openvino]'",
        ) from error
    return openvino


def to_openvino(model: ir.Model) -> openvino.Model:
    """An exported model in OpenVINO's form, in float32, its metadata included."""
    content = ir.to_proto(model).SerializeToString()
    return load_openvino().Core().read_model(content)


def read_metadata(model: openvino.Model) -> dict[str, str]:
    """What ``metadata_props`` are in an ONNX file."""
    if not model.has_rt_info([FACTS]):
        return {}
    return {
        name: model.get_rt_info([FACTS, name]).astype(str) for name in model.get_rt_info()[FACTS]
    }


def set_metadata(model: openvino.Model, facts: Mapping[str, str]) -> None:
    """Adds to what :func:`read_metadata` gives."""
    for name, value in facts.items():
        model.set_rt_info(value, [FACTS, name])


def save_openvino(model: openvino.Model, path: Path, half: bool = False) -> None:
    """Writes a model to ``path``, .xml, and its weights beside it, .bin.

    Args:
        model (openvino.Model): of :func:`to_openvino` or
            :func:`mmpvt.deploy.precision.to_openvino_int8`.
        path (Path): the .xml file.
        half (bool): float32 weights are stored in float16, which halves the file; they are
            float32 again when it is loaded. Default: False.
    """
    set_metadata(model, {"runtime": "openvino"})
    if half:
        set_metadata(model, {"precision": "float16 weights"})
    load_openvino().save_model(model, path, compress_to_fp16=half)
