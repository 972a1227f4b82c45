"""Whether the shipped configs of MMDetection and MMSegmentation train and predict on PVT."""

from dev.swap_sweep.records import Record, Records
from dev.swap_sweep.report import markdown
from dev.swap_sweep.shipped import Shipped, by_family, shipped_configs
from dev.swap_sweep.trial import Trial

__all__ = [
    "Record",
    "Records",
    "Shipped",
    "Trial",
    "by_family",
    "markdown",
    "shipped_configs",
]
