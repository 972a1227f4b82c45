"""Class names: what a config says, and who decides what a trained model's labels mean."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TypeGuard

from mmengine.config import Config

from mmpvt.engine.config_parts import dataset_kind, iter_dicts, split_datasets
from mmpvt.errors import CheckpointMismatchError, ConfigError
from mmpvt.utils.text import few, told_apart

CLASSIFYING = {"bbox_head", "mask_head", "decode_head", "auxiliary_head"}
TEXT = {"language_model", "text_encoder"}  # parts of models that compare images with text
MOST_NAMED = 3  # classes that differ, in a sentence
log = logging.getLogger("mmpvt")


def read_class_lists(config: Config) -> None:
    """Replaces every data set's ``metainfo.classes`` by a tuple of names.

    MMEngine takes a string that names no file for the names themselves, a character each.

    Args:
        config (Config): changed. A string is the path of a text file with a name a line, or else
            a single class: ``classes=("car")`` lacks its comma.

    Raises:
        ConfigError: the file is missing or empty; the names aren't strings, or one is repeated; the
            classes stand where the data set doesn't read them.
    """
    lists: dict[str, tuple[str, ...]] = {}  # by what is written: said once, not for each split
    for split, dataset in split_datasets(config):
        where = f"{split}_dataloader's data set"
        meta = dataset.get("metainfo")
        if meta is not None and not isinstance(meta, dict):
            raise ConfigError(
                f"the {where}'s metainfo is {str(meta)[:60]!r}: it takes a dict",
                hint="write metainfo=dict(classes=(…))",
            )
        unread = [key for key in ("classes", "CLASSES") if key in dataset]
        if unread or "CLASSES" in (meta or {}):
            raise ConfigError(
                f"the {where} has {(*unread, 'metainfo.CLASSES')[0]}, which isn't read",
                hint="the class names belong in metainfo=dict(classes=(…))",
            )
        if meta and meta.get("classes") is not None:
            written = repr(meta["classes"])
            if written not in lists:
                lists[written] = _class_list(meta["classes"], where)
            meta["classes"] = lists[written]
        if meta and "palette" in meta:
            _check_palette(meta, where, config.get("default_scope") == "mmseg")


def _class_list(classes: object, where: str) -> tuple[str, ...]:
    if isinstance(classes, str):
        file = Path(classes)
        if file.is_file():
            try:
                lines = file.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"the file of class names {file} of the {where} can't be read as text: {error}"
                ) from error
            classes = [line.strip() for line in lines if line.strip()]
            if not classes:
                raise ConfigError(f"the file of class names {file} of the {where} is empty")
        elif "/" in classes or "\\" in classes or file.suffix == ".txt":
            raise ConfigError(f"the {where} names its classes in {file}: there is no such file")
        else:
            log.warning(
                "the %s has metainfo.classes=%r: taken as one class; a tuple of one has a comma, "
                "(%r,)",
                *(where, classes, classes),
            )
            classes = [classes]
    if not isinstance(classes, list | tuple) or not all(isinstance(c, str) for c in classes):
        raise ConfigError(
            f"the {where}'s metainfo.classes is {str(classes)[:60]!r}: it takes a tuple of names, "
            'such as ("car", "person")'
        )
    repeated = [name for name, count in Counter(classes).items() if count > 1]
    if repeated:
        raise ConfigError(f"the {where}'s metainfo.classes names {few(repeated)} more than once")
    return tuple(classes)


def _check_palette(meta: dict, where: str, is_segmentation: bool) -> None:
    """Drops a palette that is None; raises a ConfigError if it holds no colours.

    MMDetection also takes a palette's name or a single colour, MMSegmentation doesn't.
    """
    palette = meta["palette"]
    if palette is None:
        meta.pop("palette")
        return
    if not is_segmentation and (isinstance(palette, str) or _is_colour(palette)):
        return
    if not _holds_colours(palette):
        raise ConfigError(
            f"the {where}'s metainfo.palette is {str(palette)[:60]!r}: it takes a colour a class, "
            "three numbers from 0 to 255 each, such as [(220, 20, 60), (0, 82, 0)]"
        )


def _holds_colours(palette: object) -> TypeGuard[Sequence[Sequence[float]]]:
    return isinstance(palette, list | tuple) and all(map(_is_colour, palette))


def _is_colour(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(isinstance(level, int | float) and 0 <= level <= 255 for level in value)
    )


def is_classifier(model: Mapping) -> bool:
    """Whether a model's config is that of one of mmpretrain's image classifiers."""
    return str(model.get("type")).rpartition(".")[2] == "ImageClassifier"


def compares_with_text(model: object) -> bool:
    """Whether a model's labels follow from the names that it is given, as Grounding DINO's do."""
    return any(TEXT & part.keys() for part in iter_dicts(model))


def iter_heads(model: object) -> Iterator[tuple[str, dict]]:
    """The heads of a model's config that tell classes apart, each with its name."""
    for part in iter_dicts(model):
        known = CLASSIFYING | ({"head"} if is_classifier(part) else set())
        for name in sorted(known & part.keys()):
            heads = part[name] if isinstance(part[name], list | tuple) else [part[name]]
            yield from ((name, head) for head in heads if isinstance(head, dict))


def head_counts(model: object) -> dict[str, set[int]]:
    """The numbers of classes that a model's heads are for, by the heads' names.

    In a model that compares images with text, such as Grounding DINO, ``num_classes`` counts
    tokens: it gives none.

    Raises:
        ConfigError: a number is none.
    """
    counts: dict[str, set[int]] = {}
    if isinstance(model, dict) and "language_model" in model:
        return counts
    for name, head in iter_heads(model):
        number = head.get("num_classes")
        if number is not None and not isinstance(number, int):
            raise ConfigError(
                f"the model's {name} has num_classes={number!r}: it takes an int, without quotes "
                "or brackets"
            )
        counts.setdefault(name, set()).update([] if number is None else [number])
    return counts


