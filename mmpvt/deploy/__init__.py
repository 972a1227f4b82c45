"""Whole models as ONNX files, from the uint8 image to boxes, masks or a label map.

:mod:`.preprocessing` is the config's test pipeline as a graph; :mod:`.kinds` finds
a model's exportable form. :mod:`.precision` makes float16 and int8 of
a model, :mod:`.verification` compares it with PyTorch, and :mod:`.exporting` does all of it.
"""

from mmpvt.deploy.exporting import export, write

__all__ = ["export", "write"]
