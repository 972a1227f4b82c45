"""Class names: what a config says, what annotation files hold, what a model was trained with."""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from mmengine.config import Config

from mmpvt.engine.config_parts import dataset_kind, iter_datasets, iter_dicts
from mmpvt.errors import UserError

CLASSIFYING = {"bbox_head", "mask_head", "decode_head", "auxiliary_head"}
SIMILARITY = 0.7  # difflib's ratio from which a name may be another one misspelt
NAMED = 3  # names in a sentence
log = logging.getLogger("mmpvt")


# --- configs


def read_class_lists(config: Config) -> None:
    """Replaces every data set's ``metainfo.classes`` by a tuple of names.

    MMEngine takes a string that names no file for the names themselves, a character each.

    Args:
        config (Config): changed. A string is the path of a text file with a name a line, or else
            a single class: ``classes=("car")`` lacks its comma.

    Raises:
        UserError: the file is missing or empty; the names aren't strings, or one is there twice;
            the classes stand where the data set doesn't read them.
    """
    lists: dict[str, tuple[str, ...]] = {}  # by what is written: said once, not for each split
    for split in ("train", "val", "test"):
        for dataset in iter_datasets((config.get(f"{split}_dataloader") or {}).get("dataset")):
            where = f"{split}_dataloader's data set"
            meta = dataset.get("metainfo")
            for found, keys in ((dataset, ("classes", "CLASSES")), (meta or {}, ("CLASSES",))):
                if key := next((key for key in keys if key in found), None):
                    said = "metainfo." * (found is meta) + key
                    raise UserError(
                        f"the {where} has {said}, which isn't read: the class names belong in "
                        "metainfo=dict(classes=(…))"
                    )
            if isinstance(meta, dict) and meta.get("classes") is not None:
                written = repr(meta["classes"])
                if written not in lists:
                    lists[written] = _class_list(meta["classes"], where)
                meta["classes"] = lists[written]


def _class_list(classes: object, where: str) -> tuple[str, ...]:
    if isinstance(classes, str):
        file = Path(classes)
        if file.is_file():
            try:
                lines = file.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, ValueError) as error:
                raise UserError(
                    f"the file of class names {file} of the {where} can't be read as text: {error}"
                ) from error
            classes = [line.strip() for line in lines if line.strip()]
            if not classes:
                raise UserError(f"the file of class names {file} of the {where} is empty")
        elif "/" in classes or "\\" in classes or file.suffix == ".txt":
            raise UserError(f"the {where} names its classes in {file}: there is no such file")
        else:
            log.warning(
                "the %s has metainfo.classes=%r: taken as one class; a tuple of one has a comma, "
                "(%r,)",
                *(where, classes, classes),
            )
            classes = [classes]
    if not isinstance(classes, list | tuple) or not all(isinstance(c, str) for c in classes):
        raise UserError(
            f"the {where}'s metainfo.classes is {str(classes)[:60]!r}: it takes a tuple of names, "
            'such as ("car", "person")'
        )
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice:
        raise UserError(f"the {where}'s metainfo.classes names {few(twice)} more than once")
    return tuple(classes)


def class_names(dataset: dict, kind: type | None) -> list[str]:
    """The classes of a data set: those that its config names, or its type knows."""
    known = getattr(kind, "METAINFO", {}).get("classes", ())
    return list((dataset.get("metainfo") or {}).get("classes") or known)


# --- annotations


