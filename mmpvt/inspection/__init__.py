"""A data set's report: every file decoded, every annotation checked, all of it shown."""

from mmpvt.inspection.datasets import compare, inspect_datasets
from mmpvt.inspection.figure import draw
from mmpvt.inspection.report import DatasetReport, describe

__all__ = ["DatasetReport", "compare", "describe", "draw", "inspect_datasets"]
