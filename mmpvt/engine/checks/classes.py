"""Compares a config's classes with those of its annotations, evaluators and model's heads."""

from __future__ import annotations

import difflib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from mmengine.config import Config

from mmpvt.datasets.coco import files_by_id, read_annotations
from mmpvt.datasets.pipelines import transform_name
from mmpvt.engine.class_names import head_counts, iter_differing, iter_heads
from mmpvt.engine.config_parts import iter_dicts
from mmpvt.engine.dataset_config import DatasetConfig, iter_dataset_configs
from mmpvt.errors import ConfigError, DatasetError
from mmpvt.utils.text import few, told_apart

IOU_METRICS = ("mIoU", "mDice", "mFscore")  # of MMSegmentation's IoUMetric
SIMILARITY = 0.7  # difflib's ratio from which a name may be another one misspelt
BY_ID = ("OVCocoMetric", "CocoOccludedSeparatedMetric")  # they name class APs by id


class AnnotatedClasses(NamedTuple):
    """The classes of a data set's config, and the names in its annotations."""

    file: Path  # of the annotations
    classes: Sequence[str]  # of the config, by label
    names: Sequence[str]  # of the file's categories, in its order
    used: frozenset[str]  # those that have annotations a detector learns from: no crowds
    annotated: bool = True  # whether the file holds any annotation
    # whether names lists all categories, as COCO's files do, or those that occur, as VOC's do
    complete: bool = True

    @classmethod
    def of_coco(cls, file: Path, classes: Sequence[str], content: Mapping) -> AnnotatedClasses:
        """Of an annotation file in COCO's format, with its content."""
        by_id = {category["id"]: category["name"] for category in content["categories"]}
        names = frozenset(
            by_id[a["category_id"]]
            for a in content["annotations"]
            if isinstance(a, dict)
            and isinstance(a.get("category_id"), int | str)
            and a["category_id"] in by_id
            and not (a.get("iscrowd") or a.get("ignore"))
        )
        return cls(file, classes, list(by_id.values()), names, bool(content["annotations"]))

    @property
    def lacking(self) -> list[str]:
        """Classes of the config that the file has no category for."""
        return [name for name in self.classes if name not in set(self.names)]

    @property
    def unused(self) -> list[str]:
        """The file's categories that the config has no class for."""
        return [name for name in dict.fromkeys(self.names) if name not in set(self.classes)]

    def problem(self) -> str | None:
        """Why the file's categories can't be mapped to the classes, in a sentence, or None."""
        twice = [name for name, count in Counter(self.names).items() if count > 1]
        if twice and set(twice) & set(self.classes):
            return (
                f"{self.file} has several categories of the name {few(twice)}: labels go by "
                "name, so give each category a name of its own, or merge them"
            )
        counts = f"the config has {len(self.classes)} classes, the file {len(self.names)}"
        pairs = ((name, nearest(name, self.unused)) for name in self.lacking)
        misspelt = [(name, near) for name, near in pairs if near]
        has_none = bool(self.names) and not set(self.classes) & set(self.names)
        # of 80 classes that are all others, one is a little like another by chance
        if misspelt and not (has_none and 2 * len(misspelt) < len(self.classes)):
            name, near = told_apart(*misspelt[0])
            more = f" (and {len(misspelt) - 1} more)" if len(misspelt) > 1 else ""
            return (
                f"the config's class {name} is not in {self.file}, which has {near}{more}: "
                f"correct metainfo=dict(classes=…) in the config ({counts})"
            )
        if has_none:
            return (
                f"{self.file} holds none of the config's {len(self.classes)} classes "
                f"({few(self.classes)}), but {len(self.names)} others ({few(self.names)}): "
                "set metainfo=dict(classes=…) in the config"
            )
        return None


def check_classes(split: str, listed: Sequence[AnnotatedClasses]) -> list[str]:
    """Compares the classes of a split's data sets with their annotation files.

    Returns:
        list[str]: what is unusual but right, a sentence each.

    Raises:
        DatasetError: a file's categories can't be mapped to the classes, or hold nothing to learn.
    """
    notes: list[str] = []
    for one in listed:
        if problem := one.problem():
            raise DatasetError(problem)
        if one.unused:
            notes.append(
                f"{len(one.classes) - len(one.lacking)} of the {len(set(one.names))} categories of "
                f"{one.file} are used; annotations of {few(one.unused)} are skipped, as the config "
                "has no such class"
            )
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
        raise DatasetError(
            f"{len(lacking)} of the config's {len(listed[0].classes)} classes ({few(lacking)}) "
            f"are not in {where}, which has {len(names)} categories ({few(sorted(names))})",
            hint="set metainfo=dict(classes=…) and the heads' num_classes to what is there, or add "
            "the categories to the file",
        )
    if not any(one.used & set(one.classes) for one in listed):
        raise DatasetError(f"there is nothing to train on in {where}: {_nothing(listed[0])}")
    return notes


