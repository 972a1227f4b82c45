"""Checks a config's data sets: annotations, files, class names; then the pixels of a few images."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from mmdet.datasets import BaseDetDataset, CocoDataset, LVISV05Dataset, XMLDataset
from mmdet.datasets.samplers import MultiSourceSampler
from mmengine.config import Config
from mmengine.dataset import BaseDataset, InfiniteSampler
from mmengine.registry import DATA_SAMPLERS, DATASETS, DefaultScope, init_default_scope
from mmseg.datasets import BaseSegDataset

from mmpvt.datasets import coco, voc
from mmpvt.datasets.listed_files import ALLOW_OUTSIDE, check_inside, check_present, read_list
from mmpvt.datasets.pipelines import (
    are_known,
    check_keeps_places,
    find_class,
    is_known,
    transform_name,
)
from mmpvt.engine.checks import channels, classes, classification, label_maps
from mmpvt.engine.checks.classes import AnnotatedClasses
from mmpvt.engine.class_names import iter_differing, log
from mmpvt.engine.config_parts import dataset_kind, iter_dicts, split_datasets
from mmpvt.engine.dataset_config import DatasetConfig, iter_dataset_configs
from mmpvt.errors import ConfigError, DatasetError
from mmpvt.utils.text import counted, few

LOADERS = ("mmpvt.LoadImageFromFile", "mmpvt.LoadSegAnnotations")


def check_data(config: Config, splits: Iterable[str]) -> dict[Path, dict]:
    """Checks that each data set's annotations can be read, name its classes, and have their files.

    What is unusual but right is logged: a subset of a file's categories, say.

    Args:
        config (Config): of an experiment.
        splits (Iterable[str]): of ``'train'``, ``'val'`` and ``'test'``, those about to be used.

    Returns:
        dict[Path, dict]: what COCO's annotation files hold, by their absolute paths: they take
            minutes to read.

    Raises:
        ConfigError: the config's parts contradict each other.
        DatasetError: annotations or images are missing, empty or can't be read; the classes are not
            the annotations'.
    """
    init_default_scope(config.get("default_scope", "mmengine"))
    checked: dict[str, AnnotatedClasses | None] = {}
    notes: dict[str, None] = {}
    contents: dict[Path, dict] = {}
    for split in splits:
        check_arguments(config, split)
        files: list[AnnotatedClasses | None] = []
        for _, dataset in iter_dataset_configs(config, [split]):
            key = dataset.key("metainfo")
            if not dataset.is_local:
                files.append(None)
                continue
            if key not in checked:
                checked[key] = _check_dataset(dataset, contents)
                classes.check_class_counts(dataset.classes, config.model)
                notes |= dict.fromkeys(_check_own_kind(split, dataset))
            _check_places(split, dataset)
            files.append(checked[key])
        annotated = [one for one in files if one is not None]
        notes |= dict.fromkeys(classes.check_classes(split, annotated))
        evaluators = config.get(f"{split}_evaluator")
        for evaluator in iter_dicts(evaluators):
            classes.check_metric(evaluator, f"{split}_evaluator", config.model)
            if evaluator.get("output_dir"):
                label_maps.check_names(config, split)
        for evaluator, scored in _with_files(evaluators, files):
            notes |= dict.fromkeys(
                classes.check_evaluator(evaluator, config, split, scored, contents)
            )
    notes |= dict.fromkeys(classification.check_folders(config, splits))
    classes.check_same_classes(config, splits)
    if "train" in splits:
        classes.check_class_weights(config.model)
    for split in splits:
        _check_pipelines(config, split)
    notes |= dict.fromkeys(label_maps.compare_zero_labels(config, splits))
    for note in notes:
        log.warning("%s", note)
    return contents


def _with_files(
    evaluators: object, files: Sequence[AnnotatedClasses | None]
) -> Iterator[tuple[dict, list[AnnotatedClasses]]]:
    """Evaluators, each with the files of the data sets that it scores: all, or one of several."""
    if isinstance(evaluators, dict) and "dataset_prefixes" in evaluators:
        for metric, file in zip(evaluators["metrics"], files, strict=False):
            yield metric, [file] if file else []
    else:
        for evaluator in iter_dicts(evaluators):
            yield evaluator, [file for file in files if file]


def check_pixels(
    config: Config, splits: Iterable[str], contents: dict[Path, dict] | None = None
) -> None:
    """Checks that the model takes the images as they are loaded, and that label maps hold classes.

    Prints a warning of what is used all the same: images of which 8 bits are kept, label maps of a
    single class.

    Args:
        config (Config): of an experiment.
        splits (Iterable[str]): as for :func:`check_data`.
        contents (dict[Path, dict] | None): what that found no error in. Default: None.

    Raises:
        ConfigError: the images have other channels than the model takes, or differ in depth; or
            the head can't tell classes apart.
        DatasetError: the label maps hold nothing that could be trained.
    """
    label_maps.check_heads(config)
    checked = set()
    depths: dict[str, str] = {}
    datasets = list(iter_dataset_configs(config, splits))
    of_split = Counter(split for split, _ in datasets)
    with DefaultScope.overwrite_default_scope(config.get("default_scope") or "mmengine"):
        for split, dataset in datasets:
            dataset.allow_outside = True  # as check_data has said
            key = dataset.key("pipeline")
            if dataset.is_local and key not in checked:
                checked.add(key)
                channels.check_images(config, dataset, contents or {}, depths)
                label_maps.check_label_maps(
                    dataset, is_trained=split == "train", is_alone=of_split[split] == 1
                )


def check_arguments(config: Config, split: str) -> None:
    """Checks the arguments of a split's data sets for what ends in a traceback later.

    Raises:
        ConfigError: ``ann_file`` is not a single path; ``indices`` choose no image; a
            ``ClassBalancedDataset`` is around one that doesn't tell its images' categories, or a
            validation or test repeats images; a
            segmentation data set and its pipeline disagree on ``reduce_zero_label``; the sampler
            has no end, which epochs, validations and tests wait for.
    """
    sampler = (config.get(f"{split}_dataloader") or {}).get("sampler") or {}
    by_epoch = split != "train" or "max_epochs" in (config.get("train_cfg") or {})
    if by_epoch and sampler.get("type") and _is_endless(sampler["type"]):
        training = split == "train"
        raise ConfigError(
            f"{split}_dataloader's {sampler['type']} has no end, and "
            + ("train_cfg counts epochs" if training else "a score takes each image once"),
            hint=f"set sampler=dict(_delete_=True, type='DefaultSampler', shuffle={training})",
        )
    for _, part in split_datasets(config, [split]):
        if isinstance(part.get("ann_file"), list | tuple):
            raise ConfigError(
                f"ann_file is a list of {len(part['ann_file'])} files, and a data set reads one",
                hint="join them with dataset=dict(type='ConcatDataset', datasets=[…]), a data set "
                "a file",
            )
        indices = part.get("indices")
        if indices is not None and not _chooses_images(indices):
            raise ConfigError(
                f"the {split}_dataloader's data set has indices={str(indices)[:60]}, which choose "
                "no images",
                hint="give a number of images, or a list of their places from 0",
            )
    for part in iter_dicts(config.get(f"{split}_dataloader")):
        inner, wrapper = part.get("dataset") or {}, str(part.get("type")).rpartition(".")[2]
        if split != "train" and wrapper in ("RepeatDataset", "ClassBalancedDataset"):
            raise ConfigError(
                f"the {split}_dataloader has a {wrapper}, and a score takes each image once",
                hint="leave it out there: it is for training",
            )
        if "type" not in inner or wrapper != "ClassBalancedDataset":
            continue
        kind = dataset_kind(inner, config.get("default_scope", "mmengine"))
        if not hasattr(kind, "get_cat_ids"):
            raise ConfigError(
                f"ClassBalancedDataset can't balance a {inner['type']}, which has no get_cat_ids",
                hint="of joined data sets, put it around each",
            )
    for _, dataset in iter_dataset_configs(config, [split]):
        label_maps.check_zero_label(dataset)


def _chooses_images(indices: object) -> bool:
    """Whether MMEngine can take a data set's ``indices``: the first or last so many, or a list."""
    if isinstance(indices, Sequence) and not isinstance(indices, str):
        return len(indices) > 0 and all(isinstance(place, int) for place in indices)
    return isinstance(indices, int) and indices != 0


