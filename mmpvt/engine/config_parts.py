"""Finding parts of a config: its dicts, its data sets, what those are."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS

SPLITS = ("train", "val", "test")


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


def split_datasets(config: Config, splits: Iterable[str] = SPLITS) -> Iterator[tuple[str, dict]]:
    """The data sets of a config's splits, each with the name of its split."""
    for split in splits:
        loader = config.get(f"{split}_dataloader") or {}
        yield from ((split, dataset) for dataset in iter_datasets(loader.get("dataset")))


def iter_steps(config: Config) -> Iterator[dict]:
    """Every dict within the data loaders, and within the hooks, which may switch a pipeline."""
    yield from iter_dicts([config.get(f"{split}_dataloader") for split in SPLITS])
    yield from iter_dicts(config.get("custom_hooks"))


def dataset_kind(dataset: dict, scope: str) -> type[Any] | None:
    """The class that a data set's config names, in ``scope`` unless it says another, or None."""
    name = dataset["type"]
    if not isinstance(name, str):
        return name
    try:
        return DATASETS.get(name if "." in name else f"{scope}.{name}")
    except RuntimeError:
        return None


def default_argument(kind: type | None, argument: str) -> Any:
    """What a class takes for ``argument`` by default, looked up through its bases."""
    for base in getattr(kind, "__mro__", ()):
        parameter = inspect.signature(base.__init__).parameters.get(argument)
        if parameter is not None and parameter.default is not inspect.Parameter.empty:
            return parameter.default
    return ""
