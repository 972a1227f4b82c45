"""The file: made, checked against PyTorch, and put in its place, whole or not at all."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmpvt.checkpoint.loading import load_checkpoint
from mmpvt.deploy.checking import Deviation, check, file_order
from mmpvt.deploy.exporting import export
from mmpvt.deploy.precision import to_float16, to_int8
from mmpvt.deploy.sizes import frame, read_loading
from mmpvt.engine.class_names import model_meta
from mmpvt.engine.hooks.checkpoint_fit import fit_to_model
from mmpvt.errors import UserError
from mmpvt.utils.text import printable


def load_model(config: Config, checkpoint: str) -> nn.Module:
    """The config's model with a checkpoint's weights, ready to predict.

    Args:
        config (Config): of the model.
        checkpoint (str): file or address.

    Returns:
        nn.Module: with ``dataset_meta``, of :func:`~mmpvt.engine.class_names.model_meta`.

    Raises:
        UserError: the checkpoint can't be read or is another model's.
    """
    init_default_scope(config.get("default_scope", "mmdet"))
    settings = config.model.copy()
    settings.get("backbone", {}).pop("init_cfg", None)
    model = MODELS.build(settings)
    saved = load_checkpoint(checkpoint)
    model.load_state_dict(fit_to_model(saved, model), strict=False)
    model.dataset_meta = model_meta(config, saved)
    return model.eval()


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
        UserError: a part of the model has no form in ONNX, float32 results aren't PyTorch's, or the
            file can't be written.
    """
    exported = export(model, config, shape, report)
    if photos is not None:
        is_bgr = read_loading(config).is_bgr
        exported = to_int8(exported, [file_order(photo, is_bgr) for photo in photos], report)
    elif half:
        exported = to_float16(exported)
    part = out.with_name(f".{secrets.token_hex(8)}.part")
    try:
        ir.save(exported, part)
        size = part.stat().st_size
        report("checking against PyTorch")
        deviation = check(str(part), model, config, image, frame(config, shape))
        if not half and photos is None and not deviation.is_small:
            raise UserError(f"{type(model).__name__} can't be exported: {deviation}")
        part.replace(out)
    except OSError as error:
        raise UserError(f"{out} can't be written: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    report(f"{printable(out)}, {size / 2**20:.0f} MB: {deviation}")
    return deviation
