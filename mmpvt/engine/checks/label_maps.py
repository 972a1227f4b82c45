"""Checks what label maps hold, and that a segmenter's heads can learn it."""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import mmcv
import numpy as np
from mmengine.config import Config
from PIL import Image

from mmpvt.datasets.formats.masks import differing_palettes, mixed_binary, palette_of
from mmpvt.datasets.formats.records import Colour
from mmpvt.datasets.loading import FileProblem, LoadSegAnnotations
from mmpvt.datasets.pipelines import transform_name
from mmpvt.engine.checks.channels import evenly_spaced
from mmpvt.engine.class_names import iter_heads
from mmpvt.engine.config_parts import iter_dicts
from mmpvt.engine.dataset_config import DatasetConfig, iter_dataset_configs
from mmpvt.errors import BadFileError, ConfigError, DatasetError, UserError
from mmpvt.models.archs import STRIDES
from mmpvt.utils.constants import IGNORE_LABEL
from mmpvt.utils.files import read_bytes
from mmpvt.utils.progress import with_progress
from mmpvt.utils.text import counted, few

MIXED_MAPS = 64  # label maps of two classes that are read, at most, to compare what they hold
MAX_MAPS = 500  # label maps that are read, at most, where they seem to lack classes
MANY_CLASSES = 32  # of more, as ADE20K's 150, some may be in none of MAX_MAPS label maps of many
MAP_LOADERS = ("LoadAnnotations", "LoadSegAnnotations")
BACKGROUND = ("background", "bg", "_background_", "unlabeled", "unlabelled")


def check_heads(config: Config) -> None:
    """Checks that a segmenter's heads can learn.

    Raises:
        ConfigError: one of one channel has a loss over classes, which is 0 for a single one, or is
            for one class; one doesn't ignore what batches are padded with, or reads a map that
            there isn't.
    """
    way = (
        "set num_classes=2, out_channels=1 and loss_decode.use_sigmoid=True, and two classes in "
        "the data set's metainfo, background first (docs/data.md)"
    )
    preprocessor = (config.get("model") or {}).get("data_preprocessor") or {}
    padding = preprocessor.get("seg_pad_val", IGNORE_LABEL)
    maps = _count_maps(config.get("model") or {})
    for name, head in iter_heads(config.get("model")):
        if name not in ("decode_head", "auxiliary_head"):
            continue
        indices = head.get("in_index", -1)
        for index in indices if isinstance(indices, list | tuple) else [indices]:
            if maps is not None and not -maps <= index < maps:
                raise ConfigError(
                    f"the model's {name} reads map {index} (in_index), and it gets "
                    f"{counted(maps, 'map')}, counted from 0",
                    hint="set its in_index and in_channels",
                )
        if (ignored := head.get("ignore_index", padding)) != padding:
            raise ConfigError(
                f"the model's {name} ignores label {ignored} (ignore_index), and label maps are "
                f"padded with {padding} (data_preprocessor.seg_pad_val), which is no class",
                hint="set both to one value, and no label map may hold 255 where it isn't that; or "
                "leave both at 255, and set reduce_zero_label=True of the data sets, where 0 is "
                "ignored",
            )
        if head.get("num_classes") == 1:
            raise ConfigError(
                f"the model's {name} is for one class, and every pixel then is of that class",
                hint=way,
            )
        losses = head.get("loss_decode")
        for loss in losses if isinstance(losses, list | tuple) else [losses or {}]:
            compares = loss.get("type", "CrossEntropyLoss") == "CrossEntropyLoss"
            if head.get("out_channels") == 1 and compares and not loss.get("use_sigmoid"):
                raise ConfigError(
                    f"the model's {name} gives one channel (out_channels=1), and its loss compares "
                    "channels, so that it is always 0",
                    hint=way,
                )


