"""Measured against published: checkpoints are tested one after the other, and a report written."""

from mmpvt.reproduction.checkpoints import Checkpoint, find_checkpoints, parse_map, read_published
from mmpvt.reproduction.evaluation_loop import ReproduceOptions, reproduce
from mmpvt.reproduction.evaluation_process import check_device

__all__ = [
    "Checkpoint",
    "ReproduceOptions",
    "check_device",
    "find_checkpoints",
    "parse_map",
    "read_published",
    "reproduce",
]