def dataset_meta(config: Config, split: str) -> dict:
    """The ``classes`` and, perhaps, ``palette`` of a split's first data set; empty without one."""
    dataset = next((dataset for _, dataset in split_datasets(config, [split])), None)
    if dataset is None:
        return {}
    kind = dataset_kind(dataset, config.get("default_scope", "mmdet"))
    meta = kind._load_metainfo(dict(dataset.get("metainfo") or {})) if kind else {}
    meta = {key.lower(): value for key, value in meta.items()}
    if not _holds_colours(meta.get("palette")):  # a name, or a single colour
        meta.pop("palette", None)
    return meta


def model_meta(config: Config, checkpoint: Mapping) -> dict:
    """What a trained model's labels mean: the one place that decides.

    The checkpoint says so, or else the config's own data: test, validation, training. A source
    whose number of classes isn't the heads' comes last; any disagreement is logged.

    Args:
        config (Config): of the experiment.
        checkpoint (Mapping): as it was read, with ``meta`` or without.

    Returns:
        dict: ``classes``, a tuple of strings, and, perhaps, ``palette``.
    """
    sources = {"the checkpoint": stored_meta(checkpoint)}
    for split in ("test", "val", "train"):
        sources[f"the config's {split} data set"] = dataset_meta(config, split)
    sources = {name: meta for name, meta in sources.items() if meta.get("classes")}
    if not sources:
        return {}
    counts = set().union(*head_counts(config.model).values())
    fitting = [
        name for name, meta in sources.items() if not counts or len(meta["classes"]) in counts
    ]
    chosen = next(iter(fitting or sources))
    meta = dict(sources[chosen], classes=tuple(map(str, sources[chosen]["classes"])))
    others = [
        f"{name} has {len(other['classes'])} ({few(other['classes'])})"
        for name, other in sources.items()
        if len(other["classes"]) != len(meta["classes"])
    ]
    if not fitting:
        others.insert(0, f"the model's heads are for {' and '.join(map(str, sorted(counts)))}")
    if others:
        log.warning(
            "classes are named as in %s, which has %d (%s); %s",
            *(chosen, len(meta["classes"]), few(meta["classes"]), "; ".join(others)),
        )
    return meta


def stored_meta(checkpoint: Mapping) -> dict:
    """Classes and palette that a checkpoint carries, by lower-case name."""
    meta = checkpoint.get("meta")
    if not isinstance(meta, Mapping):
        return {}
    stored = meta.get("dataset_meta", meta)  # MMDetection 2 has CLASSES in meta itself
    if not isinstance(stored, Mapping):
        return {}
    found = {key.lower(): value for key, value in stored.items() if isinstance(key, str)}
    classes, palette = found.get("classes"), found.get("palette")
    if not isinstance(classes, list | tuple) or not all(isinstance(c, str | int) for c in classes):
        return {}
    if not _holds_colours(palette) or len(palette) < len(classes):
        return dict(classes=classes)
    return dict(classes=classes, palette=[tuple(colour) for colour in palette])


def compare_with_checkpoint(classes: Sequence[str], checkpoint: Mapping) -> str | None:
    """Compares a data set's classes with those that a checkpoint was trained with.

    Args:
        classes (Sequence[str]): the data set's.
        checkpoint (Mapping): as it was read.

    Returns:
        str | None: in which names they differ, a sentence, or None.

    Raises:
        CheckpointMismatchError: a class of both has another index: labels would mean others.
    """
    stored = [str(name) for name in stored_meta(checkpoint).get("classes") or ()]
    classes = [str(name) for name in classes]
    if not stored or not classes or stored == classes:
        return None
    places = {name: i for i, name in enumerate(classes)}
    moved = [
        f"its class {i} is {name!r}, which is the data set's class {places[name]}"
        for i, name in enumerate(stored)
        if name in places and classes[i : i + 1] != [name] and stored.count(name) == 1
    ]
    if moved:
        raise CheckpointMismatchError(
            "the checkpoint was trained with classes in another order than the data set's: "
            + "; ".join(moved[:2]),
            hint="set metainfo=dict(classes=…) to the checkpoint's order",
        )
    return (
        f"the checkpoint was trained on {len(stored)} classes, the data set has {len(classes)}: "
        f"{class_differences(stored, classes)}"
    )


def iter_differing(
    one: Sequence[str], other: Sequence[str]
) -> Iterator[tuple[int, str | None, str | None]]:
    """Each label of which two lists of classes have different names, None past a list's end."""
    for label, (name, other_name) in enumerate(zip_longest(one, other)):
        if name != other_name:
            yield label, name, other_name


def class_differences(stored: Sequence[str], classes: Sequence[str]) -> str:
    """The first labels at which a checkpoint's and a data set's classes differ, for a sentence."""
    differing = [
        "class {} is {} in the checkpoint and {} in the data set".format(label, *_quoted(*names))
        for label, *names in iter_differing(stored, classes)
    ]
    more = [f"{len(differing) - MOST_NAMED} more"] if len(differing) > MOST_NAMED else []
    return ", ".join(differing[:MOST_NAMED] + more)


def _quoted(*names: str | None) -> list[str]:
    quoted = iter(told_apart(*(name for name in names if name is not None)))
    return ["missing" if name is None else next(quoted) for name in names]
