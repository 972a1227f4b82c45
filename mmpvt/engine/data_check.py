"""A look at the data before a run starts, so that it doesn't fail hours into it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmseg.datasets import BaseSegDataset

from mmpvt.engine.settings import iter_dicts
from mmpvt.errors import UserError

CLASSIFYING = {"bbox_head", "mask_head", "decode_head", "auxiliary_head"}
HELP = "get the data as docs/data.md says, or pass --data-root"


def check_data(config: Config, splits: Iterable[str]) -> None:
    """Checks that each data set's annotations can be read and its files are there.

    Args:
        config (Config): of an experiment.
        splits (Iterable[str]): of ``'train'``, ``'val'`` and ``'test'``, those about to be used.

    Raises:
        UserError: annotations or images are missing, empty or no JSON; the classes are not the
            annotations', or not as many as the model's.
    """
    init_default_scope(config.get("default_scope", "mmengine"))
    seen = []
    for split in splits:
        for dataset in iter_datasets((config.get(f"{split}_dataloader") or {}).get("dataset")):
            place = (dataset.get("data_root"), dataset.get("ann_file"), dataset.get("data_prefix"))
            if dataset.get("backend_args") is None and place not in seen:
                seen.append(place)
                _check(dataset)
                _check_class_counts(dataset, config.model)


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


def _check_class_counts(dataset: dict, model: dict) -> None:
    classes = _classes(dataset, dataset_kind(dataset))
    for part in iter_dicts(model):
        for name in CLASSIFYING & part.keys():
            heads = part[name] if isinstance(part[name], list) else [part[name]]
            counts = {head.get("num_classes") for head in heads if isinstance(head, dict)}
            wrong = counts - {None, len(classes)}
            if classes and wrong:
                raise UserError(
                    f"the model's {name} is for {wrong.pop()} classes, the data set has "
                    f"{len(classes)} ({_first(classes)}): set num_classes in the config, or "
                    "metainfo=dict(classes=…) of the data set"
                )


def dataset_kind(dataset: dict) -> type | None:
    """The class that a data set's config names, looked for in the default scope first."""
    if not isinstance(dataset["type"], str):
        return dataset["type"]
    with DATASETS.switch_scope_and_registry(None) as registry:
        return registry.get(dataset["type"])


def _classes(dataset: dict, kind: type | None) -> list[str]:
    known = getattr(kind, "METAINFO", {}).get("classes", ())
    classes = (dataset.get("metainfo") or {}).get("classes") or known
    return [classes] if isinstance(classes, str) else list(classes)


def _check(dataset: dict) -> None:
    kind = dataset_kind(dataset)
    root = Path(dataset.get("data_root") or "")
    if dataset.get("data_root") and not root.is_dir():
        raise UserError(f"no data under {root}: there is no such folder; {HELP}")
    if kind and issubclass(kind, CocoDataset):
        _check_coco(dataset, root, kind)
    elif kind and issubclass(kind, BaseSegDataset):
        _check_segmentation(dataset, root, kind)


def _check_coco(dataset: dict, root: Path, kind: type) -> None:
    file = root / dataset["ann_file"]
    content = read_annotations(file)
    names = [image.get("file_name") for image in content["images"]]
    prefix = (dataset.get("data_prefix") or {}).get("img") or ""
    _check_files(root / prefix, names, f"named in {file}", "images")
    classes = _classes(dataset, kind)
    found = [category.get("name") for category in content["categories"]]
    if classes and not set(classes) & set(found):
        raise UserError(
            f"{file} holds none of the config's {len(classes)} classes ({_first(classes)}), but "
            f"{len(found)} others ({_first(found)}): set metainfo=dict(classes=…) in the config"
        )


def read_annotations(file: Path) -> dict:
    """Reads annotations in COCO's format.

    Args:
        file (Path): ``instances_train2017.json``, say.

    Returns:
        dict: with lists under ``images``, ``annotations`` and ``categories``.

    Raises:
        UserError: the file is missing, empty, no JSON, or lacks one of the lists.
    """
    if not file.is_file():
        raise UserError(f"no annotations at {file}: there is no such file; {HELP}")
    if not file.stat().st_size:
        raise UserError(f"the annotation file {file} is empty; {HELP}")
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"the annotation file {file} is no JSON ({error}); {HELP}") from error
    keys = ("images", "annotations", "categories")
    lacking = [key for key in keys if not isinstance(_get(content, key), list)]
    if lacking:
        raise UserError(f"the annotation file {file} is not COCO's: it has no {_first(lacking)}")
    if not content["images"]:
        raise UserError(f"the annotation file {file} lists no images; {HELP}")
    return content


def _check_segmentation(dataset: dict, root: Path, kind: type) -> None:
    prefix = dataset.get("data_prefix") or {}
    images = root / (prefix.get("img_path") or "")
    suffix = dataset.get("img_suffix") or _default(kind, "img_suffix")
    if not images.is_dir():
        raise UserError(f"no images under {images}: there is no such folder; {HELP}")
    if dataset.get("ann_file"):
        listed = root / dataset["ann_file"]
        if not listed.is_file():
            raise UserError(f"no list of images at {listed}: there is no such file; {HELP}")
        stems = [line.strip() for line in listed.read_text().splitlines() if line.strip()]
    else:
        names = (str(path.relative_to(images)) for path in images.rglob(f"*{suffix}"))
        stems = [name.removesuffix(suffix) for name in names]
    if not stems:
        raise UserError(f"no images under {images}: no file there ends in {suffix}; {HELP}")
    if prefix.get("seg_map_path"):
        map_suffix = dataset.get("seg_map_suffix") or _default(kind, "seg_map_suffix")
        maps = [stem + map_suffix for stem in stems]
        _check_files(root / prefix["seg_map_path"], maps, f"for {images}", "label maps")


def _check_files(folder: Path, names: list[str], where: str, what: str) -> None:
    """One listing a folder, not one question a file: train2017 holds 118,287."""
    there: dict[Path, set[str]] = {}
    missing = []
    for name in names:
        path = folder / str(name)
        if path.parent not in there:
            listing = path.parent.iterdir() if path.parent.is_dir() else ()
            there[path.parent] = {entry.name for entry in listing}
        if path.name not in there[path.parent]:
            missing.append(str(name))
    if not missing:
        return
    rest = f"{len(missing)} of {len(names)} files {where} are missing"
    if len(missing) == len(names):
        raise UserError(f"no {what} under {folder}: {rest}; {HELP}")
    raise UserError(f"{what} are missing under {folder}: {rest} ({_first(missing)}); {HELP}")


def _default(kind: type, argument: str) -> str:
    """What a data set class takes for ``argument``, looked up through its bases."""
    for base in kind.__mro__:
        parameter = inspect.signature(base.__init__).parameters.get(argument)
        if parameter is not None and parameter.default is not inspect.Parameter.empty:
            return parameter.default
    return ""


def _get(content: object, key: str) -> object:
    return content.get(key) if isinstance(content, dict) else None


def _first(names: list) -> str:
    return ", ".join(map(str, names[:3])) + (" …" if len(names) > 3 else "")
