"""Which weights a run starts from, and which of them it doesn't train."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS, DefaultScope

from mmpvt.checkpoint.hub import WEIGHTS_FILE
from mmpvt.checkpoint.saving import newest_checkpoint
from mmpvt.datasets.pipelines import find_class
from mmpvt.engine.config_parts import default_argument, iter_dicts
from mmpvt.errors import CheckpointError, ConfigError


def set_pretrained(config: Config, source: str) -> None:
    """Makes every backbone of the model start from other weights.

    Args:
        config (Config): changed.
        source (str): a file or URL in any known layout, or ``'none'`` for random weights.

    Raises:
        CheckpointError: the file doesn't exist.
        ConfigError: the model has no backbone.
    """
    if source != "none" and not _exists(source):
        raise CheckpointError(f"no such file: {source}", setting="pretrained", where=source)
    backbones = _backbones(config, "pretrained")
    leave_backbones_to_checkpoint(config)
    for backbone in backbones if source != "none" else ():
        backbone["init_cfg"] = dict(type="Pretrained", checkpoint=source)


def set_resume(config: Config, checkpoint: str) -> None:
    """Resumes a run.

    Args:
        config (Config): changed.
        checkpoint (str): the file, or ``'auto'`` for the newest in the work directory.

    Raises:
        CheckpointError: there is none.
    """
    if checkpoint == "auto":
        found = newest_checkpoint(config.work_dir)
        if found is None:
            raise CheckpointError(
                f"nothing to resume from in {config.work_dir}, which holds no intact checkpoint",
                setting="resume",
                where=config.work_dir,
                hint="leave it out to start anew, or name a checkpoint",
            )
        checkpoint = str(found)
    elif not Path(checkpoint).is_file():
        raise CheckpointError(
            f"no such checkpoint: {checkpoint}", setting="resume", where=checkpoint
        )
    config.resume = True
    config.load_from = checkpoint
    leave_backbones_to_checkpoint(config)


def set_checkpoint(config: Config, checkpoint: str) -> None:
    """Sets the checkpoint, a file or URL, to test or export.

    Raises:
        CheckpointError: there is no such file.
    """
    if not _exists(checkpoint):
        raise CheckpointError(
            f"no checkpoint at {checkpoint}: there is no such file", where=checkpoint
        )
    config.load_from = checkpoint


def leave_backbones_to_checkpoint(config: Config) -> None:
    """Has no backbone load weights of its own, which others replace."""
    for part in iter_dicts(config.model):
        named = (part.get(key) for key in ("backbone", "backbone_cfg"))
        backbones = [backbone for backbone in named if isinstance(backbone, dict)]
        for owner in (part, *backbones) if backbones else ():
            if isinstance(owner.get("pretrained"), bool):  # timm's, whose default is to download
                owner["pretrained"] = False
            else:
                owner.pop("pretrained", None)
        for backbone in backbones:
            backbone["init_cfg"] = None


def freeze_stages(config: Config, number: int) -> None:
    """Keeps the first stages of the model's backbones as they are loaded.

    Args:
        config (Config): changed.
        number (int): how many stages; of PVTs, with their patch and position embeddings.

    Raises:
        ConfigError: the model has no backbone, or one that can't freeze as many stages.
    """
    backbones = _backbones(config, "freeze")
    if number < 0:
        raise ConfigError(f"{number} is no number of stages", setting="freeze")
    with DefaultScope.overwrite_default_scope(config.get("default_scope") or "mmdet"):
        for backbone in backbones:
            if default_argument(find_class(MODELS, backbone["type"]), "frozen_stages") == "":
                raise ConfigError(
                    f"a {backbone['type']} has no frozen_stages, so that none can be frozen",
                    setting="freeze",
                )
            if not _can_be_built(backbone, number) and _can_be_built(backbone, 0):
                raise ConfigError(
                    f"a {backbone['type']} has fewer than {number} stages", setting="freeze"
                )
            backbone["frozen_stages"] = number
    sources = (d.get(key) for d in backbones for key in ("init_cfg", "pretrained"))
    if number and not any((config.get("load_from"), config.model.get("pretrained"), *sources)):
        print("warning: the frozen stages keep random weights, as none are loaded", file=sys.stderr)


def _can_be_built(backbone: ConfigDict, frozen_stages: int) -> bool:
    try:
        with torch.device("meta"):
            MODELS.build(dict(copy.deepcopy(backbone), frozen_stages=frozen_stages))
    except Exception:  # of any backbone
        return False
    return True


def _backbones(config: Config, setting: str) -> list[dict]:
    backbones = [d["backbone"] for d in iter_dicts(config.model) if "backbone" in d]
    if not backbones:
        raise ConfigError("the config's model has no backbone", setting=setting)
    return backbones


def _exists(checkpoint: str) -> bool:
    """Whether a file, or a folder with one, is there; a URL is tried when it is downloaded."""
    path = Path(checkpoint).expanduser()
    return "://" in checkpoint or path.is_file() or (path / WEIGHTS_FILE).is_file()