def check_names(config: Config, split: str) -> None:
    """Raises a ConfigError if label maps that MMSegmentation's metrics write would replace each
    other: they have the names of their images, without folders."""
    datasets = [dataset for _, dataset in iter_dataset_configs(config, [split])]
    files = [d.segmentation_files() for d in datasets if d.is_local and d.is_segmentation]
    names = Counter(Path(image).stem for f in files for image in map(f.image, f.stems))
    if twice := [name for name, count in names.items() if count > 1]:
        raise ConfigError(
            f"{split}_evaluator's output_dir would hold one label map for several images of the "
            f"name {few(twice)}",
            hint="leave it out; label maps that test.py and predict.py write have a name each",
        )


def _count_maps(model: dict) -> int | None:
    """How many maps a segmenter's heads get, where that is known."""
    neck, backbone = model.get("neck"), model.get("backbone") or {}
    if neck:
        return neck.get("num_outs") if isinstance(neck, dict) else None
    if "PyramidVisionTransformer" not in str(backbone.get("type")):
        return None
    indices = backbone.get("out_indices", STRIDES)
    return 1 if isinstance(indices, int) else len(indices)


def check_zero_label(dataset: DatasetConfig) -> None:
    """Raises a ConfigError if a segmentation data set's pipeline has another ``reduce_zero_label``,
    with which MMSegmentation loads no label map."""
    if not dataset.is_segmentation:
        return
    reduced = _reduces_zero(dataset)
    for step in iter_dicts(dataset.pipeline):
        if "type" not in step or transform_name(step) not in MAP_LOADERS or step.get("values"):
            continue
        if step.get("reduce_zero_label") not in (None, reduced):
            raise ConfigError(
                f"{transform_name(step)} in the pipeline of a {dataset.fields['type']} has "
                f"reduce_zero_label={not reduced}, and the data set {reduced}",
                hint="leave it out of the pipeline, and set it in the data set: True where 0 in "
                "the label maps is ignored",
            )


def compare_zero_labels(config: Config, splits: Iterable[str]) -> list[str]:
    """What looks wrong in the ``reduce_zero_label`` of segmentation data sets, a sentence each."""
    notes: list[str] = []
    first: dict[str, tuple[str, bool]] = {}  # of each class of data sets: they number differently
    for split, dataset in iter_dataset_configs(config, splits):
        if not dataset.is_segmentation or label_map_loader(dataset).values:
            continue
        reduced, classes = _reduces_zero(dataset), dataset.classes
        is_own = not set(classes) <= set(dataset.known_classes)
        if reduced and is_own and classes[0].casefold() in BACKGROUND:
            notes.append(
                f"the data set for {split} has reduce_zero_label=True, so that 0 in its label maps "
                f"is ignored and {classes[0]}, its first class, is 1: where 0 is {classes[0]}, set "
                "reduce_zero_label=False"
            )
        other, is_other_reduced = first.setdefault(str(dataset.fields["type"]), (split, reduced))
        if reduced != is_other_reduced:
            notes.append(
                f"the data sets for {other} and {split} have reduce_zero_label={is_other_reduced} "
                f"and {reduced}: a number in their label maps is another class in each"
            )
    return notes


def _reduces_zero(dataset: DatasetConfig) -> bool:
    """Whether a data set ignores 0 in its label maps."""
    return bool(dataset.argument("reduce_zero_label"))


class MapProblem(NamedTuple):
    """Why one class at most, or not every class, can be learned from label maps."""

    sentence: str
    is_error: bool  # whether the files need another way of reading them


