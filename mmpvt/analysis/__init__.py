"""What a model costs, and the model zoo's tables that list it."""

from mmpvt.analysis.complexity import Part, build_without_memory, count

__all__ = ["Part", "build_without_memory", "count"]
