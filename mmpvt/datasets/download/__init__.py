"""Downloading data sets and published weights: complete and verified, or not at all."""

from mmpvt.datasets.download.fetch import download_archives, download_weights

__all__ = ["download_archives", "download_weights"]