def _nothing(listed: AnnotatedClasses) -> str:
    if not listed.annotated:
        return "it holds no annotations"
    if not listed.used:
        return "all annotations are crowds or marked to be ignored"
    return f"its annotations are of {few(sorted(listed.used))}, which the config has no class for"


def check_subset(dataset: DatasetConfig) -> None:
    """Raises a ConfigError if a segmentation data set's config has a class that its type lacks.

    MMSegmentation maps labels by name where a config names fewer classes than the type has.
    """
    known, classes = dataset.known_classes, dataset.classes
    unknown = [name for name in classes if name not in known]
    if dataset.kind and known and unknown:
        near = nearest(unknown[0], known)
        raise ConfigError(
            f"the config's class {unknown[0]!r} is none of {dataset.kind.__name__}'s {len(known)} "
            f"classes ({few(known)})",
            hint=(f"did you mean {near!r}? " if near else "")
            + "label maps with classes of their own take type='BaseSegDataset'",
        )
    palette = (dataset.fields.get("metainfo") or {}).get("palette")
    if palette is not None and classes and len(palette) < len(classes):
        raise ConfigError(
            f"metainfo has {len(palette)} colours in its palette for {len(classes)} classes "
            f"({few(classes)})"
        )


def nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of ``names`` that ``name`` may be meant for, or None."""

    def folded(text: str) -> str:
        composed = unicodedata.normalize("NFKC", text)
        return "".join(filter(str.isalnum, composed.casefold())) or text

    known = {folded(other): other for other in names}
    close = difflib.get_close_matches(folded(name), known, n=1, cutoff=SIMILARITY)
    return known[close[0]] if close else None


def check_class_counts(classes: Sequence[str], model: dict) -> None:
    """Raises a ConfigError if a head is for another number of classes than a data set's."""
    for name, counts in head_counts(model).items():
        wrong = counts - {len(classes)}
        if classes and wrong:
            raise ConfigError(
                f"the model's {name} is for {wrong.pop()} classes, the data set has "
                f"{len(classes)} ({few(classes)})",
                hint="set num_classes in the config, or metainfo=dict(classes=…) of the data set",
            )


def check_class_weights(model: dict) -> None:
    """Raises a ConfigError if a head's loss weighs another number of classes than the head has."""
    for name, head in iter_heads(model):
        number = head.get("num_classes")
        for key in ("loss_cls", "loss_decode", "loss"):
            losses = head.get(key) or ()
            for loss in losses if isinstance(losses, list | tuple) else [losses]:
                weights = loss.get("class_weight") if isinstance(loss, dict) else None
                if not isinstance(weights, list | tuple) or not isinstance(number, int):
                    continue
                expected = head.get("out_channels") or number
                if key == "loss_cls" and not loss.get("use_sigmoid"):
                    expected = number + 1  # the last is the background
                if len(weights) != expected:
                    raise ConfigError(
                        f"the {loss['type']} of the model's {name} has {len(weights)} weights in "
                        f"class_weight, and takes {expected}: one a class"
                        + ", and the background's"
                        * (expected == number + 1)
                    )


def check_same_classes(config: Config, splits: Iterable[str]) -> None:
    """Raises a ConfigError if data sets that a model is trained and scored on don't give labels one
    meaning: the same classes in another order, or, of one split, other classes."""
    if not head_counts(config.model):
        return
    named = [(s, d.classes) for s, d in iter_dataset_configs(config, splits) if d.classes]
    for split, classes in named:
        first, expected = named[0]
        if classes == expected or (split != first and sorted(classes) != sorted(expected)):
            continue
        label, one, other = next(iter_differing(expected, classes))
        raise ConfigError(
            f"the config's data sets ({first}, {split}) disagree on what a label means: {label} is "
            f"{one!r} in one and {other!r} in another",
            hint="give all the same metainfo=dict(classes=…)",
        )


def check_metric(evaluator: dict, name: str, model: dict) -> None:
    """Checks what an evaluator would find out after the images have been predicted on.

    Args:
        evaluator (dict): of a config.
        name (str): of it, such as ``'val_evaluator'``.
        model (dict): that it scores.

    Raises:
        ConfigError: ``topk`` is more than a classifier's classes; ``iou_metrics`` has another name
            than a segmenter's scores; there is no folder for label maps that are all it writes.
    """
    kind = transform_name(evaluator) if "type" in evaluator else ""
    if kind == "Accuracy":
        topk = evaluator.get("topk", 1)
        most = max([topk] if isinstance(topk, int) else topk, default=1)
        counts = set().union(*head_counts(model).values())
        if counts and most > min(counts):
            raise ConfigError(
                f"{name} scores the {most} likeliest classes, and the model has {min(counts)}",
                hint=f"set {name}.topk=(1,)",
            )
    if kind == "IoUMetric":
        metrics = evaluator.get("iou_metrics", ())
        unknown = {metrics} if isinstance(metrics, str) else set(metrics)
        if unknown := unknown.difference(IOU_METRICS):
            raise ConfigError(
                f"{name} has iou_metrics with {few(sorted(unknown))}, and IoUMetric gives "
                f"{', '.join(IOU_METRICS)}"
            )
        if not isinstance(ignored := evaluator.get("ignore_index", 255), int):
            raise ConfigError(
                f"{name} has ignore_index={ignored!r}, and IoUMetric ignores one label",
                hint="leave it at 255, and store 255 in the label maps where others are ignored",
            )
        if evaluator.get("format_only") and not evaluator.get("output_dir"):
            raise ConfigError(
                f"{name} has format_only=True, and no output_dir to write label maps to",
                hint="set it; predict.py, too, writes label maps of images without annotations",
            )


