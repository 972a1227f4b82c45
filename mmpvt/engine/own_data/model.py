"""A model's heads for the classes of a user's own data."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.config import Config, ConfigDict

from mmpvt.engine.class_names import compares_with_text
from mmpvt.engine.config_parts import dataset_kind, iter_dicts, split_datasets
from mmpvt.errors import ConfigError

# Parts of a model whose num_classes isn't the number of the data's classes.
OTHER_COUNTS = ("backbone", "neck", "data_preprocessor", "rpn_head")
TRACKING = ("detector", "reid", "track_head")


def check_supported(config: Config) -> None:
    """Checks that a model can learn from annotated images alone.

    Raises:
        ConfigError: it needs more than a data set of images with boxes, masks or label maps holds.
    """
    reason = _unsupported(config)
    if reason:
        raise ConfigError(f"this model can't be trained on data of one's own here: {reason}")


def _unsupported(config: Config) -> str | None:
    model = list(iter_dicts(config.model))
    loader = list(iter_dicts(config.get("train_dataloader")))
    if compares_with_text(config.model):
        return "it compares images with texts of its own data set"
    if any("teacher_config" in part for part in model):
        return "it learns from a teacher, which was trained on other classes"
    if "semi_train_cfg" in config.model or any("unsup" in str(key) for p in loader for key in p):
        return "it learns from images without annotations as well"
    if any(str(p.get("type")).endswith("LoadProposals") or p.get("proposal_file") for p in loader):
        return "it takes region proposals that another model has computed"
    if any(key in config.model for key in TRACKING) or _reads_videos(config):
        return "it learns from videos"
    if "semantic_head" in config.model or "semantic_head" in config.model.get("roi_head", {}):
        return "it learns from label maps beside the objects"
    return None


def _reads_videos(config: Config) -> bool:
    from mmdet.datasets import BaseVideoDataset

    scope = config.get("default_scope") or "mmengine"
    kinds = (dataset_kind(dataset, scope) for _, dataset in split_datasets(config))
    return any(isinstance(kind, type) and issubclass(kind, BaseVideoDataset) for kind in kinds)


def set_num_classes(config: Config, count: int) -> list[str]:
    """Sets the number of classes in every head: all stages, mask and segmentation heads, queries.

    Args:
        config (Config): changed.
        count (int): the number of classes.

    Returns:
        list[str]: what else was changed, a sentence each.

    Raises:
        ConfigError: the model has no head whose number of classes could be set.
    """
    notes: list[str] = []
    heads = 0
    for part, old in _with_old_counts(config.model, None):
        if "num_classes" in part:
            part["num_classes"] = count
            heads += 1
        if "num_things_classes" in part:  # of panoptic models, which learn the objects alone
            part["num_things_classes"], part["num_stuff_classes"] = count, 0
            heads += 1
        if part.get("out_channels") is not None and old is not None and "num_classes" in part:
            _set_out_channels(part, count, old)
        if isinstance(part.get("class_weight"), list | tuple):
            _set_class_weight(part, count, old, notes)
    preprocessor = config.get("data_preprocessor") or {}
    if preprocessor.get("num_classes"):  # a classifier's, which mixes labels
        preprocessor["num_classes"] = count
    if not heads:
        raise ConfigError("the config's model has no head that tells classes apart")
    for part in iter_dicts(config.model):
        if part.get("panoptic_on"):
            part.update(panoptic_on=False, semantic_on=False, instance_on=True)
    return list(dict.fromkeys(notes))


def _with_old_counts(part: object, old: int | None) -> Iterator[tuple[ConfigDict, int | None]]:
    """The dicts of the heads, each with the number of classes that it was for."""
    if isinstance(part, dict):
        old = part.get("num_classes", old)
        if "num_things_classes" in part:
            old = part["num_things_classes"] + part.get("num_stuff_classes", 0)
        inside = [value for key, value in part.items() if key not in OTHER_COUNTS]
        yield part, old
        for value in inside:
            yield from _with_old_counts(value, old)
    elif isinstance(part, list | tuple):
        for value in part:
            yield from _with_old_counts(value, old)


def _set_out_channels(head: ConfigDict, count: int, old: int) -> None:
    """A segmentation head's channels: one a class, or a single one for two."""
    if head["out_channels"] == old:
        head["out_channels"] = count
    elif head["out_channels"] == 1 and count != 2:
        raise ConfigError(
            f"the config's {head['type']} has a single channel, which tells two classes apart, and "
            f"the data has {count}",
            hint="take a config whose head has a channel for each class",
        )


def _set_class_weight(loss: ConfigDict, count: int, old: int | None, notes: list[str]) -> None:
    """Weights of classes: the same for all, and perhaps another of the background, or none."""
    weights = list(loss["class_weight"])
    has_background = len(weights) != old
    foreground = weights[:-1] if has_background else weights
    if len(set(foreground)) == 1:
        loss["class_weight"] = foreground[:1] * count + weights[len(foreground) :]
    else:
        loss.pop("class_weight")
        notes.append(f"class_weight of {loss.get('type')} was for other classes: removed")
