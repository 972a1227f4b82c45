"""What is checked before a run starts, so that it doesn't fail hours into it."""

from mmpvt.engine.checks.data import check_data, check_pixels, keep_inside

__all__ = ["check_data", "check_pixels", "keep_inside"]
