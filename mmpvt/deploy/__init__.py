"""Whole models as ONNX files, from the uint8 image to boxes, masks or a label map.

:mod:`.preprocessing` is the config's test pipeline as a graph; :mod:`.detectors` and
:mod:`.segmentors` are the models in exportable form. :mod:`.exporting` joins them,
:mod:`.precision` makes float16 and int8 of the result, :mod:`.verification` compares it with
PyTorch, :mod:`.writing` does all of that and writes the file.
"""

from mmpvt.deploy.exporting import export
from mmpvt.deploy.writing import write

__all__ = ["export", "write"]
