"""ONNX files that give what a test wants, whatever the image, or little more."""

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
    return _write(path, graph, kind, meta)


# of a batch form's image: shares of its sides, the scores (the last slot is empty), the labels
SHARES = np.array([[0, 0, 0.5, 1], [0.25, 0.25, 1, 0.75], [0, 0, 1, 1]], np.float32)
SLOTS = dict(scores=np.array([0.9, 0.6, 0], np.float32), labels=np.array([0, 1, 0]))


def save_batched(
    path: Path,
    kind: str = "detection",
    batch: int | None = None,
    sides: tuple[int, int] | None = None,
    constants: dict[str, np.ndarray] | None = None,
    **meta: object,
) -> Path:
    """Writes a model of the batch form.

    Its boxes are ``SHARES`` of each image's size, its label map is the images' first channel.

    Args:
        path (Path): the file.
        kind (str): its task. Default: ``'detection'``.
        batch (int | None): images at once; by default any number.
        sides (tuple[int, int] | None): height and width of its images; by default any.
        constants (dict): further outputs, of one image, or others in place of those.
        meta: metadata other than a good file's, as of :func:`save`.
    """
    if kind == "semantic segmentation":
        nodes = [
            helper.make_node("Slice", ["images", "first", "second", "axis"], ["red"]),
            helper.make_node("Squeeze", ["red", "axis"], ["label_map"]),
        ]
        outputs, constants = {"label_map": (TensorProto.UINT8, 3)}, constants or {}
    else:
        nodes = [
            helper.make_node("Gather", ["sizes", "order"], ["sides"], axis=1),
            helper.make_node("Cast", ["sides"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["floats", "second"], ["frames"]),
            helper.make_node("Mul", ["frames", "shares"], ["boxes"]),
        ]
        outputs, constants = {"boxes": (TensorProto.FLOAT, 3)}, SLOTS | (constants or {})
        if "boxes" in constants:
            nodes, outputs = [], {}
    stored = dict(first=[0], second=[1], axis=[3], order=[1, 0, 1, 0])
    arrays = {name: np.array(values) for name, values in stored.items()} | {"shares": SHARES}
    nodes.append(helper.make_node("Shape", ["sizes"], ["count"], start=0, end=1))
    for name, array in constants.items():  # the same for each image
        arrays[f"{name}/one"] = array[None]
        arrays[f"{name}/shape"] = np.array(array.shape, np.int64)
        shape, one = f"{name}/all", f"{name}/one"
        nodes.append(helper.make_node("Concat", ["count", f"{name}/shape"], [shape], axis=0))
        nodes.append(helper.make_node("Expand", [one, shape], [name]))
        outputs[name] = (helper.np_dtype_to_tensor_dtype(array.dtype), array.ndim + 1)
    height, width = sides or ("height", "width")
    graph = helper.make_graph(
        nodes,
        "batches",
        [
            helper.make_tensor_value_info(
                "images", TensorProto.UINT8, [batch or "batch", height, width, 3]
            ),
            helper.make_tensor_value_info("sizes", TensorProto.INT64, [batch or "batch", 2]),
        ],
        [
            helper.make_tensor_value_info(name, dtype, [f"{name}{i}" for i in range(rank)])
            for name, (dtype, rank) in outputs.items()
        ],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    good = dict(form="batch", divisor=32, resizing=[dict(step="Resize", height=64, width=96)])
    return _write(path, graph, kind, good | meta)


def _write(path: Path, graph: onnx.GraphProto, kind: str, meta: dict[str, object]) -> Path:
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    good = dict(task=kind, classes=["cat", "dog"], category_ids=[17, 18], palette=[[220, 20, 60]])
    told = {key: value for key, value in {**good, **meta}.items() if value is not None}
    texts = {key: v if isinstance(v, str) else json.dumps(v) for key, v in told.items()}
    helper.set_model_props(model, texts)
    onnx.save(model, path)
    return path
