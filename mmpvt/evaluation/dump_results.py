"""Predictions of a test as a pickle file."""

from __future__ import annotations

from mmdet.evaluation import DumpDetResults as MMDetDumpDetResults
from mmengine.fileio import dump
from mmengine.logging import print_log

from mmpvt.registry import METRICS
from mmpvt.utils.atomic import atomic_write


@METRICS.register_module()
class DumpDetResults(MMDetDumpDetResults):
    """MMDetection's, but the file is written intact or not at all."""

    def compute_metrics(self, results: list) -> dict:
        """Writes the file."""
        atomic_write(self.out_file_path, dump(results, file_format="pkl"))
        print_log(f"results are saved to {self.out_file_path}", logger="current")
        return {}
