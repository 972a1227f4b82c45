"""Measured against published: checkpoints are tested one after the other, and a report written."""

from mmpvt.reproduction.matching import Checkpoint, find_checkpoints, parse_map
from mmpvt.reproduction.reproducing import Plan, reproduce
from mmpvt.reproduction.running import check_device

__all__ = ["Checkpoint", "Plan", "check_device", "find_checkpoints", "parse_map", "reproduce"]
