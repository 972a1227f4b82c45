"""Compares a classifier's classes with the folders and lists of its images."""

from __future__ import annotations

from collections.abc import Iterable

from mmengine.config import Config

from mmpvt.datasets.listed_files import check_present
from mmpvt.engine.class_names import iter_differing
from mmpvt.engine.dataset_config import DatasetConfig, iter_dataset_configs
from mmpvt.errors import DatasetError
from mmpvt.utils.text import few


def check_images(dataset: DatasetConfig) -> None:
    """Checks that a data set's images are there and have the labels of its classes.

    Raises:
        DatasetError: files are missing; labels or folders aren't the classes.
    """
    images, classes = dataset.classified_images, dataset.classes
    if images.folders is None:
        check_present(images.folder, images.names, f"named in {images.ann_file}", "images")
        highest = max(images.labels)
        if classes and highest >= len(classes):
            raise DatasetError(
                f"{images.ann_file} has the label {highest}, and the config's {len(classes)} "
                f"classes ({few(classes)}) end at {len(classes) - 1}",
                where=images.ann_file,
            )
        return
    if not images.names:
        raise DatasetError(
            f"there are no images in the {len(images.folders)} folders of {images.folder}",
            where=images.folder,
        )
    if classes and len(classes) != len(images.folders):
        raise DatasetError(
            f"{images.folder} has {len(images.folders)} folders ({few(images.folders)}), and the "
            f"config {len(classes)} classes ({few(classes)})",
            where=images.folder,
            hint="set metainfo=dict(classes=…) and the head's num_classes to what is there",
        )
    named = (dataset.fields.get("metainfo") or {}).get("classes")
    # mmpretrain numbers folders as they are sorted, whatever the classes' order
    for label, folder, name in iter_differing(images.folders, named or images.folders):
        raise DatasetError(
            f"class {label} is {name!r} in the config, and {folder!r} of the sorted folders in "
            f"{images.folder}",
            where=images.folder,
            hint="list the classes sorted as the folders, or the images with their labels in an "
            "ann_file",
        )


def check_folders(config: Config, splits: Iterable[str]) -> list[str]:
    """Compares the folders of a config's data sets, and finds classes without images.

    Returns:
        list[str]: what is unusual but right, a sentence each.

    Raises:
        DatasetError: a data set has a class that training lacks, or lacks one that it has; or
            training has no images of a class.
    """
    notes: list[str] = []
    first: tuple[str, list[str]] | None = None
    for split, dataset in iter_dataset_configs(config, splits):
        if not dataset.is_local or not dataset.is_classification:
            continue
        images = dataset.classified_images
        names = dataset.classes or list(map(str, range(max(images.labels) + 1)))
        empty = [name for label, name in enumerate(names) if label not in set(images.labels)]
        if empty and split == "train":
            raise DatasetError(
                f"there are no images of {len(empty)} of {len(names)} classes in {images.place}: "
                f"{few(empty)}",
                where=images.place,
                hint="add images, or remove the class",
            )
        if empty:
            notes.append(
                f"{images.place} has no images of {few(empty)}: the score is over the other "
                f"{len(names) - len(empty)} of {len(names)} classes"
            )
        if images.folders is None:
            continue
        if first is None:
            first = split, images.folders
        for folders, others, where in (
            (images.folders, first[1], first[0]),
            (first[1], images.folders, split),
        ):
            if lacking := sorted(set(folders) - set(others)):
                has = split if where == first[0] else first[0]
                raise DatasetError(
                    f"the data set for {has} has {few(lacking)}, which that for {where} lacks: "
                    "each takes a folder for every class",
                    where=images.folder,
                )
    return notes