@dataclass(frozen=True)
class Listed:
    """The classes of a data set's config, and the names in its annotations.

    Attributes:
        file: of the annotations.
        classes: by label.
        names: of the file's categories, in its order.
        used: names of those that have annotations a detector learns from: no crowds.
        annotated: whether the file holds any annotation.
        complete: whether ``names`` lists all categories, as COCO's files do, rather than those
            that happen to be annotated, as VOC's do.
    """

    file: Path
    classes: Sequence[str]
    names: Sequence[str]
    used: frozenset[str]
    annotated: bool = True
    complete: bool = True

    @classmethod
    def of_coco(cls, file: Path, classes: Sequence[str], content: Mapping) -> Listed:
        """Of the content of an annotation file in COCO's format."""
        by_id = {}
        for category in content["categories"]:
            if isinstance(category, dict) and isinstance(category.get("id"), int | str):
                by_id[category["id"]] = str(category.get("name"))
        used = {
            a["category_id"]
            for a in content["annotations"]
            if isinstance(a, dict)
            and isinstance(a.get("category_id"), int | str)
            and not (a.get("iscrowd") or a.get("ignore"))
        }
        names = frozenset(by_id[number] for number in used & by_id.keys())
        return cls(file, classes, list(by_id.values()), names, bool(content["annotations"]))

    @property
    def lacking(self) -> list[str]:
        """Classes of the config that the file has no category for."""
        return [name for name in self.classes if name not in set(self.names)]

    @property
    def unused(self) -> list[str]:
        """The file's categories that the config has no class for."""
        return [name for name in dict.fromkeys(self.names) if name not in set(self.classes)]

    def misspelt(self) -> list[tuple[str, str]]:
        """Classes that the file lacks, each with a category of nearly the same name."""
        pairs = ((name, nearest(name, self.unused)) for name in self.lacking)
        return [(name, near) for name, near in pairs if near]

    def problem(self) -> str | None:
        """Why the file's categories can't be mapped to the classes, in a sentence, or None."""
        twice = [name for name, count in Counter(self.names).items() if count > 1]
        if twice and set(twice) & set(self.classes):
            return (
                f"{self.file} has several categories of the name {few(twice)}: labels go by "
                "name, so give each category a name of its own, or merge them"
            )
        counts = f"the config has {len(self.classes)} classes, the file {len(self.names)}"
        misspelt = self.misspelt()
        has_none = bool(self.names) and not set(self.classes) & set(self.names)
        # of 80 classes that are all others, one is a little like another by chance
        if misspelt and not (has_none and 2 * len(misspelt) < len(self.classes)):
            name, near = misspelt[0]
            more = f" (and {len(misspelt) - 1} more)" if len(misspelt) > 1 else ""
            return (
                f"the config's class {name!r} is not in {self.file}, which has {near!r}{more}: "
                f"correct metainfo=dict(classes=…) in the config ({counts})"
            )
        if has_none:
            return (
                f"{self.file} holds none of the config's {len(self.classes)} classes "
                f"({few(self.classes)}), but {len(self.names)} others ({few(self.names)}): "
                "set metainfo=dict(classes=…) in the config"
            )
        return None

    def note(self) -> str | None:
        """That the classes are a subset of the file's categories, in a sentence, or None."""
        if not self.unused:
            return None
        return (
            f"{len(self.classes) - len(self.lacking)} of the {len(set(self.names))} categories of "
            f"{self.file} are used; annotations of {few(self.unused)} are skipped, as the "
            "config has no such class"
        )


def check_classes(split: str, listed: Sequence[Listed]) -> list[str]:
    """Compares a split's classes with its annotation files.

    Args:
        split (str): ``'train'``, ``'val'`` or ``'test'``.
        listed (Sequence[Listed]): one a data set of the split.

    Returns:
        list[str]: what is unusual but right, a sentence each.

    Raises:
        UserError: a file's categories can't be mapped to the classes, or hold nothing to learn.
    """
    notes = []
    for one in listed:
        if problem := one.problem():
            raise UserError(problem)
        notes += filter(None, [one.note()])
        lacking = one.lacking if one.complete else []
        if lacking and split != "train":
            notes.append(
                f"{one.file} has no category {few(lacking)}: the score is over the other "
                f"{len(one.classes) - len(lacking)} of {len(one.classes)} classes"
            )
        if split != "train" and one.annotated and not one.used & set(one.classes):
            notes.append(f"{one.file} has no annotation of a class to score: {_nothing(one)}")
    if split != "train" or not listed:
        return notes
    names = {name for one in listed for name in one.names}
    lacking = [name for one in listed for name in one.lacking if name not in names]
    where = listed[0].file if len(listed) == 1 else f"any of {len(listed)} annotation files"
    if lacking and all(one.complete for one in listed):
        lacking = list(dict.fromkeys(lacking))
        raise UserError(
            f"{len(lacking)} of the config's {len(listed[0].classes)} classes ({few(lacking)}) "
            f"are not in {where}, which has {len(names)} categories ({few(sorted(names))}): set "
            "metainfo=dict(classes=…) and the heads' num_classes to what is there, or add the "
            "categories to the file"
        )
    if not any(one.used & set(one.classes) for one in listed):
        raise UserError(f"there is nothing to train on in {where}: {_nothing(listed[0])}")
    return notes


def _nothing(listed: Listed) -> str:
    if not listed.annotated:
        return "it holds no annotations"
    if not listed.used:
        return "all annotations are crowds or marked to be ignored"
    return f"its annotations are of {few(sorted(listed.used))}, which the config has no class for"


