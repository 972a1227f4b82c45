"""The built-in shapes data set."""

from . import shapes

__all__ = ["shapes"]
