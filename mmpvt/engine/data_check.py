"""A look at the data before a run starts, so that it doesn't fail hours into it."""

from __future__ import annotations

import inspect
import itertools
import os
import reprlib
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from mmdet.datasets import CocoDataset, LVISV05Dataset, XMLDataset
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.datasets import BaseSegDataset

from mmpvt.datasets.annotations import MAX_NUMBER, category_problem
from mmpvt.engine.classes import (
    Listed,
    check_class_counts,
    check_classes,
    check_same_classes,
    check_subset,
    class_names,
    few,
    log,
)
from mmpvt.engine.config_parts import dataset_kind, iter_datasets, iter_dicts
from mmpvt.errors import UserError
from mmpvt.utils.files import MAX_ANNOTATIONS, leaves_folder, parse_json, read_bytes

LOADERS = ("mmpvt.LoadImageFromFile", "mmpvt.LoadSegAnnotations")
ALLOW_OUTSIDE = "allow_outside_files"  # a config's setting
BY_ID = ("OVCocoMetric", "CocoOccludedSeparatedMetric")  # see preparation.py
PLACE = ("data_root", "ann_file", "data_prefix")
HELP = "get the data as docs/data.md says, or pass --data-root"


def check_data(config: Config, splits: Iterable[str]) -> dict[Path, dict]:
    """Checks that each data set's annotations can be read, name its classes, and have their files.

    What is unusual but right is logged: a subset of a file's categories, say.

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
    allow_outside = config.get(ALLOW_OUTSIDE, False)
    seen, notes = {}, {}
    contents: dict[Path, dict] = {}
    for split in splits:
        listed = []
        loaded = (config.get(f"{split}_dataloader") or {}).get("dataset")
        check_arguments(loaded, scope)
        for dataset in iter_datasets(loaded):
            place = str([dataset.get(key) for key in (*PLACE, "metainfo")])
            if dataset.get("backend_args") is None:
                kind = dataset_kind(dataset, scope)
                if place not in seen:
                    seen[place] = _check(dataset, kind, contents, allow_outside)
                    check_class_counts(class_names(dataset, kind), config.model)
                listed += filter(None, [seen[place]])
        notes |= dict.fromkeys(check_classes(split, listed))
        for evaluator in iter_dicts(config.get(f"{split}_evaluator")):
            found = _check_evaluator(evaluator, config, split, listed, contents)
            notes |= dict.fromkeys(found)
    check_same_classes(config, splits)
    for note in notes:
        log.warning("%s", note)
    return contents


def check_arguments(dataset: dict | None, scope: str) -> None:
    """Checks the arguments of data sets for what ends in a traceback later.

    Args:
        dataset (dict | None): a loader's, with those that it wraps.
        scope (str): the experiment's ``default_scope``.

    Raises:
        UserError: ``ann_file`` is not a single path; a ``ClassBalancedDataset`` is around one that
            doesn't tell its images' categories.
    """
    for part in iter_datasets(dataset):
        if isinstance(part.get("ann_file"), list | tuple):
            raise UserError(
                f"ann_file is a list of {len(part['ann_file'])} files, and a data set reads one: "
                "join them with dataset=dict(type='ConcatDataset', datasets=[…]), a data set a file"
            )
    for part in iter_dicts(dataset):
        if not str(part.get("type")).endswith("ClassBalancedDataset"):
            continue
        inner = part.get("dataset") or {}
        if "type" in inner and not hasattr(dataset_kind(inner, scope), "get_cat_ids"):
            raise UserError(
                f"ClassBalancedDataset can't balance a {inner['type']}, which has no get_cat_ids: "
                "of joined data sets, put it around each"
            )


def _check_evaluator(
    evaluator: dict,
    config: Config,
    split: str,
    listed: list[Listed],
    contents: dict[Path, dict],
) -> list[str]:
    """Compares an evaluator's annotations with those of the data sets that it is to score.

    Returns:
        list[str]: what is unusual but right, a sentence each.
    """
    kind = str(evaluator.get("type")).rpartition(".")[2]
    if not kind.startswith(("Coco", "OVCoco")) or evaluator.get("backend_args") is not None:
        return []
    name = f"{split}_evaluator"
    if isinstance(evaluator.get("ann_file"), list | tuple):
        raise UserError(
            f"{name}.ann_file is a list, and an evaluator reads one file: join the files into one, "
            "each image with an id of its own"
        )
    files = [one.file.absolute() for one in listed]
    if not files:
        return []
    tested: dict[str, Path] = {}  # by id, which is all that an evaluator knows of an image
    for one in files:
        for number in _image_ids(contents.get(one)):
            if number in tested:
                raise UserError(
                    f"the image id {number} is in {tested[number]} and in {one}, and {name} tells "
                    "images apart by their ids: give each image of the joined files its own"
                )
        tested |= dict.fromkeys(_image_ids(contents.get(one)), one)
    if not evaluator.get("ann_file"):
        pipelines = iter_dicts(config.get(f"{split}_dataloader"))
        if not any("instances" in (step.get("meta_keys") or ()) for step in pipelines):
            raise UserError(f"{name} has no ann_file: set it to the data set's, {listed[0].file}")
        return []
    file = Path(evaluator["ann_file"]).absolute()
    if file not in contents:
        contents[file] = read_annotations(file)
    scored = _image_ids(contents[file])
    for one in set(files) & contents.keys() - {file}:
        images = _image_ids(contents[one])
        lost = [image for number, image in images.items() if number not in scored]
        if lost:
            raise UserError(
                f"{name}.ann_file is {file}, which lacks {len(lost)} of the {len(images)} images "
                f"of the data set's {one}, such as {lost[0]}: name the same file in both"
            )
    classes = listed[0].classes
    if problem := Listed.of_coco(file, classes, contents[file]).problem():
        raise UserError(problem)
    by_name = {c.get("name"): c.get("id") for c in contents[file]["categories"]}
    numbers = [by_name[name] for name in classes if name in by_name]
    if kind in BY_ID and numbers != sorted(numbers):
        raise UserError(
            f"{kind} lists single classes by the ids of their categories, which in {file} have "
            "another order than the config's classes: sort metainfo=dict(classes=…) by these ids"
        )
    extra = len(scored.keys() - tested.keys())
    if tested and extra:
        return [
            f"{name}.ann_file is {file}, and {extra} of its {len(scored)} images are not in the "
            "data set: their objects count as false negatives"
        ]
    return []


def _image_ids(content: dict | None) -> dict[str, str]:
    """Names of the images in COCO's annotations, by their ids."""
    images = (image for image in (content or {}).get("images", ()) if isinstance(image, dict))
    return {str(image.get("id")): str(image.get("file_name")) for image in images}


