"""Looking at a data set in COCO's format."""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path

import numpy as np

from mmpvt.datasets.annotations import usable
from mmpvt.engine.classes import Listed, class_names
from mmpvt.engine.data_check import check_names, image_names, read_annotations
from mmpvt.engine.hooks.skipped_data import uses_masks
from mmpvt.inspection.files import Job, Loader, image_reader, look, look_at_all
from mmpvt.inspection.surveys import LACKING, UNANNOTATED, Sample, Survey, palette_of

OUTSIDE = 1.5  # pixels that a box may reach beyond its image: COCO's own are rounded


def survey_coco(
    dataset: dict,
    root: Path,
    kind: type,
    splits: list[str],
    workers: int,
    allow_outside: bool = False,
) -> Survey:
    """Looks at a data set in COCO's format.

    Args:
        dataset (dict): its config.
        root (Path): the folder that it lies in.
        kind (type): its class.
        splits (list[str]): that it is used for.
        workers (int): processes that decode images.
        allow_outside (bool): whether files may lie elsewhere. Default: False.

    Returns:
        Survey: what was found.

    Raises:
        UserError: the annotations can't be read as a whole.
    """
    file = root / dataset["ann_file"]
    content = read_annotations(file)
    check_names(file, image_names(content), allow_outside)
    classes = class_names(dataset, kind) or [c["name"] for c in content["categories"]]
    found = Survey(
        splits, str(file), classes, palette_of(dataset, kind), images=len(content["images"])
    )
    found.loader = Loader(image_reader(dataset))
    good, findings = usable(content, masks=uses_masks(dataset))
    for finding in findings:
        said = f"{finding.kind} {finding.id} {finding.reason}"
        unlike = finding.mended and "another's id" not in finding.reason
        group = found.notes if unlike else found.problems
        group[f"{finding.kind}s: {finding.reason.split(' (')[0].split(':')[0]}"].append(said)
    _check_listed(found, content["images"])
    indices = _check_classes(found, Listed.of_coco(file, classes, good))
    labels_of = {
        category["id"]: indices[str(category.get("name"))]
        for category in good["categories"]
        if str(category.get("name")) in indices
    }

    folder = root / ((dataset.get("data_prefix") or {}).get("img") or "")
    jobs = [
        Job(str(folder / image["file_name"]), (image["height"], image["width"]))
        for image in good["images"]
    ]
    seen = look_at_all(
        f"images for {found.name}", jobs, functools.partial(look, loader=found.loader), workers
    )
    found.take(jobs, seen)
    found.ids = {image["id"] for image in good["images"]}

    of_image: dict[object, list[dict]] = {image["id"]: [] for image in good["images"]}
    for annotation in good["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    found.counts = np.zeros(len(classes))
    sizes = []
    for image, job, one in zip(good["images"], jobs, seen, strict=True):
        annotations = of_image[image["id"]]
        _check_boxes(found, image, annotations)
        known = [a for a in annotations if a["category_id"] in labels_of]
        labels = np.array([labels_of[a["category_id"]] for a in known], int)
        boxes = np.array([a["bbox"] for a in known], float).reshape(-1, 4)
        found.counts += np.bincount(labels, minlength=len(classes))
        sizes.append(np.sqrt(boxes[:, 2] * boxes[:, 3]))
        found.empty += not len(known)
        if one.shape and len(known):
            boxes[:, 2:] += boxes[:, :2]
            found.samples.append(Sample(job, boxes, labels))
    found.sizes = np.concatenate(sizes) if sizes else found.sizes
    return found


def _check_listed(found: Survey, images: list) -> None:
    """Images that are listed twice, under one id or under several."""
    listed = [image for image in images if isinstance(image, dict)]
    entries = Counter(repr(sorted(image.items(), key=repr)) for image in listed)
    for entry, count in entries.items():
        if count > 1:
            found.problems["images that are listed twice"].append(f"{count} times: {entry[:120]}")
    ids: dict[str, set] = {}
    for image in listed:
        ids.setdefault(str(image.get("file_name")), set()).add(str(image.get("id")))
    for name, several in ids.items():
        if len(several) > 1:
            said = f"{name} is the file of images {', '.join(sorted(several))}"
            found.problems["images that share a file"].append(said)


def _check_classes(found: Survey, listed: Listed) -> dict[str, int]:
    """The label of each class, by its name."""
    if problem := listed.problem():
        found.problems["classes"].append(problem)
    group = found.problems if "train" in found.splits else found.notes
    if listed.lacking:  # of a validation, the other classes are evaluated
        group[LACKING] += listed.lacking
    if listed.unused:  # a subset may be what is wanted
        found.notes["categories that the config has no class for"] += listed.unused
    order = [name for name in listed.names if name in set(found.classes)]
    if order != [name for name in found.classes if name in set(order)]:
        said = f"{', '.join(order[:3])} …: labels go by name, in the order of the config's classes"
        found.notes["categories in another order than the config's classes"].append(said)
    if not listed.used & set(found.classes):
        found.problems[UNANNOTATED].append(str(listed.file))
    return {name: label for label, name in enumerate(found.classes)}


def _check_boxes(found: Survey, image: dict, annotations: list[dict]) -> None:
    same = Counter()
    for annotation in annotations:
        x, y, width, height = annotation["bbox"]
        beyond = max(-x, -y, x + width - image["width"], y + height - image["height"])
        if beyond > OUTSIDE:
            said = f"annotation {annotation['id']} by {beyond:.1f} pixels"
            found.notes["annotations: box reaches out of its image"].append(said)
        same[(annotation["category_id"], x, y, width, height)] += 1
    if annotations and all(annotation.get("iscrowd") for annotation in annotations):
        found.notes["images with crowds only"].append(f"image {image['id']}")
    for (category, *box), count in same.items():
        if count > 1:
            said = f"image {image['id']}: {count} of category {category} at {box}"
            found.notes["annotations: the same box of the same class"].append(said)
