"""Checks that an evaluator's annotations are those of the data sets that it is to score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from mmpvt.datasets.coco import files_by_id, read_annotations
from mmpvt.engine.checks.classes import AnnotatedClasses
from mmpvt.engine.config_parts import iter_dicts
from mmpvt.errors import ConfigError, DatasetError

BY_ID = ("OVCocoMetric", "CocoOccludedSeparatedMetric")  # they name class APs by id


def check_evaluator(
    evaluator: dict,
    config: Config,
    split: str,
    annotated: list[AnnotatedClasses],
    contents: dict[Path, dict],
) -> list[str]:
    """Compares an evaluator of COCO's scores with the data sets of its split.

    Returns:
        list[str]: what is unusual but right, a sentence each.

    Raises:
        ConfigError: its ``ann_file`` is none or several, or lacks images of the data sets.
        DatasetError: images of two files share an id, or the classes are not the annotations'.
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
    tested = _check_ids(files, contents, name)
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
        lacking = [image for number, image in images.items() if number not in scored]
        if lacking:
            raise ConfigError(
                f"{name}.ann_file is {file}, which lacks {len(lacking)} of the {len(images)} "
                f"images of the data set's {one}, such as {lacking[0]}",
                hint="name the same file in both",
            )
    _check_categories(kind, file, annotated[0].classes, contents[file])
    extra = len(scored.keys() - tested.keys())
    if tested and extra:
        return [
            f"{name}.ann_file is {file}, and {extra} of its {len(scored)} images are not in the "
            "data set: their objects count as false negatives"
        ]
    return []


def _check_ids(files: list[Path], contents: dict[Path, dict], name: str) -> dict[int | str, Path]:
    """The file of each image id, which is all that an evaluator knows of an image."""
    tested: dict[int | str, Path] = {}
    for file in files:
        ids = files_by_id(contents.get(file))
        for number in ids:
            if number in tested:
                raise DatasetError(
                    f"the image id {number} is in {tested[number]} and in {file}, and {name} tells "
                    "images apart by their ids",
                    hint="give each image of the joined files its own",
                )
        tested |= dict.fromkeys(ids, file)
    return tested


def _check_categories(kind: str, file: Path, classes: Sequence[str], content: dict) -> None:
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
