"""Finding parts of a config: its dicts, its data sets, what those are."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.registry import DATASETS


def iter_dicts(part: object) -> Iterator[dict]:
    """Every dict within a part of a config, the outer before the inner."""
    if isinstance(part, dict):
        yield part
        for value in list(part.values()):
            yield from iter_dicts(value)
    elif isinstance(part, list | tuple):
        for value in part:
            yield from iter_dicts(value)


def iter_datasets(dataset: dict | None) -> Iterator[dict]:
    """The data sets with files of their own, within wrappers such as ``RepeatDataset``."""
    if not isinstance(dataset, dict):
        return
    if "dataset" in dataset:
        yield from iter_datasets(dataset["dataset"])
    elif "datasets" in dataset:
        for inner in dataset["datasets"]:
            yield from iter_datasets(inner)
    else:
        yield dataset


def dataset_kind(dataset: dict, scope: str) -> type | None:
    """The class that a data set's config names.

    Args:
        dataset (dict): the config.
        scope (str): the experiment's ``default_scope``, for a name that says none.

    Returns:
        type | None: the class, or None where there is none of this name.
    """
    name = dataset["type"]
    if not isinstance(name, str):
        return name
    try:
        return DATASETS.get(name if "." in name else f"{scope}.{name}")
    except RuntimeError:
        return None
