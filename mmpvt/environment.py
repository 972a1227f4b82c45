"""What makes MMEngine, MMDetection and MMSegmentation run on today's Python and PyTorch."""

from __future__ import annotations

import threading
from contextlib import ExitStack

from mmpvt import compat

_lock = threading.Lock()
_undo: ExitStack | None = None


def setup_environment() -> None:
    """Makes the changes of :mod:`mmpvt.compat` to other packages, for the whole process.

    The command lines call it, and so does a config with ``custom_imports =
    dict(imports=['mmpvt.setup'])``. From Python, call it before a model is trained or tested by
    MMEngine's runner. Calling it again changes nothing; nothing more is imported by it.
    """
    global _undo
    with _lock:
        if _undo is not None:
            return
        _undo = ExitStack()
        compat.fix_package_lookup(_undo)
        compat.format_config_once(_undo)
        compat.keep_image_in_place(_undo)
        compat.load_checkpoints_with(_load_checkpoint, _undo)
        compat.map_labels_by_name(_undo)
        compat.weigh_ignored_pixels(_undo)
        compat.import_torchvision(_undo)
        compat.switch_off_multimodal(_undo)


def restore_environment() -> None:
    """Undoes :func:`setup_environment`, but for what others have changed since."""
    global _undo
    with _lock:
        if _undo is not None:
            _undo.close()
            _undo = None


def _load_checkpoint(source: str, map_location: str | None = None) -> dict:
    from mmpvt.checkpoint import load_checkpoint  # and with it PyTorch

    return load_checkpoint(source, map_location)
