"""Whole models as ONNX files, from the uint8 image to boxes, masks or a label map.

:mod:`.sizes` reads the config's test pipeline and :mod:`.preprocessing` writes it as a graph.
:mod:`.detection`, :mod:`.two_stage`, :mod:`.transformer` and :mod:`.segmentation` hold the models
in a form that can be recorded, made of the models' own parts. :mod:`.exporting` puts both together,
:mod:`.precision` makes the numbers smaller, :mod:`.checking` compares with PyTorch.
"""

from mmpvt.deploy.exporting import export
from mmpvt.deploy.writing import load_model, write

__all__ = ["export", "load_model", "write"]