def _check_places(split: str, dataset: DatasetConfig) -> None:
    """Raises a ConfigError if a list of ``indices`` goes beyond the images that the data set has
    once its filter is done, which reading it tells."""
    places = dataset.fields.get("indices")
    if not isinstance(places, Sequence) or not isinstance(dataset.kind, type):
        return
    if issubclass(dataset.kind, BaseDataset):
        whole = {**dataset.fields, "type": dataset.kind, "indices": None}
        if "pipeline" in whole:
            whole["pipeline"] = []
        number = len(DATASETS.build(whole))
        beyond = [place for place in places if not -number <= place < number]
        if beyond:
            raise ConfigError(
                f"the {split}_dataloader's data set has indices with {few(beyond)}, and "
                f"{counted(number, 'image')}",
                hint="places count from 0; images that filter_cfg skips have none",
            )


def _check_pipelines(config: Config, split: str) -> None:
    """Raises a ConfigError if a pipeline has no transform that loads images, loads what is learned
    or scored, or packs the model's inputs, or loads label maps that have no folder; unless
    transforms or the data set are a user's own. Or if one of a test moves objects, or none of a
    training loads the masks that the model learns."""
    loader = config.get(f"{split}_dataloader") or {}
    evaluators = {
        transform_name(part)
        for part in iter_dicts(config.get(f"{split}_evaluator"))
        if "type" in part and not part.get("format_only")
    }
    needs_truth = split == "train" or bool(evaluators & {"IoUMetric", "VOCMetric"})
    scope = config.get("default_scope") or "mmengine"
    for dataset, pipeline in _whole_pipelines(loader.get("dataset")):
        kind = dataset_kind(dataset, scope)
        if not isinstance(kind, type) or not is_known(kind):
            continue
        if not issubclass(kind, BaseDetDataset | BaseSegDataset):
            continue
        is_seg = issubclass(kind, BaseSegDataset)
        if split != "train":
            check_keeps_places(pipeline, f"the {split}_dataloader's pipeline", detects=not is_seg)
        steps = [step for step in iter_dicts(pipeline) if "type" in step]
        is_given = steps or "pipeline" in dataset  # where it isn't, its class may have one
        if not is_given or not are_known(steps):
            continue
        names = " ".join(map(transform_name, steps))
        package, packer = ("mmseg", "PackSegInputs") if is_seg else ("mmdet", "PackDetInputs")
        needed = {
            "mmcv.LoadImageFromFile": r"Load\w*(Image|File|Data)",
            f"{package}.{packer}": "Pack",
        }
        if needs_truth:
            needed[f"{package}.LoadAnnotations"] = r"Load\w*(Annotation|Biomedical)"
        for transform, pattern in needed.items():
            if not re.search(pattern, names):
                name = transform.partition(".")[2]
                raise ConfigError(
                    f"the {split}_dataloader's pipeline has no {name}: it is "
                    f"{names.replace(' ', ', ') or 'empty'}",
                    hint=f"add dict(type='{transform}')",
                )
        heads = (part.get("roi_head") for part in iter_dicts(config.get("model")))
        learns_masks = any(isinstance(head, dict) and head.get("mask_head") for head in heads)
        loaded = [s.get("with_mask") for s in steps if transform_name(s) == "LoadAnnotations"]
        if split == "train" and learns_masks and loaded and not any(loaded):
            raise ConfigError(
                "the model's roi_head has a mask_head, and the training's pipeline loads no masks",
                hint="set with_mask=True of LoadAnnotations, or mask_head=None",
            )
        prefix = dataset.get("data_prefix") or {"seg_map_path": ""}
        loads_maps = any(transform_name(step) in label_maps.MAP_LOADERS for step in steps)
        if is_seg and loads_maps and prefix.get("seg_map_path") is None:
            raise ConfigError(
                f"the {split}_dataloader's data_prefix has no seg_map_path, the folder of the "
                "label maps that its pipeline loads",
                hint="name it; predict.py takes images without label maps",
            )