def check_label_maps(dataset: DatasetConfig, is_trained: bool, is_alone: bool) -> None:
    """Raises a DatasetError if a segmentation data set's label maps hold nothing to train on.

    Prints a warning where those to train on hold a single class, or none has one of the classes,
    which those of a data set that it is joined with (``is_alone=False``) may have.
    """
    if not dataset.is_segmentation:
        return
    files = dataset.segmentation_files()
    places = evenly_spaced(len(files.stems), MAX_MAPS)
    maps = [path for i in places if (path := files.label_map(files.stems[i]))]
    is_telling = len(files.stems) <= MAX_MAPS or len(dataset.classes) <= MANY_CLASSES
    each_class = is_trained and is_alone and is_telling
    problem = label_map_problem(maps, dataset, each_class)
    if problem and problem.is_error:
        raise DatasetError(problem.sentence)
    if problem and is_trained:
        print(f"warning: {problem.sentence}", file=sys.stderr)
    sampled = [maps[i] for i in evenly_spaced(len(maps), MIXED_MAPS)]
    if mixed := mixed_labels(dataset, _iter_labels(sampled, dataset)):
        print(f"warning: {mixed}", file=sys.stderr)
    if differing := mixed_palettes(sampled):
        print(f"warning: {differing}", file=sys.stderr)


def mixed_palettes(paths: Iterable[str]) -> str | None:
    """Says where a number is of one colour in a label map and of another in a second one."""
    found: dict[bytes, tuple[str, list[Colour], list[int]]] = {}  # by palette: one map is enough
    for path in paths:
        with suppress(OSError, ValueError), Image.open(io.BytesIO(read_bytes(path))) as image:
            if image.mode != "P" or not image.palette:
                continue
            key = bytes(image.palette.getdata()[1])
            if key not in found:  # only then is the image decoded
                held = np.unique(np.asarray(image)).tolist()
                found[key] = path, palette_of(image), held
    return differing_palettes(found.values())


def _iter_labels(paths: Iterable[str], dataset: DatasetConfig) -> Iterator[tuple[str, set[int]]]:
    loader, fields = label_map_loader(dataset), label_map_fields(dataset)
    for path in paths if len(dataset.classes) == 2 else ():
        results = dict(seg_map_path=path, img_path="", seg_fields=[], **fields)
        with suppress(UserError, OSError, ValueError, AssertionError):  # which the run says
            with Image.open(io.BytesIO(read_bytes(path))) as image:
                results["ori_shape"] = image.size[::-1]
            yield path, set(np.unique(loader(results)["gt_seg_map"]).tolist())


def mixed_labels(dataset: DatasetConfig, held: Iterable[tuple[str, set[int]]]) -> str | None:
    """Says where some label maps of two classes seem to mean by 255 what others mean by 1.

    Args:
        dataset (DatasetConfig): of the label maps.
        held (Iterable[tuple[str, set[int]]]): a map's path, and the labels in it.
    """
    if len(dataset.classes) != 2 or label_map_loader(dataset).values is not None:
        return None
    return mixed_binary(held)


def label_map_fields(dataset: DatasetConfig) -> dict:
    """What a data set tells the loader of its label maps.

    Returns:
        dict: ``reduce_zero_label`` (bool); ``label_map`` (dict | None), from its class' labels to
        the config's.
    """
    kind, classes = dataset.kind, dataset.classes
    is_choice = classes and set(classes) <= set(dataset.known_classes)
    return dict(
        reduce_zero_label=_reduces_zero(dataset),
        label_map=kind.get_label_map(classes) if kind and is_choice else None,
    )


def label_map_loader(dataset: DatasetConfig, num_classes: int | None = None) -> LoadSegAnnotations:
    """What reads a data set's label maps; labels from ``num_classes`` on are refused."""
    steps = [step for step in dataset.pipeline if transform_name(step) in MAP_LOADERS]
    names = ("values", "imdecode_backend", "reduce_zero_label")
    options = {key: steps[0][key] for key in names if steps and key in steps[0]}
    return LoadSegAnnotations(num_classes=num_classes, **options)


class _Labels(NamedTuple):
    """What label maps hold."""

    first: str  # path of the first that can be read
    stored: set[int]  # numbers in the files
    labels: set[int]  # as they are loaded


