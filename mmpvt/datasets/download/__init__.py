"""Getting the data sets and the published weights: whole, or not at all."""

from mmpvt.datasets.download.collecting import get_archives, get_weights

__all__ = ["get_archives", "get_weights"]
