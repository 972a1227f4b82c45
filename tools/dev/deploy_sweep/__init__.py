"""Whether the shipped configs of MMDetection and MMSegmentation export with PVT under them."""

from dev.deploy_sweep.comparing import compare_with_runtimes
from dev.deploy_sweep.models import build_spread, photographs
from dev.deploy_sweep.report import markdown
from dev.deploy_sweep.sweeping import Sweep

__all__ = ["Sweep", "build_spread", "compare_with_runtimes", "markdown", "photographs"]