def _whole_pipelines(dataset: dict | None, after: Sequence[dict] = ()) -> Iterator[tuple]:
    """Data sets with files of their own, each with its pipeline and its wrappers'."""
    if not isinstance(dataset, dict):
        return
    steps = [*(dataset.get("pipeline") or ()), *after]
    inner = [dataset["dataset"]] if "dataset" in dataset else dataset.get("datasets")
    if inner is None:
        yield dataset, steps
    for one in inner or ():
        yield from _whole_pipelines(one, steps)


def _is_endless(sampler: str | type) -> bool:
    kind = find_class(DATA_SAMPLERS, sampler)
    return isinstance(kind, type) and issubclass(kind, InfiniteSampler | MultiSourceSampler)


def keep_inside(config: Config) -> None:
    """Has the loading transforms refuse files outside of their data set's folders.

    Data sets of every kind are held to it, those too whose lists :func:`check_data` doesn't read.

    Args:
        config (Config): changed; where its ``allow_outside_files`` is set, they refuse none, of a
            config that an earlier run has written neither.
    """
    is_allowed = config.get(ALLOW_OUTSIDE, False)
    for _, dataset in split_datasets(config):
        root = dataset.get("data_root") or ""
        prefix = dataset.get("data_prefix") or {}
        prefixes = [prefix] if isinstance(prefix, str) else prefix.values()
        folders = [root, *(os.path.join(root, prefix or "") for prefix in prefixes)]  # noqa: PTH118
        for step in iter_dicts(dataset.get("pipeline")):
            if step.get("type") in LOADERS and dataset.get("backend_args") is None:
                step["folders"] = None if is_allowed else folders


