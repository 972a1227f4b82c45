"""What MMEngine's runner lacks: friendly start-up, checks and pictures."""

from mmpvt.engine.checkpoint_fit import CheckpointFitHook
from mmpvt.engine.checkpoints import CheckpointHook, LoggerHook
from mmpvt.engine.divergence import DivergenceHook
from mmpvt.engine.interrupt import InterruptHook
from mmpvt.engine.left_out import LeftOutHook
from mmpvt.engine.loops import EpochLoop, IterLoop
from mmpvt.engine.pictures import PicturesHook
from mmpvt.engine.speed import CompileHook

__all__ = [
    "CheckpointFitHook",
    "CheckpointHook",
    "CompileHook",
    "DivergenceHook",
    "EpochLoop",
    "InterruptHook",
    "IterLoop",
    "LeftOutHook",
    "LoggerHook",
    "PicturesHook",
]
