"""A whole look at a data set: every file decoded, every annotation checked, all of it shown."""

from mmpvt.inspection.between import compare
from mmpvt.inspection.picture import draw
from mmpvt.inspection.report import describe
from mmpvt.inspection.surveys import Survey, survey

__all__ = ["Survey", "compare", "describe", "draw", "survey"]
