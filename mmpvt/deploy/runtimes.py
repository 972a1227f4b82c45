"""What the runtimes that take an exported model can do."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Runtime:
    """How a model is exported for a runtime."""

    fuses_attention: bool = False  # it has onnxruntime's MultiHeadAttention
    is_static: bool = False  # no size may follow from values: NMS and the like are padded
    has_efficient_nms: bool = False  # it has TensorRT's plugin, and no NonMaxSuppression
    is_onnx: bool = True  # it takes ONNX, or else PyTorch's own operators alone


RUNTIMES = {
    "onnxruntime": Runtime(fuses_attention=True),
    "openvino": Runtime(),
    "any": Runtime(),
    "tensorrt": Runtime(is_static=True, has_efficient_nms=True),
    "pytorch": Runtime(is_static=True, is_onnx=False),
}
