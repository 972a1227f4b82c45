"""Which format a data set is in, by the files that are there and what they begin with."""

from __future__ import annotations

import re
from collections.abc import Set
from pathlib import Path, PurePosixPath

import msgspec

from mmpvt.datasets.formats.files import VIDEOS, Files, stem
from mmpvt.datasets.formats.masks import find_pairs
from mmpvt.datasets.formats.reading import read_json
from mmpvt.datasets.formats.yolo import holds_labels, is_class_file, parse_yaml
from mmpvt.errors import DatasetError
from mmpvt.utils.files import MAX_ANNOTATIONS, check_regular, parse_json
from mmpvt.utils.text import counted, few

MOST_LOOKED_AT = 100  # files of a kind, to recognise a format
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
OTHER_IMAGES = (".heic", ".heif", ".avif", ".jxl", ".svg", ".psd", ".dng", ".cr2", ".nef", ".dcm")
OTHER_ANNOTATIONS = (".json", ".jsonl", ".csv", ".xml")
MAX_YAML = 2**24  # bytes of a data.yaml
_JSON_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])  # whose values aren't parsed


def recognise(files: Files, named: Path | None, format: str | None) -> dict[str, object]:
    """Finds the formats that fit.

    Args:
        files (Files): of the data set's folder.
        named (Path | None): the one file of annotations that the user gave.
        format (str | None): that the user named.

    Returns:
        dict[str, object]: by format, what its reader takes: its files, mostly.

    Raises:
        DatasetError: a file that may describe the data is damaged, or several do.
    """
    names = files.names
    if named is not None:
        names = [named.relative_to(files.root).as_posix()]
    by_suffix = {
        suffix: [name for name in names if name.lower().endswith(suffix)]
        for suffix in (".json", ".xml", ".yaml", ".yml")
    }
    found: dict[str, object] = {}
    kinds: dict[str, list[str]] = {"coco": [], "labelme": [], "cvat": [], "voc": []}
    _sort_json(files, by_suffix[".json"], kinds)
    _sort_xml(files, by_suffix[".xml"], kinds)
    found.update({kind: same for kind, same in kinds.items() if same})
    configs, damaged = _find_configs(files, [*by_suffix[".yaml"], *by_suffix[".yml"]])
    if damaged and named is None:  # those that may be what describes the data
        is_named = any(map(is_class_file, names))
        damaged = {p: what for p, what in damaged.items() if p.stem == "data" or not is_named}
    has_labels = not configs and named is None and _has_yolo_labels(files)
    if len(configs) > 1:
        raise DatasetError(f"{few(configs)} describe data sets", hint="give the path of one")
    if damaged and (named is not None or (has_labels and format in (None, "yolo"))):
        raise DatasetError(next(iter(damaged.values())), hint="correct or remove it")
    if configs:
        found["yolo"] = configs[0]
    elif has_labels:
        found["yolo"] = None
    if named is None:
        pairs = find_pairs(files)
        if pairs.pairs:
            found["masks"] = pairs
    return found


def _find_configs(files: Files, names: list[str]) -> tuple[list[Path], dict[Path, str]]:
    """The files that are a ``data.yaml``, and a sentence on each that is no YAML."""
    configs: list[Path] = []
    damaged: dict[Path, str] = {}
    for path in (files.root / name for name in names):
        content = _beginning(path, MAX_YAML)
        try:
            if len(content) < MAX_YAML and parse_yaml(content.decode("utf-8-sig")) is not None:
                configs.append(path)
        except UnicodeDecodeError:
            damaged[path] = f"{path} is no text in UTF-8"
        except ValueError as error:
            damaged[path] = f"{path} is no YAML: {error}"
    return configs, damaged


def _beginning(path: Path, size: int) -> bytes:
    """A regular file's first bytes."""
    try:
        check_regular(path, MAX_ANNOTATIONS)
        with path.open("rb") as file:
            return file.read(size)
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error.strerror}", where=path) from error


def _sort_json(files: Files, names: list[str], kinds: dict[str, list[str]]) -> None:
    """Sorts JSON files by what they hold. Of LabelMe's, beside an image each, a few are looked
    at; of others all."""
    stems = {stem(image) for image in files.images}
    beside = 0
    damaged: list[str] = []
    for name in names:
        is_beside = stem(name) in stems
        beside += is_beside
        if is_beside and beside > MOST_LOOKED_AT and kinds["labelme"]:
            kinds["labelme"].append(name)
            continue
        keys = _keys(files.root / name)
        if keys is None and is_beside and len(names) > 1:
            kinds["labelme"].append(name)  # whose reader says what is wrong with it
        elif keys is None:
            damaged.append(name)
        elif {"images", "categories"} <= keys:
            kinds["coco"].append(name)
        elif "shapes" in keys:
            kinds["labelme"].append(name)
    if damaged and kinds["coco"]:  # a split would be missed
        raise DatasetError(
            f"{files.root / damaged[0]} is no JSON: it is truncated, damaged or not in UTF-8",
            where=files.root / damaged[0],
            hint="correct or remove it",
        )
    if kinds["labelme"] or len(names) == 1:
        kinds["labelme" if kinds["labelme"] else "coco"] += damaged  # whose reader says so


