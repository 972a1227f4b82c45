"""Inspecting a data set in COCO's format."""

from __future__ import annotations

from collections import Counter

import numpy as np

from mmpvt.datasets.coco import SHARED_ID, clean_annotations, image_files, read_annotations
from mmpvt.datasets.formats.coco import OUTSIDE
from mmpvt.datasets.listed_files import check_inside
from mmpvt.engine.checks.classes import AnnotatedClasses
from mmpvt.engine.dataset_config import DatasetConfig
from mmpvt.engine.hooks.skipped_data import uses_masks
from mmpvt.inspection.files import SampleFiles, inspect_files
from mmpvt.inspection.report import DatasetReport, Example

LACKING = "classes of the config that the annotations lack"
UNANNOTATED = "no annotation of a class"


def inspect_coco(dataset: DatasetConfig, splits: list[str], workers: int) -> DatasetReport:
    """Inspects a data set in COCO's format.

    Args:
        dataset (DatasetConfig): of the annotations and images.
        splits (list[str]): that it is used for.
        workers (int): processes that decode images.

    Returns:
        DatasetReport: what is in it, and what is wrong with it.

    Raises:
        DatasetError: the annotations can't be read as a whole.
    """
    content = read_annotations(dataset.ann_file)
    check_inside(dataset.ann_file, image_files(content), dataset.allow_outside)
    classes = dataset.classes or [category["name"] for category in content["categories"]]
    report = DatasetReport(
        dataset, splits, str(dataset.ann_file), classes, images=len(content["images"])
    )
    good, findings = clean_annotations(content, masks=uses_masks(dataset.fields))
    for finding in findings:
        is_used = finding.fixed and finding.problem != SHARED_ID
        group = report.notes if is_used else report.errors
        group[f"{finding.kind}s: {finding.problem}"].append(str(finding))
    _check_listed(report, content["images"])
    _check_classes(report, AnnotatedClasses.of_coco(dataset.ann_file, classes, good))

    folder = dataset.folder("img")
    samples = [
        SampleFiles(str(folder / image["file_name"]), (image["height"], image["width"]))
        for image in good["images"]
    ]
    infos = inspect_files(f"images for {report.name}", samples, report.loader, workers)
    report.add_files(samples, infos)
    report.ids = {image["id"] for image in good["images"]}

    by_name = {name: label for label, name in enumerate(classes)}
    labels_by_id = {c["id"]: by_name[c["name"]] for c in good["categories"] if c["name"] in by_name}
    by_image: dict[object, list[dict]] = {image["id"]: [] for image in good["images"]}
    for annotation in good["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    sizes = [report.sizes]
    for image, files, info in zip(good["images"], samples, infos, strict=True):
        annotations = by_image[image["id"]]
        _check_boxes(report, image, annotations)
        known = [a for a in annotations if a["category_id"] in labels_by_id]
        labels = np.array([labels_by_id[a["category_id"]] for a in known], int)
        boxes = np.array([a["bbox"] for a in known], float).reshape(-1, 4)
        report.counts += np.bincount(labels, minlength=len(classes))
        sizes.append(np.sqrt([a["area"] for a in known]))
        report.empty += not known
        if info.shape and known:
            boxes[:, 2:] += boxes[:, :2]
            report.examples.append(Example(files, boxes, labels))
    report.sizes = np.concatenate(sizes)
    return report


def _check_listed(report: DatasetReport, images: list) -> None:
    """Images that are listed twice, under one id or under several."""
    listed = [image for image in images if isinstance(image, dict)]
    entries = Counter(repr(sorted(image.items(), key=repr)) for image in listed)
    for entry, count in entries.items():
        if count > 1:
            report.errors["images that are listed twice"].append(f"{count} times: {entry[:120]}")
    ids: dict[str, set] = {}
    for image in listed:
        ids.setdefault(str(image.get("file_name")), set()).add(str(image.get("id")))
    for name, several in ids.items():
        if len(several) > 1:
            said = f"{name} is the file of images {', '.join(sorted(several))}"
            report.errors["images that share a file"].append(said)


def _check_classes(report: DatasetReport, listed: AnnotatedClasses) -> None:
    if problem := listed.problem():
        report.errors["classes"].append(problem)
    if listed.lacking:  # of a validation, the other classes are evaluated
        group = report.errors if "train" in report.splits else report.notes
        group[LACKING] += listed.lacking
    if listed.unused:  # a subset may be what is wanted
        report.notes["categories that the config has no class for"] += listed.unused
    order = [name for name in listed.names if name in set(report.classes)]
    if order != [name for name in report.classes if name in set(order)]:
        said = f"{', '.join(order[:3])} …: labels go by name, in the order of the config's classes"
        report.notes["categories in another order than the config's classes"].append(said)
    if not listed.used & set(report.classes):
        report.errors[UNANNOTATED].append(str(listed.file))


def _check_boxes(report: DatasetReport, image: dict, annotations: list[dict]) -> None:
    same: Counter[tuple] = Counter()
    for annotation in annotations:
        x, y, width, height = annotation["bbox"]
        beyond = max(-x, -y, x + width - image["width"], y + height - image["height"])
        if beyond > OUTSIDE:
            said = f"annotation {annotation['id']} by {beyond:.1f} pixels"
            report.notes["annotations: box reaches out of its image"].append(said)
        same[(annotation["category_id"], x, y, width, height)] += 1
    if annotations and all(annotation.get("iscrowd") for annotation in annotations):
        report.notes["images with crowds only"].append(f"image {image['id']}")
    for (category, *box), count in same.items():
        if count > 1:
            said = f"image {image['id']}: {count} of category {category} at {box}"
            report.notes["annotations: the same box of the same class"].append(said)
