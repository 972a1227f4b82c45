"""Checkpoints: read without running code from them, recognised and converted from any layout."""

from mmpvt.checkpoint.conversion import convert, convert_in_place, unwrap
from mmpvt.checkpoint.fit import describe_misfit, load_pretrained
from mmpvt.checkpoint.keeping import newest_checkpoint, register_backend_of_whole_files
from mmpvt.checkpoint.loading import load_checkpoint, register_loaders

__all__ = [
    "convert",
    "convert_in_place",
    "describe_misfit",
    "load_checkpoint",
    "load_pretrained",
    "newest_checkpoint",
    "register_backend_of_whole_files",
    "register_loaders",
    "unwrap",
]