def is_coco(kind: type | None) -> bool:
    """Whether a class reads COCO's format as MMDetection's ``CocoDataset`` does."""
    return _reads_like(kind, CocoDataset)


def is_maps(kind: type | None) -> bool:
    """Whether a class reads images and label maps as MMSegmentation's ``BaseSegDataset`` does."""
    return _reads_like(kind, BaseSegDataset)


def is_voc(kind: type | None) -> bool:
    """Whether a class reads Pascal VOC's format as MMDetection's ``XMLDataset`` does."""
    return _reads_like(kind, XMLDataset)


def is_lvis(kind: type | None) -> bool:
    """Whether a class reads LVIS's format, with MMDetection's ``LVISDataset``."""
    return isinstance(kind, type) and issubclass(kind, LVISV05Dataset)


def _reads_like(kind: type | None, known: type) -> bool:
    own = ("load_data_list", "parse_data_info")  # LVIS's file names lie elsewhere, say
    return (
        isinstance(kind, type)
        and issubclass(kind, known)
        and all(getattr(kind, name, None) is getattr(known, name, None) for name in own)
    )


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
            f"({few([reprlib.repr(name) for name in outside])}): if you trust it, pass "
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


def _check(
    dataset: dict, kind: type | None, contents: dict[Path, dict], allow_outside: bool
) -> Listed | None:
    """Checks a data set's files; its classes beside its annotations', where these are known."""
    root = data_root(dataset)
    classes = class_names(dataset, kind)
    if is_coco(kind):
        file = root / (dataset.get("ann_file") or "")
        content = contents.get(file.absolute()) or read_annotations(file)
        contents[file.absolute()] = content
        listed = Listed.of_coco(file, classes, content)
        names = image_names(content)
        check_names(file, names, allow_outside)
        prefix = (dataset.get("data_prefix") or {}).get("img") or ""
        _check_files(root / prefix, names, f"named in {file}", "images")
        return listed if classes else None
    if is_voc(kind):
        return _check_voc(dataset, root, kind, classes, allow_outside)
    if is_lvis(kind):
        _check_lvis(root / (dataset.get("ann_file") or ""), classes)
    if is_maps(kind):
        check_subset(dataset, kind)
        _check_segmentation(dataset, root, kind, allow_outside)
    return None


