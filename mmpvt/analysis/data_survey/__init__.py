"""A whole look at a data set: every file decoded, every annotation checked, all of it shown."""

from mmpvt.analysis.data_survey.between import compare
from mmpvt.analysis.data_survey.picture import draw
from mmpvt.analysis.data_survey.report import describe
from mmpvt.analysis.data_survey.surveys import Survey, survey

__all__ = ["Survey", "compare", "describe", "draw", "survey"]
