"""mmpretrain's image classifiers in exportable form."""

from __future__ import annotations

from torch import Tensor

from mmpvt.deploy.forms import Core


class ExportableClassifier(Core):
    """A classifier, each class's score."""

    outputs = ("scores",)

    def predict(self, x: Tensor, sizes: Tensor, scale: Tensor) -> tuple[Tensor]:
        return (self.model.head(self.model.extract_feat(x)).softmax(1),)
