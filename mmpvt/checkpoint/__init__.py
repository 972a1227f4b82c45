"""Checkpoints: read without running code from them, recognised and converted from any layout."""

from mmpvt.checkpoint.conversion import convert, convert_in_place, unwrap
from mmpvt.checkpoint.fitting import describe_incompatible_keys, fit_to_model, load_pretrained
from mmpvt.checkpoint.loading import load_checkpoint
from mmpvt.checkpoint.saving import newest_checkpoint

__all__ = [
    "convert",
    "convert_in_place",
    "describe_incompatible_keys",
    "fit_to_model",
    "load_checkpoint",
    "load_pretrained",
    "newest_checkpoint",
    "unwrap",
]
