"""Training that starts from a whole model's checkpoint, of the same classes or of others."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope
from torch import Tensor, nn

from mmpvt.checkpoint import fit_to_model, load_checkpoint, newest_checkpoint
from mmpvt.checkpoint.class_rows import class_counts, find_class_rows, start_by_class_names
from mmpvt.checkpoint.fitting import unwrapped
from mmpvt.engine.class_names import dataset_meta, is_classifier, stored_meta
from mmpvt.engine.config_parts import iter_dicts
from mmpvt.engine.initial_weights import leave_backbones_to_checkpoint
from mmpvt.engine.launch import is_first_process
from mmpvt.errors import CheckpointMismatchError, ConfigError, DownloadError, UserError
from mmpvt.models import PyramidVisionTransformer, PyramidVisionTransformerV2
from mmpvt.models.archs import VARIANTS, Variant
from mmpvt.utils.text import few, printable

if TYPE_CHECKING:
    from mmpvt.engine.preparation import TrainOptions

PUBLISHED = "published"
COUNTS = ("num_classes", "num_things_classes")  # settings that heads take their classes' number by
# data sets that checkpoints of so many classes and without names were published for, by scope
NAMELESS = {
    ("mmdet", 80): "CocoDataset",
    ("mmseg", 150): "ADE20KDataset",
    ("mmpretrain", 1000): "ImageNet",
}


def set_start_from(config: Config, options: TrainOptions) -> None:
    """Starts training from a checkpoint, which is compared with the model first.

    A run that resumes doesn't start: with ``resume='auto'``, one whose work directory has a
    checkpoint.

    Args:
        config (Config): changed; its own ``start_from`` counts where the options have none.
        options (TrainOptions): of the run. ``start_from`` is a file, a URL, or ``'published'`` for
            the detector that MMDetection published for this config's architecture.

    Raises:
        ConfigError: other options say what to start from, too; no detector was published.
        DownloadError: it can't be downloaded.
        CheckpointError: there is no such file, or it can't be read.
        CheckpointMismatchError: it is another architecture's.
    """
    resumes = options.resume or config.get("resume")
    if resumes and not options.start_from:
        return
    if options.resume == "auto" and (found := newest_checkpoint(config.work_dir)):
        print(printable(f"resuming from {found}, not starting from {options.start_from}"))
        return
    for other, given in (("pretrained", options.pretrained), ("resume", resumes)):
        if given:
            raise ConfigError(
                "the weights of the whole model come from it",
                setting="start_from",
                hint=f"leave it or {UserError.name_setting(other)} out",
            )
    config.start_from = options.start_from or config.start_from
    source = published_detector(config) if config.start_from == PUBLISHED else config.start_from
    if is_first_process() or "://" not in source:  # each process would download
        try:
            checkpoint = load_checkpoint(source)
        except DownloadError as error:
            error.instead = ("start_from", "FILE")
            raise
        start(config, checkpoint, build_for_classes(config), source)
    config.load_from, config.resume = source, False
    leave_backbones_to_checkpoint(config)


def start(
    config: Config, checkpoint: Mapping, model: nn.Module, source: str
) -> tuple[dict[str, Tensor], list[str]]:
    """What a model starts from: its state dict, and in sentences what was taken.

    Args:
        config (Config): of the experiment.
        checkpoint (Mapping): as it was read.
        model (nn.Module): the config's, as it was initialised.
        source (str): the checkpoint's file or URL, for messages.

    Raises:
        CheckpointMismatchError: it is another architecture's.
    """
    classes = [str(name) for name in dataset_meta(config, "train").get("classes") or ()]
    tensors = fit_to_model(checkpoint, model, strict=False)
    if not any(name.partition(".")[0] != "backbone" for name in tensors):
        raise CheckpointMismatchError(
            f"{source} holds a backbone alone, not a whole model",
            where=source,
            setting="start_from",
            instead=("pretrained", source),
        )
    rows = find_class_rows(unwrapped(model), build_for_classes(config, more=1), len(classes))
    stored = [str(name) for name in stored_meta(checkpoint).get("classes") or ()]
    notes = []
    counts = class_counts(tensors, rows)
    if stored and counts and counts != {len(stored)}:
        notes.append(
            f"its {len(stored)} class names ({few(stored)}) aren't used: its tensors are for "
            f"{' and '.join(map(str, sorted(counts)))} classes"
        )
        stored = []
    elif not stored and len(counts) == 1:
        key = (str(config.get("default_scope")), *counts)
        if key in NAMELESS:
            stored = list(DATASETS.get(f"{key[0]}.{NAMELESS[key]}").METAINFO["classes"])
            notes.append(f"it names no classes: its {len(stored)} are taken for {NAMELESS[key]}'s")
    target = unwrapped(model).state_dict()
    name = source.partition("#")[0].rstrip("/").rpartition("/")[2]
    taken, said = start_by_class_names(tensors, target, rows, classes, stored, name)
    return taken, [*said, *(f"{name}: {note}" for note in notes)]


def build_for_classes(config: Config, more: int = 0, device: str = "meta") -> nn.Module:
    """The config's model, for so many classes more; on ``meta`` without memory, if its parts can.

    Args:
        config (Config): of the experiment.
        more (int): classes. Default: 0.
        device (str): where its tensors are. Default: ``'meta'``.
    """
    model = copy.deepcopy(config.model)
    for part in iter_dicts(model):
        for key in COUNTS:
            if isinstance(part.get(key), int):
                part[key] += more
    with DefaultScope.overwrite_default_scope(config.get("default_scope", "mmengine")):
        try:
            with torch.device(device):
                return MODELS.build(model)
        except (NotImplementedError, RuntimeError):  # a part looks at its own numbers
            return MODELS.build(model)


def find_checkpoint(config: Config, checkpoint: str | os.PathLike) -> str:
    """Where a trained model's checkpoint is.

    Args:
        config (Config): of the model.
        checkpoint (str | PathLike): a file or a URL, which is given back, or ``'published'`` for
            the detector that MMDetection published for this config's architecture.

    Raises:
        ConfigError: none was published.
    """
    source = os.fspath(checkpoint)
    return published_detector(config, None) if source == PUBLISHED else source


def published_detector(config: Config, setting: str | None = "start_from") -> str:
    """URL of the detector that MMDetection published for a config's architecture; of a classifier,
    of what its authors did.

    Args:
        config (Config): of the model.
        setting (str | None): that asks for it, for the message. Default: ``'start_from'``.

    Raises:
        ConfigError: none was published.
    """
    model = build_for_classes(config)
    variant = _variant_of(getattr(model, "backbone", None))
    if is_classifier(config.model):
        if variant:
            return variant.weights
        raise ConfigError(
            "no classifier was published for this config's architecture",
            setting=setting,
            hint="name a checkpoint",
        )
    # these take time to import
    from mmdet.models import RetinaNet

    from mmpvt.datasets.download.catalog import FILES

    known = FILES["detectors"]
    if isinstance(model, RetinaNet) and variant and variant.full_name in known:
        return known[variant.full_name].verified_url
    raise ConfigError(
        "no detector was published for this config's architecture",
        setting=setting,
        hint="name a checkpoint, or take a RetinaNet with FPN and one of these backbones: "
        + ", ".join(known),
    )


def _variant_of(backbone: nn.Module | None) -> Variant | None:
    kinds = {1: PyramidVisionTransformer, 2: PyramidVisionTransformerV2}
    for variant in VARIANTS:
        if isinstance(backbone, kinds[variant.version]) and backbone.arch == variant.arch:
            return variant
    return None
