"""ONNX files that give what a test wants, whatever the image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

TASKS = {
    "detection": ("boxes", "scores", "labels"),
    "instance segmentation": ("boxes", "scores", "labels", "masks"),
    "semantic segmentation": ("label_map",),
}


def detections(height: int = 30, width: int = 40) -> dict[str, np.ndarray]:
    """Two instances, as an instance segmenter gives them."""
    return dict(
        boxes=np.array([[2, 3, 20, 25], [5, 5, 30, 15]], np.float32),
        scores=np.array([0.9, 0.6], np.float32),
        labels=np.array([0, 1]),
        masks=np.tile(np.arange(width) < width // 2, (2, height, 1)),
    )


def save(
    path: Path,
    outputs: dict[str, np.ndarray] | None = None,
    kind: str = "detection",
    inputs: tuple[tuple[str, int, int], ...] = (("image", TensorProto.UINT8, 3),),
    **meta: object,
) -> Path:
    """Writes a model whose outputs are constants.

    Args:
        path (Path): the file.
        outputs (dict): by name. Default: those of the kind.
        kind (str): one of ``TASKS``. Default: ``'detection'``.
        inputs (tuple): of each the name, type and number of dimensions.
        meta: metadata other than a good file's: text as it is, None for none, else as JSON.
    """
    if outputs is None:
        outputs = {**detections(), "label_map": np.ones((30, 40), np.uint8)}
        outputs = {name: outputs[name] for name in TASKS[kind]}
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
        for name, array in outputs.items()
    ]
    graph = helper.make_graph(
        nodes,
        "constants",
        [
            helper.make_tensor_value_info(
                name, dtype, [*(f"{name}{i}" for i in range(rank - 1)), 3]
            )
            for name, dtype, rank in inputs
        ],
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in outputs.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    good = dict(task=kind, classes=["cat", "dog"], category_ids=[17, 18], palette=[[220, 20, 60]])
    told = {key: value for key, value in {**good, **meta}.items() if value is not None}
    texts = {key: v if isinstance(v, str) else json.dumps(v) for key, v in told.items()}
    helper.set_model_props(model, texts)
    onnx.save(model, path)
    return path