def check_evaluator(
    evaluator: dict,
    config: Config,
    split: str,
    annotated: list[AnnotatedClasses],
    contents: dict[Path, dict],
) -> list[str]:
    """Compares an evaluator of COCO's scores with the data sets of its split.

    Args:
        evaluator (dict): of the config; those of other scores are not checked.
        config (Config): of the experiment.
        split (str): ``'val'`` or ``'test'``.
        annotated (list[AnnotatedClasses]): of the split's data sets.
        contents (dict[Path, dict]): of annotation files; takes that of the evaluator.

    Returns:
        list[str]: what is unusual but right, a sentence each.

    Raises:
        ConfigError: the evaluator lacks images of the data sets, or can't read its file.
        DatasetError: its file can't be used, or two data sets have images of one id.
    """
    kind = str(evaluator.get("type")).rpartition(".")[2]
    if not kind.startswith(("Coco", "OVCoco")) or evaluator.get("backend_args") is not None:
        return []
    name = f"{split}_evaluator"
    if isinstance(evaluator.get("ann_file"), list | tuple):
        raise ConfigError(
            f"{name}.ann_file is a list, and an evaluator reads one file",
            hint="join the files into one, each image with an id of its own",
        )
    if not annotated:
        return []
    files = [one.file.absolute() for one in annotated]
    tested = _image_ids(files, contents, name)
    if not evaluator.get("ann_file"):
        pipelines = iter_dicts(config.get(f"{split}_dataloader"))
        if not any("instances" in (step.get("meta_keys") or ()) for step in pipelines):
            raise ConfigError(
                f"{name} has no ann_file", hint=f"set it to the data set's, {annotated[0].file}"
            )
        return []
    file = Path(evaluator["ann_file"]).absolute()
    if file not in contents:
        contents[file] = read_annotations(file)
    scored = files_by_id(contents[file])
    for one in set(files) & contents.keys() - {file}:
        images = files_by_id(contents[one])
        lacking = [
            image
            for number, image in images.items()
            # of another folder, perhaps, but with its own id
            if PureWindowsPath(scored.get(number, "")).stem != PureWindowsPath(image).stem
        ]
        if lacking:
            raise ConfigError(
                f"{name}.ann_file is {file}, which lacks {len(lacking)} of the {len(images)} "
                f"images of the data set's {one}, such as {lacking[0]}",
                hint="name the same file in both",
            )
    _check_scored_classes(kind, file, annotated[0].classes, contents[file])
    extra = len(scored.keys() - tested.keys())
    extra += sum(_skipped(d, contents) for _, d in iter_dataset_configs(config, [split]))
    if tested and extra:
        return [
            f"{name}.ann_file is {file}, and {extra} of its {len(scored)} images are not in the "
            "data set: their objects count as false negatives"
        ]
    return []


def _skipped(dataset: DatasetConfig, contents: Mapping[Path, dict]) -> int:
    """How many images of its file a data set's ``indices`` skip."""
    number = len(files_by_id(contents.get(dataset.ann_file.absolute())))
    indices = dataset.fields.get("indices")
    if indices is None or not number:
        return 0
    return number - (min(abs(indices), number) if isinstance(indices, int) else len(set(indices)))


def _image_ids(
    files: Sequence[Path], contents: Mapping[Path, dict], evaluator: str
) -> dict[int | str, Path]:
    """The file of each image's id, which is all that an evaluator knows of an image."""
    found: dict[int | str, Path] = {}
    for file in files:
        ids = files_by_id(contents.get(file))
        for number in filter(found.__contains__, ids):
            raise DatasetError(
                f"the image id {number} is in {found[number]} and in {file}, and {evaluator} tells "
                "images apart by their ids",
                hint="give each image of the joined files its own",
            )
        found |= dict.fromkeys(ids, file)
    return found


def _check_scored_classes(kind: str, file: Path, classes: Sequence[str], content: dict) -> None:
    """Compares the categories of an evaluator's file with the data set's classes."""
    if problem := AnnotatedClasses.of_coco(file, classes, content).problem():
        raise DatasetError(problem)
    by_name = {category["name"]: category["id"] for category in content["categories"]}
    numbers = [by_name[name] for name in classes if name in by_name]
    if kind in BY_ID and numbers != sorted(numbers):
        raise ConfigError(
            f"{kind} lists single classes by the ids of their categories, which in {file} have "
            "another order than the config's classes",
            hint="sort metainfo=dict(classes=…) by these ids",
        )