def check_subset(dataset: dict, kind: type) -> None:
    """Checks the classes of a segmenter's data set against those its type knows.

    MMSegmentation maps labels by name where a config names fewer classes than the type has.

    Raises:
        UserError: a name is none of the type's, or there are fewer colours than classes.
    """
    known = kind.METAINFO.get("classes") or ()
    classes = class_names(dataset, kind)
    strange = [name for name in classes if name not in known]
    if known and strange:
        near = nearest(strange[0], known)
        hint = f"did you mean {near!r}? " if near else ""
        raise UserError(
            f"the config's class {strange[0]!r} is none of {kind.__name__}'s {len(known)} classes "
            f"({few(known)}): {hint}label maps with classes of their own take "
            "type='BaseSegDataset'"
        )
    palette = (dataset.get("metainfo") or {}).get("palette")
    if palette is not None and classes and len(palette) < len(classes):
        raise UserError(
            f"metainfo has {len(palette)} colours in its palette for {len(classes)} classes "
            f"({few(classes)})"
        )


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that ``name`` may be meant for, or None."""
    folded = {_folded(other): other for other in names}
    close = difflib.get_close_matches(_folded(name), folded, n=1, cutoff=SIMILARITY)
    return folded[close[0]] if close else None


def _folded(name: str) -> str:
    return "".join(filter(str.isalnum, name.casefold())) or name


# --- models


def head_counts(model: object) -> dict[str, set[int]]:
    """The numbers of classes that a model's heads are for, by the heads' names.

    Args:
        model (dict): the model's config. Of one that compares images with text, such as
            Grounding DINO, ``num_classes`` counts tokens: it gives none.
    """
    counts: dict[str, set[int]] = {}
    if isinstance(model, dict) and "language_model" in model:
        return counts
    for part in iter_dicts(model):
        for name in sorted(CLASSIFYING & part.keys()):
            heads = part[name] if isinstance(part[name], list) else [part[name]]
            found = {head.get("num_classes") for head in heads if isinstance(head, dict)} - {None}
            counts.setdefault(name, set()).update(found)
    return counts


def check_class_counts(classes: Sequence[str], model: dict) -> None:
    """Compares a data set's classes with the model's heads.

    Args:
        classes (Sequence[str]): the data set's.
        model (dict): a model's.

    Raises:
        UserError: a head is for another number of classes.
    """
    for name, counts in head_counts(model).items():
        wrong = counts - {len(classes)}
        if classes and wrong:
            raise UserError(
                f"the model's {name} is for {wrong.pop()} classes, the data set has "
                f"{len(classes)} ({few(classes)}): set num_classes in the config, or "
                "metainfo=dict(classes=…) of the data set"
            )


def check_same_classes(config: Config, splits: Iterable[str]) -> None:
    """Checks that all data sets that a model is trained and scored on give labels one meaning.

    Args:
        config (Config): of an experiment.
        splits (Iterable[str]): of ``'train'``, ``'val'`` and ``'test'``, those about to be used.

    Raises:
        UserError: two list the same classes in another order, or, of one split, other classes.
    """
    if not head_counts(config.model):
        return
    named = [
        (split, classes)
        for split in splits
        for dataset in iter_datasets((config.get(f"{split}_dataloader") or {}).get("dataset"))
        if (classes := class_names(dataset, dataset_kind(dataset, config.get("default_scope"))))
    ]
    for split, classes in named:
        first, expected = named[0]
        if classes == expected or (split != first and sorted(classes) != sorted(expected)):
            continue
        pairs = enumerate(zip_longest(expected, classes))
        label, (one, other) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
        raise UserError(
            f"the config's data sets ({first}, {split}) disagree on what a label means: {label} is "
            f"{one!r} in one and {other!r} in another; give all the same metainfo=dict(classes=…)"
        )


def dataset_meta(config: Config, split: str) -> dict:
    """The ``classes`` and, perhaps, ``palette`` of a split's first data set; empty without one."""
    loader = config.get(f"{split}_dataloader") or {}
    dataset = next(iter_datasets(loader.get("dataset")), None)
    if dataset is None:
        return {}
    kind = dataset_kind(dataset, config.get("default_scope", "mmdet"))
    meta = kind._load_metainfo(dict(dataset.get("metainfo") or {})) if kind else {}
    return {key.lower(): value for key, value in meta.items()}


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
    sources |= {
        f"the config's {split} data set": dataset_meta(config, split)
        for split in ("test", "val", "train")
    }
    sources = {name: meta for name, meta in sources.items() if meta.get("classes")}
    if not sources:
        return {}
    counts = {count for several in head_counts(config.model).values() for count in several}
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
    meta = {}
    if isinstance(classes, list | tuple) and all(isinstance(name, str | int) for name in classes):
        meta["classes"] = classes
        if _is_palette(palette) and len(palette) >= len(classes):
            meta["palette"] = palette
    return meta


def _is_palette(value: object) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(colour, list | tuple)
        and len(colour) == 3
        and all(isinstance(level, int) and 0 <= level <= 255 for level in colour)
        for colour in value
    )


def compare_with_checkpoint(classes: Sequence[str], checkpoint: Mapping) -> str | None:
    """Compares a data set's classes with those that a checkpoint was trained with.

    Args:
        classes (Sequence[str]): the data set's.
        checkpoint (Mapping): as it was read.

    Returns:
        str | None: in which names they differ, a sentence, or None.

    Raises:
        UserError: they are the same in another order, so that labels would mean other classes.
    """
    stored = [str(name) for name in stored_meta(checkpoint).get("classes") or ()]
    classes = [str(name) for name in classes]
    if not stored or not classes or stored == classes:
        return None
    if sorted(stored) == sorted(classes):
        i = next(i for i, name in enumerate(stored) if name != classes[i])
        raise UserError(
            f"the checkpoint was trained with the config's {len(classes)} classes in another "
            f"order: its class {i} is {stored[i]!r}, the config's is {classes[i]!r}; set "
            "metainfo=dict(classes=…) to the checkpoint's order"
        )
    return (
        f"the checkpoint was trained on {len(stored)} classes ({few(stored)}), the data set has "
        f"{len(classes)} ({few(classes)})"
    )


def few(names: Iterable) -> str:
    """The first three of ``names``, for a sentence."""
    names = list(names)
    return ", ".join(map(str, names[:NAMED])) + (" …" if len(names) > NAMED else "")
