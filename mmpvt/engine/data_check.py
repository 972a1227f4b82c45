"""A look at the data before a run starts, so that it doesn't fail hours into it."""

from __future__ import annotations

import inspect
import os
import reprlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from mmseg.datasets import BaseSegDataset

from mmpvt.datasets.annotations import category_problem
from mmpvt.engine.settings import iter_dicts
from mmpvt.errors import UserError
from mmpvt.files import MAX_ANNOTATIONS, leaves_folder, parse_json, read_bytes

CLASSIFYING = {"bbox_head", "mask_head", "decode_head", "auxiliary_head"}
LOADERS = ("mmpvt.LoadImageFromFile", "mmpvt.LoadSegAnnotations")
ALLOW_OUTSIDE = "allow_outside_files"  # a config's setting
HELP = "get the data as docs/data.md says, or pass --data-root"


def check_data(config: Config, splits: Iterable[str]) -> dict[Path, dict]:
    """Checks that each data set's annotations can be read and its files are there.

    Args:
        config (Config): of an experiment.
        splits (Iterable[str]): of ``'train'``, ``'val'`` and ``'test'``, those about to be used.

    Returns:
        dict[Path, dict]: what COCO's annotation files hold, by their absolute paths: they take
            minutes to read.

    Raises:
        UserError: annotations or images are missing, empty or no JSON; the classes are not the
            annotations', or not as many as the model's.
    """
    scope = config.get("default_scope", "mmengine")
    init_default_scope(scope)
    seen = []
    contents = {}
    for split in splits:
        for dataset in iter_datasets((config.get(f"{split}_dataloader") or {}).get("dataset")):
            place = (dataset.get("data_root"), dataset.get("ann_file"), dataset.get("data_prefix"))
            if dataset.get("backend_args") is None and place not in seen:
                seen.append(place)
                kind = dataset_kind(dataset, scope)
                contents.update(_check(dataset, kind, config.get(ALLOW_OUTSIDE, False)))
                check_class_counts(class_names(dataset, kind), config.model)
    return contents


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


def check_class_counts(classes: list[str], model: dict) -> None:
    """Compares a data set's classes with the model's heads.

    Args:
        classes (list[str]): the data set's.
        model (dict): a model's.

    Raises:
        UserError: a head is for another number of classes.
    """
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


def is_coco(kind: type | None) -> bool:
    """Whether a class reads COCO's format as MMDetection's ``CocoDataset`` does."""
    return _reads_like(kind, CocoDataset)


def is_maps(kind: type | None) -> bool:
    """Whether a class reads images and label maps as MMSegmentation's ``BaseSegDataset`` does."""
    return _reads_like(kind, BaseSegDataset)


def _reads_like(kind: type | None, known: type) -> bool:
    own = ("load_data_list", "parse_data_info")  # LVIS's file names lie elsewhere, say
    return (
        isinstance(kind, type)
        and issubclass(kind, known)
        and all(getattr(kind, name, None) is getattr(known, name, None) for name in own)
    )


def class_names(dataset: dict, kind: type | None) -> list[str]:
    """The classes of a data set: those that its config names, or its type knows."""
    known = getattr(kind, "METAINFO", {}).get("classes", ())
    classes = (dataset.get("metainfo") or {}).get("classes") or known
    return [classes] if isinstance(classes, str) else list(classes)


def data_root(dataset: dict) -> Path:
    """The folder that a data set lies in.

    Raises:
        UserError: there is no such folder.
    """
    root = Path(dataset.get("data_root") or "")
    if dataset.get("data_root") and not root.is_dir():
        raise UserError(f"no data under {root}: there is no such folder; {HELP}")
    return root


