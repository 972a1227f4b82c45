"""mmpretrain's image classifiers in exportable form."""

from __future__ import annotations

from mmengine.model import BaseModel
from torch import Tensor, nn


class ExportableClassifier(nn.Module):
    """A classifier, each class's score."""

    outputs = ("scores",)

    def __init__(self, model: BaseModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, x: Tensor, size: Tensor, scale: Tensor, rows: Tensor, columns: Tensor
    ) -> tuple[Tensor]:
        """The scores, (classes,); arguments as of the detectors."""
        logits = self.model.head(self.model.extract_feat(x))
        return (logits.softmax(1)[0],)
