"""What MMEngine's runner lacks: friendly start-up, checks and pictures."""

from mmpvt.engine.checkpoint_fit import CheckpointFitHook
from mmpvt.engine.interrupt import InterruptHook
from mmpvt.engine.pictures import PicturesHook
from mmpvt.engine.speed import CompileHook

__all__ = ["CheckpointFitHook", "CompileHook", "InterruptHook", "PicturesHook"]
