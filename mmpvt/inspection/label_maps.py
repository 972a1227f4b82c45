"""Inspecting a data set of images and label maps."""

from __future__ import annotations

import numpy as np

from mmpvt.engine.checks.label_maps import MAX_MAPS, label_map_problem
from mmpvt.engine.dataset_config import DatasetConfig
from mmpvt.inspection.files import SampleFiles, inspect_files
from mmpvt.inspection.report import DatasetReport, Example
from mmpvt.utils.constants import IGNORE_LABEL


def inspect_label_maps(dataset: DatasetConfig, splits: list[str], workers: int) -> DatasetReport:
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
        named = {sample.label_map for sample in samples}
        found = map(str, files.map_folder.rglob(f"*{files.map_suffix}"))
        if extra := sorted(set(found) - named):
            report.notes["label maps without an image"] += extra

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