def _keys(path: Path) -> Set[str] | None:
    """The keys of a JSON file's object, none of other values; None where it is damaged."""
    try:
        data = read_json(path)
        try:
            return _JSON_OBJECT.decode(data).keys()
        except (ValueError, RecursionError, msgspec.MsgspecError):
            content = parse_json(data)  # which takes NaN
    except (OSError, ValueError):
        return None
    return content.keys() if isinstance(content, dict) else set()


def _sort_xml(files: Files, names: list[str], kinds: dict[str, list[str]]) -> None:
    """Sorts XML files by what they hold; of VOC's, a file an image, a few are looked at."""
    damaged = []
    for place, name in enumerate(names):
        kind = "voc" if kinds["voc"] and place > MOST_LOOKED_AT else _xml_kind(files.root / name)
        if kind:
            kinds[kind].append(name)
        elif kind is None:
            damaged.append(name)
    if damaged and kinds["voc"]:  # whose reader names those that should be an image's
        stems = {PurePosixPath(image).stem for image in files.images}
        kinds["voc"] += [name for name in damaged if PurePosixPath(name).stem in stems]
    elif kinds["cvat"]:
        kinds["cvat"] += damaged


def _xml_kind(path: Path) -> str | None:
    """The format of an XML file, ``''`` of another one; None where there is no element in it."""
    text = _beginning(path, 4096).replace(b"\0", b"")
    if not re.search(rb"<\w", text):
        return None
    found = re.search(rb"<(annotations?)[\s>]", text)
    return {b"annotations": "cvat", b"annotation": "voc"}[found[1]] if found else ""


def _has_yolo_labels(files: Files) -> bool:
    stems = {files.composed(PurePosixPath(image).stem) for image in files.images}
    texts = [
        name
        for name in files.of(".txt")
        if files.composed(PurePosixPath(name).stem) in stems and not is_class_file(name)
    ]
    looked_at = texts[:MOST_LOOKED_AT]
    return bool(looked_at) and any(holds_labels(files.root / name) for name in looked_at)


def choose(
    found: dict, format: str | None, task: str | None, given: Path, files: Files
) -> tuple[str, object]:
    """Chooses one of the formats that fit.

    Args:
        found (dict): of :func:`recognise`.
        format (str | None): that the user named.
        task (str | None): that the data is for.
        given (Path): the path that the user gave, for messages.
        files (Files): of the data set's folder.

    Returns:
        tuple[str, object]: the format, and what its reader takes.

    Raises:
        DatasetError: none fits, several do, or there are no images.
    """
    if format is not None:
        if format not in found:
            others = f"; it fits {few(found)}" if found else ""
            raise DatasetError(f"{given} is not of the format {format}{others}", setting="format")
        return format, found[format]
    # a data.yaml may name images elsewhere, LabelMe's files may hold copies of them
    if not files.images and not {"yolo", "labelme"} & found.keys():
        hints = (
            (files.of(*VIDEOS), "is a video: give a folder of frames"),
            (files.of(".zip"), "is an archive: give its path, or unpack it"),
            (files.of(*ARCHIVES), "is an archive: unpack it"),
            (files.of(*OTHER_IMAGES), "isn't read: convert such images to JPEG or PNG"),
        )
        hint = next((f"{found[0]} {what}" for found, what in hints if found), None)
        raise DatasetError(f"there are no images in {given}", where=given, hint=hint)
    if not found:
        unknown = files.of(*OTHER_ANNOTATIONS)
        raise DatasetError(
            f"{given} has {counted(len(files.images), 'image')}, and no annotations in a known "
            "format: COCO, Pascal VOC, YOLO, LabelMe, CVAT for images 1.1 or label maps",
            where=given,
            hint=f"export COCO or YOLO from the tool that wrote {unknown[0]}" if unknown else None,
        )
    fit = list(found)
    if len(fit) > 1 and task is not None:
        fit = [kind for kind in fit if (kind == "masks") == (task == "semantic")] or fit
    if len(fit) > 1:
        raise DatasetError(
            f"{given} fits {len(fit)} formats, {' and '.join(fit)}", where=given,
            hint="say which", instead=("format", fit[0]),
        )  # fmt: skip
    return fit[0], found[fit[0]]