def check_names(file: Path, names: Iterable[str], allow_outside: bool) -> None:
    """Checks that the files that a list names lie in the folder that it is for.

    Who wrote the list would decide otherwise which of the user's files are read.

    Args:
        file (Path): the list.
        names (Iterable[str]): that it holds.
        allow_outside (bool): the config's ``allow_outside_files``: nothing is checked.

    Raises:
        UserError: a name is absolute or goes upwards.
    """
    outside = [] if allow_outside else [name for name in names if leaves_folder(name)]
    if outside:
        raise UserError(
            f"{file} names {len(outside)} files outside of the data's folder "
            f"({_first([reprlib.repr(name) for name in outside])}): if you trust it, pass "
            f"--cfg-options {ALLOW_OUTSIDE}=True"
        )


def keep_inside(config: Config) -> None:
    """Has the loading transforms refuse files outside of their data set's folders.

    Data sets of every kind are held to it, those too whose lists :func:`check_data` doesn't read.

    Args:
        config (Config): changed, unless its ``allow_outside_files`` is set.
    """
    if config.get(ALLOW_OUTSIDE, False):
        return
    for split in ("train", "val", "test"):
        for dataset in iter_datasets((config.get(f"{split}_dataloader") or {}).get("dataset")):
            root = dataset.get("data_root") or ""
            prefixes = (dataset.get("data_prefix") or {}).values()
            folders = [root, *(os.path.join(root, prefix or "") for prefix in prefixes)]  # noqa: PTH118
            for step in iter_dicts(dataset.get("pipeline")):
                if step.get("type") in LOADERS and dataset.get("backend_args") is None:
                    step["folders"] = folders


def _check(dataset: dict, kind: type | None, allow_outside: bool) -> dict[Path, dict]:
    root = data_root(dataset)
    if is_coco(kind):
        return _check_coco(dataset, root, kind, allow_outside)
    if is_maps(kind):
        _check_segmentation(dataset, root, kind, allow_outside)
    return {}


def _check_coco(dataset: dict, root: Path, kind: type, allow_outside: bool) -> dict[Path, dict]:
    file = root / (dataset.get("ann_file") or "")
    content = read_annotations(file)
    names = image_names(content)
    check_names(file, names, allow_outside)
    prefix = (dataset.get("data_prefix") or {}).get("img") or ""
    _check_files(root / prefix, names, f"named in {file}", "images")
    classes = class_names(dataset, kind)
    found = [category.get("name") for category in content["categories"]]
    if classes and not set(classes) & set(found):
        raise UserError(
            f"{file} holds none of the config's {len(classes)} classes ({_first(classes)}), but "
            f"{len(found)} others ({_first(found)}): set metainfo=dict(classes=…) in the config"
        )
    return {file.absolute(): content}


def image_names(content: dict) -> list[str]:
    """The files that annotations in COCO's format name."""
    images = (image for image in content["images"] if isinstance(image, dict))
    names = (image.get("file_name") for image in images)
    return [name for name in names if isinstance(name, str) and name]


def read_annotations(file: Path) -> dict:
    """Reads annotations in COCO's format.

    Args:
        file (Path): ``instances_train2017.json``, say.

    Returns:
        dict: with lists under ``images``, ``annotations`` and ``categories``. Of files that list
            images without labels, COCO's test-dev's for one, the second is empty.

    Raises:
        UserError: the file is missing, empty, no JSON, or lacks one of the lists; a category has no
            id or name.
    """
    try:
        data = read_bytes(file, MAX_ANNOTATIONS)
    except OSError as error:
        raise UserError(f"no annotations at {file}: {_why(error)}; {HELP}") from error
    if not data:
        raise UserError(f"the annotation file {file} is empty; {HELP}")
    try:
        content = parse_json(data)
    except ValueError as error:
        raise UserError(f"the annotation file {file} is no JSON ({error}); {HELP}") from error
    del data
    if isinstance(content, dict) and "images" in content and "categories" in content:
        content.setdefault("annotations", [])
    keys = ("images", "annotations", "categories")
    lacking = [key for key in keys if not isinstance(_get(content, key), list)]
    if lacking:
        raise UserError(f"the annotation file {file} is not COCO's: it has no {_first(lacking)}")
    if not content["images"]:
        raise UserError(f"the annotation file {file} lists no images; {HELP}")
    if problem := category_problem(content["categories"]):
        raise UserError(f"the annotation file {file} can't be used: {problem}")
    return content