def _check_voc(
    dataset: dict, root: Path, kind: type, classes: list[str], allow_outside: bool
) -> Listed:
    """Reads Pascal VOC's annotations, a file an image (as MMDetection's ``XMLDataset`` does)."""
    file = root / (dataset.get("ann_file") or "")
    stems = _read_list(file, allow_outside)
    if not stems:
        raise UserError(f"the list of images {file} is empty; {HELP}")
    folder = root / ((dataset.get("data_prefix") or {}).get("sub_data_root") or "")
    images, annotations = (
        folder / (dataset.get(key) or default_of(kind, key)) for key in ("img_subdir", "ann_subdir")
    )
    _check_files(annotations, [f"{stem}.xml" for stem in stems], f"named in {file}", "annotations")
    _check_files(images, [f"{stem}.jpg" for stem in stems], f"named in {file}", "images")
    names: dict[str, None] = {}
    for stem in stems:
        path = annotations / f"{stem}.xml"
        try:
            content = ElementTree.fromstring(read_bytes(path))
            found = [one.text for one in content.iterfind("object/name")]
            _check_numbers(content)
        except UserError:
            raise
        except ElementTree.ParseError as error:
            raise UserError(f"the annotation file {path} is no XML ({error}); {HELP}") from error
        except (OSError, ValueError) as error:
            raise UserError(f"the annotation file {path} can't be used: {error}") from error
        names.update(dict.fromkeys(str(name) for name in found))
    return Listed(file, classes, list(names), frozenset(names), bool(names), complete=False)


def _check_numbers(content: ElementTree.Element) -> None:
    """Reads what MMDetection's ``XMLDataset`` turns into numbers, without a look at it."""
    for element in content.iterfind("object"):
        for name in ("name", "bndbox"):
            if element.find(name) is None:
                raise ValueError(f"an object has no {name}")
        for side in ("xmin", "ymin", "xmax", "ymax"):
            if not abs(float(element.findtext(f"bndbox/{side}", ""))) <= MAX_NUMBER:
                raise ValueError(f"a box's {side} is {element.findtext(f'bndbox/{side}')}")
        int(element.findtext("difficult", "0"))
    for side in ("width", "height"):
        if content.find("size") is not None:
            int(content.findtext(f"size/{side}", ""))


def _check_lvis(file: Path, classes: list[str]) -> None:
    """MMDetection's ``LVISDataset`` numbers classes as its file does, whatever the config says."""
    names = [category.get("name") for category in read_annotations(file)["categories"]]
    pairs = enumerate(itertools.zip_longest(names, classes))
    unlike = next(((i, *pair) for i, pair in pairs if pair[0] != pair[1]), None)
    if classes and unlike:
        raise UserError(
            f"{file} has {len(names)} categories, the config {len(classes)} classes; number "
            f"{unlike[0]} is {unlike[1]!r} in the file and {unlike[2]!r} in the config: LVIS data "
            "sets take the file's order, so set metainfo=dict(classes=…) to it, or use "
            "type='CocoDataset'"
        )


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
        raise UserError(f"the annotation file {file} is not COCO's: it has no {few(lacking)}")
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
        stems = _read_list(listed, allow_outside)
    else:
        names = (str(path.relative_to(images)) for path in images.rglob(f"*{suffix}"))
        stems = [name.removesuffix(suffix) for name in names]
    if not stems:
        raise UserError(f"no images under {images}: no file there ends in {suffix}; {HELP}")
    return images, stems


def _read_list(file: Path, allow_outside: bool) -> list[str]:
    try:
        lines = read_bytes(file).decode().splitlines()
    except OSError as error:
        raise UserError(f"no list of images at {file}: {_why(error)}; {HELP}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the list of images {file} is no text in UTF-8") from error
    stems = [line.strip() for line in lines if line.strip()]
    check_names(file, stems, allow_outside)
    return stems


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
    rest = f"{len(missing)} of {len(names)} files {where} are missing ({few(missing)})"
    if any("\\" in name for name in missing):
        hint = "the names have backslashes, as Windows writes paths: replace them by /"
    else:
        hint = HELP
    all_or_some = f"no {what}" if len(missing) == len(names) else f"{what} are missing"
    raise UserError(f"{all_or_some} under {folder}: {rest}; {hint}")


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