def _check_dataset(dataset: DatasetConfig, contents: dict[Path, dict]) -> AnnotatedClasses | None:
    """Checks a data set's files; returns its class names, where its annotations have any."""
    dataset.check_root()
    file = dataset.ann_file
    if dataset.is_coco:
        content = contents.get(file.absolute()) or coco.read_annotations(file)
        contents[file.absolute()] = content
        names = coco.image_files(content)
        check_inside(file, names, dataset.allow_outside)
        check_present(dataset.folder("img"), names, f"named in {file}", "images")
        _check_sizes(dataset, content)
        return AnnotatedClasses.of_coco(file, dataset.classes, content) if dataset.classes else None
    if dataset.is_read_as(XMLDataset):
        return _check_voc(dataset)
    if dataset.is_classification:
        classification.check_images(dataset)
        return None
    if isinstance(dataset.kind, type) and issubclass(dataset.kind, LVISV05Dataset):
        _check_lvis(file, dataset.classes)
    if dataset.is_segmentation:
        classes.check_subset(dataset)
        files = dataset.segmentation_files()
        if files.map_folder:
            names = [stem + files.map_suffix for stem in files.stems]
            check_present(files.map_folder, names, f"for {files.folder}", "label maps")
    return None


def _check_sizes(dataset: DatasetConfig, content: dict) -> None:
    """Raises a DatasetError if the data set skips all images as too small."""
    least = (dataset.fields.get("filter_cfg") or {}).get("min_size", 0)
    sides: list[list[float]] = [
        [side for key in ("width", "height") if isinstance(side := image.get(key), int | float)]
        for image in content["images"]
        if isinstance(image, dict)
    ]
    shorter = [min(two) for two in sides if len(two) == 2]  # others are skipped for that
    largest = max(shorter, default=least)
    if largest < least and not dataset.argument("test_mode"):
        raise DatasetError(
            f"filter_cfg skips images below min_size={least} pixels, and the shorter side of those "
            f"in {dataset.ann_file} has {largest} at most",
            where=dataset.ann_file,
            hint="set a smaller min_size in the data set's filter_cfg",
        )


def _check_voc(dataset: DatasetConfig) -> AnnotatedClasses:
    file = dataset.ann_file
    stems = read_list(file, dataset.allow_outside)
    images, annotations = (
        dataset.folder("sub_data_root") / dataset.argument(key)
        for key in ("img_subdir", "ann_subdir")
    )
    check_present(annotations, [f"{s}.xml" for s in stems], f"named in {file}", "annotations")
    check_present(images, [f"{s}.jpg" for s in stems], f"named in {file}", "images")
    objects = (voc.read_object_names(annotations / f"{stem}.xml") for stem in stems)
    names = list(dict.fromkeys(itertools.chain.from_iterable(objects)))
    return AnnotatedClasses(
        file, dataset.classes, names, frozenset(names), annotated=bool(names), complete=False
    )


def _check_own_kind(split: str, dataset: DatasetConfig) -> list[str]:
    """Finds classes without objects in a detector's data set that a class of the user's own reads.

    Returns:
        list[str]: classes that training lacks, in a sentence.

    Raises:
        DatasetError: one of them is a category of a COCO file, misspelt.
    """
    kind, names = dataset.kind, dataset.classes
    if not isinstance(kind, type) or not issubclass(kind, BaseDetDataset) or is_known(kind):
        return []
    if not names or dataset.is_coco or dataset.is_read_as(XMLDataset):
        return []
    built = DATASETS.build({**dataset.fields, "type": kind, "pipeline": []})
    infos = (built.get_data_info(place) for place in range(len(built)))
    labels = {one.get("bbox_label") for info in infos for one in info.get("instances") or ()}
    lacking = [name for label, name in enumerate(names) if label not in labels]
    problem = None
    if lacking and issubclass(kind, CocoDataset):
        with suppress(DatasetError):  # of another format, perhaps
            content = coco.read_annotations(dataset.ann_file)
            listed = AnnotatedClasses.of_coco(dataset.ann_file, names, content)
            problem = listed.problem() if set(listed.lacking) <= set(lacking) else None
    if problem:
        raise DatasetError(problem)
    said = f"no image that {kind.__name__} gives to train on has an object of {few(lacking)}"
    return [said] if lacking and split == "train" else []


def _check_lvis(file: Path, names: list[str]) -> None:
    """MMDetection's ``LVISDataset`` numbers classes as its file does, whatever the config says."""
    categories = [category["name"] for category in coco.read_annotations(file)["categories"]]
    for label, category, name in iter_differing(categories, names or categories):
        raise ConfigError(
            f"{file} has {len(categories)} categories, the config {len(names)} classes; number "
            f"{label} is {category!r} in the file and {name!r} in the config",
            hint="LVIS data sets take the file's order, so set metainfo=dict(classes=…) to it, or "
            "use type='CocoDataset'",
        )
