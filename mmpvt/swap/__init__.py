"""PVT under an existing model: the config, and only what changes in it.

Everything is derived from the config; no model is built, so a swap takes no time.
"""

from mmpvt.swap.swapping import Swap, swap, swap_backbone
from mmpvt.swap.writing import as_text

__all__ = ["Swap", "as_text", "swap", "swap_backbone"]