def _read_labels(paths: Sequence[str], dataset: DatasetConfig, wanted: set[int]) -> _Labels | None:
    """Reads label maps until two classes, and all that are wanted, are found.

    Returns:
        _Labels | None: what they hold; None where those classes are found, or no map can be read.

    Raises:
        BadFileError: all that can be read hold colours.
    """
    loader, fields = label_map_loader(dataset), label_map_fields(dataset)
    stored: set[int] = set()
    labels: set[int] = set()
    first, unusable = "", None
    for path in with_progress(paths, "reading label maps"):
        results = dict(seg_map_path=path, img_path="", seg_fields=[], **fields)
        try:
            raw = mmcv.imfrombytes(
                read_bytes(path), flag="unchanged", backend=loader.imdecode_backend
            )
            results["ori_shape"] = raw.shape[:2]
            labels.update(np.unique(loader(results)["gt_seg_map"]).tolist())
        except UserError as error:
            unusable = unusable or error
            continue
        except (OSError, ValueError, AttributeError, AssertionError):
            continue  # a broken file is the run's matter
        if len(labels - {IGNORE_LABEL}) > 1 and wanted <= labels:
            return None
        first = first or path
        if raw.ndim == 2:
            stored.update(np.unique(raw).tolist())
    if not first:
        if isinstance(unusable, BadFileError) and unusable.problem is FileProblem.COLOURS:
            raise unusable
        return None
    return _Labels(first, stored, labels)


def label_map_problem(
    paths: Sequence[str], dataset: DatasetConfig, each_class: bool = False
) -> MapProblem | None:
    """What is wrong with label maps, if at most one class can be learned from them.

    Reads them until two classes are found. With ``each_class`` it reads them until all are, and a
    class that none holds is a problem, too.

    Raises:
        BadFileError: all that can be read hold colours.
    """
    wanted = set(range(len(dataset.classes))) if each_class else set()
    held = _read_labels(paths, dataset, wanted)
    if held is None:
        return None
    first, stored, labels = held
    place = f"the label maps in {Path(first).parent}"
    found = " and ".join(map(str, sorted(stored)))
    labels -= {IGNORE_LABEL}
    if len(labels) > 1:
        lacking = [f"{label} ({dataset.classes[label]})" for label in sorted(wanted - labels)]
        ignored = ""
        if IGNORE_LABEL in stored:
            ignored = "; 255, which some hold, is ignored (docs/data.md: how to read it as a class)"
        return MapProblem(
            f"of {counted(len(paths), 'label map')} read in {Path(first).parent} none holds "
            f"{few(lacking)}: a class that none holds can't be learned{ignored}",
            is_error=False,
        )
    is_reduced = _reduces_zero(dataset)
    is_by_index = label_map_loader(dataset).values is None
    if is_by_index and stored == {0, IGNORE_LABEL}:
        return MapProblem(
            f"{place} hold only 0 and 255, and 255 is the label of pixels that are ignored, so "
            "that no foreground is trained or scored: if 255 means the second class, write "
            "dict(type='mmpvt.LoadSegAnnotations', values=[0, 255]) for LoadAnnotations in each "
            f"pipeline{' and leave out reduce_zero_label' * is_reduced} (docs/data.md)",
            is_error=True,
        )
    if is_by_index and is_reduced and stored <= {0, 1, IGNORE_LABEL}:
        return MapProblem(
            f"{place} hold only {found}, and with reduce_zero_label=True 0 is ignored and 1 is the "
            "first class, so that there is one class at most: set reduce_zero_label=False of the "
            "data set",
            is_error=True,
        )
    if not labels:
        return MapProblem(
            f"{place} hold nothing but {found}, which is ignored: there is nothing to train or "
            "score",
            is_error=True,
        )
    (label,) = labels
    name = "".join(f" ({name})" for name in dataset.classes[label : label + 1])
    return MapProblem(
        f"{place} hold nothing but label {label}{name}: there is nothing to tell apart",
        is_error=False,
    )