def _check_segmentation(dataset: dict, root: Path, kind: type, allow_outside: bool) -> None:
    images, stems = list_stems(dataset, root, kind, allow_outside)
    folder, suffix = label_maps(dataset, root, kind)
    if folder:
        _check_files(folder, [stem + suffix for stem in stems], f"for {images}", "label maps")


def list_stems(
    dataset: dict, root: Path, kind: type, allow_outside: bool = False
) -> tuple[Path, list[str]]:
    """The images of a segmentation data set.

    Args:
        dataset (dict): its config.
        root (Path): the folder that it lies in.
        kind (type): its class.
        allow_outside (bool): whether they may lie outside of it, see :func:`check_names`.

    Returns:
        tuple[Path, list[str]]: their folder, and their names in it without the ending.

    Raises:
        UserError: there are none; the list of them is missing, no text or names others.
    """
    images = root / ((dataset.get("data_prefix") or {}).get("img_path") or "")
    suffix = dataset.get("img_suffix") or default_of(kind, "img_suffix")
    if not images.is_dir():
        raise UserError(f"no images under {images}: there is no such folder; {HELP}")
    if dataset.get("ann_file"):
        listed = root / dataset["ann_file"]
        try:
            lines = read_bytes(listed).decode().splitlines()
        except OSError as error:
            raise UserError(f"no list of images at {listed}: {_why(error)}; {HELP}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"the list of images {listed} is no text in UTF-8") from error
        stems = [line.strip() for line in lines if line.strip()]
        check_names(listed, stems, allow_outside)
    else:
        names = (str(path.relative_to(images)) for path in images.rglob(f"*{suffix}"))
        stems = [name.removesuffix(suffix) for name in names]
    if not stems:
        raise UserError(f"no images under {images}: no file there ends in {suffix}; {HELP}")
    return images, stems


def label_maps(dataset: dict, root: Path, kind: type) -> tuple[Path | None, str]:
    """The folder of a segmentation data set's label maps, or None, and their names' ending."""
    folder = (dataset.get("data_prefix") or {}).get("seg_map_path")
    suffix = dataset.get("seg_map_suffix") or default_of(kind, "seg_map_suffix")
    return root / folder if folder else None, suffix


def _check_files(folder: Path, names: list[str], where: str, what: str) -> None:
    """One listing a folder, not one question a file: train2017 holds 118,287."""
    there: dict[Path, set[str]] = {}
    missing = []
    for name in names:
        path = folder / str(name)
        if path.parent not in there:
            try:
                there[path.parent] = {entry.name for entry in path.parent.iterdir()}
            except (OSError, ValueError):  # no such folder, or a name that none can have
                there[path.parent] = set()
        if path.name not in there[path.parent]:
            missing.append(str(name))
    if not missing:
        return
    rest = f"{len(missing)} of {len(names)} files {where} are missing"
    if len(missing) == len(names):
        raise UserError(f"no {what} under {folder}: {rest}; {HELP}")
    raise UserError(f"{what} are missing under {folder}: {rest} ({_first(missing)}); {HELP}")


def default_of(kind: type, argument: str) -> object:
    """What a data set class takes for ``argument``, looked up through its bases."""
    for base in kind.__mro__:
        parameter = inspect.signature(base.__init__).parameters.get(argument)
        if parameter is not None and parameter.default is not inspect.Parameter.empty:
            return parameter.default
    return ""


def _why(error: OSError) -> str:
    missing = isinstance(error, FileNotFoundError | NotADirectoryError)
    return "there is no such file" if missing else str(error.strerror)


def _get(content: object, key: str) -> object:
    return content.get(key) if isinstance(content, dict) else None


def _first(names: list) -> str:
    return ", ".join(map(str, names[:3])) + (" …" if len(names) > 3 else "")
