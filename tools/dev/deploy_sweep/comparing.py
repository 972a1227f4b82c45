"""An exported file on onnxruntime and OpenVINO, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import openvino
from mmengine.config import Config
from mmengine.model import BaseModel

from mmpvt.deploy.verification import Deviation, compare, onnx_predictor, predict, to_rgb

Predictor = Callable[[np.ndarray], dict[str, np.ndarray]]


def openvino_predictor(path: Path) -> Predictor:
    """An exported file on OpenVINO, in float32, as a function of a BGR image."""
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    model = core.compile_model(str(path), "CPU", options)
    names = [output.get_any_name() for output in model.outputs]

    def run(image: np.ndarray) -> dict[str, np.ndarray]:
        results = model([to_rgb(image)])
        return {name: results[i] for i, name in enumerate(names)}

    return run


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
    runtimes: dict[str, Callable[[], Predictor]] = {
        "onnxruntime": lambda: onnx_predictor(str(path), threads=1),
        "openvino": lambda: openvino_predictor(path),
    }
    for name, make in runtimes.items():
        try:
            run = make()
            deviation = Deviation()
            for photo, wanted in zip(photos, expected, strict=True):
                deviation.include(compare(run(photo), wanted))
            results[name] = deviation
        except Exception as error:  # whatever a runtime raises is a result of the sweep
            results[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
    return results
