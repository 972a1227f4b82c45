"""Whether the shipped configs of MMDetection and MMSegmentation train and predict on PVT."""

from mmpvt.analysis.swap_sweep.records import Record, Records
from mmpvt.analysis.swap_sweep.report import markdown
from mmpvt.analysis.swap_sweep.shipped import Shipped, by_family, shipped_configs
from mmpvt.analysis.swap_sweep.trial import Trial

__all__ = [
    "Record",
    "Records",
    "Shipped",
    "Trial",
    "by_family",
    "markdown",
    "shipped_configs",
]
