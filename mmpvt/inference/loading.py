"""Trained models by their names."""

from __future__ import annotations

import os
from pathlib import Path

from mmpvt.checkpoint.hub import SCHEME, WEIGHTS_FILE, download_from_hub
from mmpvt.engine.saved_config import CONFIG_FILE
from mmpvt.engine.start_from import PUBLISHED
from mmpvt.errors import ConfigError
from mmpvt.inference.predictor import Predictor
from mmpvt.models.archs import VARIANTS


def load_model(
    name: str | os.PathLike,
    checkpoint: str | os.PathLike | None = None,
    device: str | None = None,
) -> Predictor:
    """A trained detector or segmenter, which predicts on files and arrays.

    Args:
        name (str | PathLike): of a config that comes with mmpvt (``mmpvt list`` names them) or a
            config's file; a folder of :meth:`Predictor.save_pretrained`; or ``hf://OWNER/NAME``, a
            repository that holds one, with ``@REVISION`` or not.
        checkpoint (str | PathLike | None): of the config: a file, a URL, ``hf://OWNER/NAME``, or
            ``'published'`` for the detector that MMDetection published for the architecture.
            Default: None, what the folder or repository holds, else ``'published'``.
        device (str | None): ``'cpu'``, ``'cuda'``, ``'cuda:1'``. Default: a GPU where there is one.

    Returns:
        Predictor: the model.

    Raises:
        UserError: there is no such config or checkpoint, they can't be read or don't go together.

    Example:
        >>> model = mmpvt.load_model('retinanet_pvt_v2_b2_fpn_1x_coco')
        >>> sample = model('street.jpg')
        >>> model.save_pretrained('my_model')
        >>> model = mmpvt.load_model('my_model')
    """
    name = os.fspath(name)
    if name in {variant.full_name for variant in VARIANTS}:
        raise ConfigError(
            f"{name} is a backbone, which neither detects nor segments",
            hint="give a config's name: mmpvt list names them",
        )
    if name.startswith(SCHEME):
        config = os.fspath(download_from_hub(name, CONFIG_FILE))
        held = checkpoint or download_from_hub(name)
    else:
        config, folder = name, Path(name)
        held = checkpoint or (folder / WEIGHTS_FILE if folder.is_dir() else PUBLISHED)
    return Predictor(config, held, device)
