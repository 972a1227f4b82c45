"""The file: exported, verified against PyTorch, and put in its place, intact or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from mmengine.config import Config
from torch import nn

from mmpvt.deploy.exporting import export
from mmpvt.deploy.precision import to_float16, to_int8
from mmpvt.deploy.preprocessing import read_image_format, round_shape
from mmpvt.deploy.verification import Deviation, to_rgb, verify
from mmpvt.errors import ExportError, OutputError
from mmpvt.utils.text import printable


def write(
    model: nn.Module,
    config: Config,
    out: Path,
    shape: Sequence[int] | None = None,
    half: bool = False,
    photos: Sequence[np.ndarray] | None = None,
    image: np.ndarray | None = None,
    report: Callable[[str], None] = print,
) -> Deviation:
    """Exports a model to a file and compares its results with PyTorch's.

    Args:
        model (nn.Module): its weights loaded.
        config (Config): its config.
        out (Path): the file.
        shape (Sequence[int] | None): height and width that every image is fitted into.
        half (bool): layers in float16. Default: False.
        photos (Sequence[ndarray] | None): layers in int8, calibrated on these images,
            uint8, as the test pipeline decodes them.
        image (ndarray | None): uint8, as the test pipeline decodes it, to compare results on; by
            default shapes are drawn.
        report (Callable): takes a line of progress.

    Returns:
        Deviation: of the file's results from PyTorch's.

    Raises:
        ExportError: a part of the model can't be exported, or float32 results aren't PyTorch's.
        OutputError: the file can't be written.
    """
    exported = export(model, config, shape, report)
    if photos is not None:
        is_bgr = read_image_format(config).is_bgr
        exported = to_int8(exported, [to_rgb(photo, is_bgr) for photo in photos], report)
    elif half:
        exported = to_float16(exported)
    part = out.with_name(f".{secrets.token_hex(8)}.part")
    try:
        ir.save(exported, part)
        size = part.stat().st_size
        report("checking against PyTorch")
        deviation = verify(str(part), model, config, image, round_shape(config, shape))
        if not half and photos is None and not deviation.is_small:
            raise ExportError(f"{type(model).__name__} can't be exported: {deviation}")
        part.replace(out)
    except OSError as error:
        raise OutputError(f"{out} can't be written: {error.strerror}", where=out) from error
    finally:
        part.unlink(missing_ok=True)
    report(f"{printable(out)}, {size / 2**20:.0f} MB: {deviation}")
    return deviation
