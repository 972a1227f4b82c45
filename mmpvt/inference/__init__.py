"""Trained models on images without annotations."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Imports the predictor when it is asked for: attention pictures need the pipeline alone."""
    if name == "Predictor":
        from mmpvt.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
