"""Whether the shipped configs of MMDetection and MMSegmentation train and predict on PVT."""

from dev.swap_sweep.config_trial import ConfigTrial
from dev.swap_sweep.records import Record, Records
from dev.swap_sweep.report import markdown
from dev.swap_sweep.shipped_configs import ShippedConfig, by_family, shipped_configs

__all__ = [
    "ConfigTrial",
    "Record",
    "Records",
    "ShippedConfig",
    "by_family",
    "markdown",
    "shipped_configs",
]
