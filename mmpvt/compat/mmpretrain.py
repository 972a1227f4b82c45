"""Changes to mmpretrain."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from mmpvt.compat.patching import after_import


def switch_off_multimodal(undo: ExitStack) -> None:
    """Lets mmpretrain be imported beside a transformers that its language models can't use.

    mmpretrain 1.2.0, the last release, imports its multimodal models wherever transformers 4.28 or
    newer is installed. They need names of ``transformers.modeling_utils`` that are gone since
    4.57 (4.53 has them): ``import mmpretrain.models`` ends in ``TypeError: NoneType takes no
    arguments``, and with it ``import mmdet.models``, ``import mmseg.models`` and the configs that
    import mmpretrain. Where the names are gone, mmpretrain is told what it is told where
    transformers is missing; its other models don't change. Nothing is imported before mmpretrain
    is. No upstream report is known; this can go once a release of mmpretrain imports beside
    transformers 5.
    """
    after_import("mmpretrain.utils.dependency", _switch_off, undo)


def _switch_off(module: Any, _: ExitStack) -> None:
    """This isn't undone: what mmpretrain has imported by then follows from it."""
    if module.WITH_MULTIMODAL:
        from transformers import modeling_utils

        names = ("apply_chunking_to_forward", "find_pruneable_heads_and_indices")
        module.WITH_MULTIMODAL = all(hasattr(modeling_utils, name) for name in names)
