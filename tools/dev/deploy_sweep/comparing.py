"""An exported file on onnxruntime and OpenVINO, against PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.model import BaseModel

from mmpvt.deploy.verification import (
    Deviation,
    compare,
    load_onnx,
    load_openvino_file,
    predict,
    to_rgb,
)


def compare_with_runtimes(
    path: Path, model: BaseModel, config: Config, photos: Sequence[np.ndarray]
) -> dict[str, Deviation | str]:
    """How far each runtime's results are from PyTorch's on photographs, or why it doesn't run it.

    Args:
        path (Path): the file.
        model (BaseModel): what it was exported from.
        config (Config): its config.
        photos (Sequence[ndarray]): uint8, BGR.
    """
    expected = [predict(model, config, photo) for photo in photos]
    results: dict[str, Deviation | str] = {}
    for name, load in (("onnxruntime", load_onnx), ("openvino", load_openvino_file)):
        try:
            run, _ = load(str(path), threads=1)
            deviation = Deviation()
            for photo, wanted in zip(photos, expected, strict=True):
                deviation.include(compare(run({"image": to_rgb(photo)}), wanted))
            results[name] = deviation
        except Exception as error:  # whatever a runtime raises is a result of the sweep
            results[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
    return results
