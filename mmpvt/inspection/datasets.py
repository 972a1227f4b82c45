"""Inspecting a config's data sets, each on its own and beside the others."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmpvt.engine.checks.channels import evenly_spaced, mixed_depths, rejected_channels
from mmpvt.engine.checks.classes import check_class_counts, check_same_classes
from mmpvt.engine.checks.classification import check_images
from mmpvt.engine.checks.data import check_arguments
from mmpvt.engine.checks.label_maps import (
    MAX_MAPS,
    MIXED_MAPS,
    check_heads,
    compare_zero_labels,
    label_map_problem,
    mixed_labels,
    mixed_palettes,
)
from mmpvt.engine.dataset_config import DatasetConfig, iter_dataset_configs
from mmpvt.errors import ConfigError, UserError
from mmpvt.inspection.coco import LACKING, UNANNOTATED, inspect_coco
from mmpvt.inspection.files import SampleFiles, inspect_files
from mmpvt.inspection.report import DatasetReport, Example
from mmpvt.utils.constants import IGNORE_LABEL


def inspect_datasets(config: Config, splits: Sequence[str], workers: int) -> list[DatasetReport]:
    """Inspects a config's data sets, each once.

    Args:
        config (Config): of an experiment.
        splits (Sequence[str]): of ``'train'``, ``'val'`` and ``'test'``.
        workers (int): processes that decode files.

    Returns:
        list[DatasetReport]: one a data set.

    Raises:
        ConfigError: there is no data set, or one that can't be inspected.
        DatasetError: there is no data, or an annotation file can't be read as a whole.
    """
    init_default_scope(config.get("default_scope", "mmengine"))
    datasets: dict[str, tuple[DatasetConfig, list[str]]] = {}
    for split in splits:
        check_arguments(config, split)
        for _, dataset in iter_dataset_configs(config, [split]):
            _, used_for = datasets.setdefault(dataset.key(), (dataset, []))
            used_for += [split] if split not in used_for else []
    if not datasets:
        raise ConfigError(f"the config has no data set for {', '.join(splits)}")
    reports = [_inspect(config, *one, workers) for one in datasets.values()]
    _join_training([report for report in reports if "train" in report.splits])
    try:
        check_same_classes(config, splits)
    except UserError as error:
        reports[-1].errors["classes"].append(str(error))
    by_depth = {
        depth: file for report in reversed(reports) for depth, file in report.depths.items()
    }
    if reasons := mixed_depths(by_depth):
        reports[-1].errors["images of different depths"] += reasons
    if notes := compare_zero_labels(config, splits):
        reports[-1].notes["label 0"] += notes
    return reports


def _inspect(
    config: Config, dataset: DatasetConfig, splits: list[str], workers: int
) -> DatasetReport:
    if not dataset.is_local:
        raise ConfigError(f"the data set for {', '.join(splits)} doesn't lie on this machine")
    if dataset.is_classification:
        inspect_one = _inspect_classified
    elif dataset.is_coco or dataset.is_segmentation:
        inspect_one = inspect_coco if dataset.is_coco else _inspect_label_maps
    else:
        raise ConfigError(
            f"the data set for {', '.join(splits)} is a {dataset.fields['type']}: only COCO's, "
            "MMSegmentation's and mmpretrain's CustomDataset's kinds can be inspected"
        )
    dataset.check_root()
    report = inspect_one(dataset, splits, workers)
    try:
        check_class_counts(report.classes, config.model)
        check_heads(config)
    except UserError as error:
        report.errors["classes"].append(str(error))
    if reasons := rejected_channels(report.channels, dataset, config):
        report.errors["channels that the model doesn't take"] += reasons
    return report


def _inspect_classified(dataset: DatasetConfig, splits: list[str], workers: int) -> DatasetReport:
    """Inspects a data set of images that each are of a class.

    Raises:
        DatasetError: there are no images or classes.
    """
    images = dataset.classified_images
    classes = dataset.classes
    report = DatasetReport(dataset, splits, str(images.place), classes, images=len(images.names))
    try:
        check_images(dataset)
    except UserError as error:
        report.errors["classes"].append(str(error))
    samples = [SampleFiles(str(images.folder / name)) for name in images.names]
    infos = inspect_files(f"images for {report.name}", samples, report.loader, workers)
    report.add_files(samples, infos)
    labels = np.array(images.labels)[np.array(images.labels) < len(classes)]
    report.counts = np.bincount(labels, minlength=len(classes)).astype(float)
    empty = [name for name, count in zip(classes, report.counts, strict=True) if not count]
    if empty:
        group = report.errors if "train" in splits else report.notes
        group["classes without images"] += [f"there is no image of {name}" for name in empty]
    for sample, label, info in zip(samples, images.labels, infos, strict=True):
        if info.shape:
            height, width = info.shape
            report.examples.append(
                Example(sample, np.array([[0, 0, width, height]]), np.array([label]))
            )
    return report


def _inspect_label_maps(dataset: DatasetConfig, splits: list[str], workers: int) -> DatasetReport:
    """Inspects a data set of images and label maps, decoded by ``workers`` processes.

    Raises:
        DatasetError: there are no images.
    """
    files = dataset.segmentation_files()
    classes = dataset.classes
    report = DatasetReport(dataset, splits, str(files.folder), classes, images=len(files.stems))
    samples = [
        SampleFiles(files.image(stem), label_map=files.label_map(stem)) for stem in files.stems
    ]
    infos = inspect_files(
        f"images and label maps for {report.name}", samples, report.loader, workers
    )
    report.add_files(samples, infos)
    if files.map_folder and files.map_folder.is_dir():
        found = files.map_folder.rglob(f"*{files.map_suffix}")
        names = (path.relative_to(files.map_folder).as_posix() for path in found)
        stems = {name.removesuffix(files.map_suffix) for name in names} - set(files.stems)
        # those of another split have their images
        if extra := sorted(stem for stem in stems if not Path(files.image(stem)).exists()):
            kind = "label maps without an image"
            report.notes[kind] += [str(files.label_map(stem)) for stem in extra]

    held = [
        (sample.label_map or "", set(np.flatnonzero(info.pixels).tolist()))
        for sample, info in zip(samples, infos, strict=True)
        if info.pixels is not None
    ]
    if mixed := mixed_labels(dataset, held):
        report.notes["label maps of other values"].append(mixed)
    if differing := mixed_palettes(held[i][0] for i in evenly_spaced(len(held), MIXED_MAPS)):
        report.notes["label maps of other palettes"].append(differing)
    total = np.zeros(256)
    sizes = []
    for sample, info in zip(samples, infos, strict=True):
        if info.pixels is None:
            continue
        pixels = info.pixels.copy()
        pixels[IGNORE_LABEL] = 0
        total += pixels
        sizes.append(np.sqrt(pixels[pixels > 0]))
        report.empty += not pixels.any()
        if pixels.any():
            report.examples.append(Example(sample, np.zeros((0, 4)), np.zeros(0, int)))
    report.counts = 100 * total[: len(classes)] / max(1, total.sum())
    report.sizes = np.concatenate([report.sizes, *sizes])
    if sizes and np.count_nonzero(total) < 2:
        good = (s for s, info in zip(samples, infos, strict=True) if not info.reason)
        maps = [sample.label_map for sample in good if sample.label_map]
        if problem := label_map_problem(maps[:MAX_MAPS], dataset):
            group = report.errors if problem.is_error or "train" in splits else report.notes
            group["data sets whose label maps hold no two classes"].append(problem.sentence)
    return report


def _join_training(reports: Sequence[DatasetReport]) -> None:
    """Makes a note of what one of several training data sets lacks and another has."""
    for kind in (LACKING, UNANNOTATED):
        found = [report.errors.pop(kind, []) for report in reports]
        for report, said in zip(reports, found, strict=True):
            for item in said:
                is_everywhere = all(found) if kind == UNANNOTATED else all(item in f for f in found)
                (report.errors if is_everywhere else report.notes)[kind].append(item)


def compare(reports: Sequence[DatasetReport]) -> None:
    """Adds to the later reports which images are in two data sets: a score on those says little."""
    for one, other in itertools.combinations(reports, 2):
        known = {digest: path for path, digest in one.digests.items()}
        for path, digest in other.digests.items():
            if digest in known:
                said = f"{path} is the same as {known[digest]}"
                other.errors[f"images that are in {one.name}, too"].append(said)
        if shared := one.ids & other.ids:
            images = [f"image {name}" for name in sorted(shared, key=str)]
            other.notes[f"ids of images that {one.name} has, too"] += images
