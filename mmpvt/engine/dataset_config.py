"""A data set as its config describes it: its class, its folders and files, its class names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmseg.datasets import BaseSegDataset

from mmpvt.datasets.listed_files import ALLOW_OUTSIDE, GET_DATA, read_list
from mmpvt.engine.config_parts import SPLITS, dataset_kind, default_argument, split_datasets
from mmpvt.errors import DatasetError


class SegmentationFiles(NamedTuple):
    """The images and label maps of a segmentation data set."""

    folder: Path  # of the images
    suffix: str  # of their names
    map_folder: Path | None  # of the label maps
    map_suffix: str  # of their names
    stems: list[str]  # the images' names in the folder without the suffix, sorted

    def image(self, stem: str) -> str:
        """The path of an image."""
        return str(self.folder / (stem + self.suffix))

    def label_map(self, stem: str) -> str | None:
        """The path of an image's label map."""
        return str(self.map_folder / (stem + self.map_suffix)) if self.map_folder else None


class ClassifiedImages(NamedTuple):
    """The images of a classification data set."""

    folder: Path  # that their names start from
    names: list[str]  # with slashes
    labels: list[int]
    folders: list[str] | None  # one a class, sorted as its labels count; None of a list of images
    ann_file: Path | None  # the list

    @property
    def place(self) -> Path:
        """The list of images, or the folder of folders."""
        return self.ann_file or self.folder


class DatasetConfig:
    """A data set as its config describes it.

    Args:
        fields (dict): its part of the config.
        scope (str): the experiment's ``default_scope``.
        allow_outside (bool): whether it may name files outside of its folder. Default: False.
    """

    def __init__(self, fields: dict, scope: str, allow_outside: bool = False) -> None:
        self.fields = fields
        self.scope = scope
        self.allow_outside = allow_outside
        self.root = Path(fields.get("data_root") or "")
        self.ann_file = self.root / (fields.get("ann_file") or "")
        self.is_local = fields.get("backend_args") is None
        self.pipeline: list[dict] = fields.get("pipeline") or []

    @cached_property
    def kind(self) -> type[Any] | None:
        """The class that it names, or None where there is none of this name."""
        return dataset_kind(self.fields, self.scope)

    @property
    def is_coco(self) -> bool:
        """Whether it is read as MMDetection's ``CocoDataset`` reads its files."""
        return self.is_read_as(CocoDataset)

    @property
    def is_segmentation(self) -> bool:
        """Whether it is read as MMSegmentation's ``BaseSegDataset`` reads images and label maps."""
        return self.is_read_as(BaseSegDataset)

    @property
    def is_classification(self) -> bool:
        """Whether it is read as mmpretrain's ``CustomDataset`` reads a list or a folder a class."""
        if self.scope != "mmpretrain":
            return False
        from mmpretrain.datasets import CustomDataset  # an extra

        return self.is_read_as(CustomDataset) or (
            isinstance(self.kind, type) and self.kind.load_data_list is CustomDataset.load_data_list
        )

    def is_read_as(self, known: type) -> bool:
        """Whether its class takes the reading of files from another, which LVIS's doesn't, say."""
        if not isinstance(self.kind, type) or not issubclass(self.kind, known):
            return False
        methods = ("load_data_list", "parse_data_info")
        return all(getattr(self.kind, m, None) is getattr(known, m, None) for m in methods)

    @property
    def classes(self) -> list[str]:
        """Its class names, by label: those that its config names, its class knows, or its folders
        of images have."""
        named = (self.fields.get("metainfo") or {}).get("classes") or self.known_classes
        if not named and self.is_classification and self.is_local and self.root.is_dir():
            named = self.classified_images.folders or ()
        return list(named)

    @property
    def known_classes(self) -> Sequence[str]:
        """The classes that its class knows, of which the config may choose some."""
        return getattr(self.kind, "METAINFO", {}).get("classes") or ()

    @property
    def palette(self) -> object:
        """The colours that its config or class gives its classes, or None."""
        own = (self.fields.get("metainfo") or {}).get("palette")
        return own or getattr(self.kind, "METAINFO", {}).get("palette")

    def key(self, *more: str) -> str:
        """What tells it from other data sets: its files, and ``more`` of its fields."""
        fields = ("data_root", "ann_file", "data_prefix", *more)
        return str([self.fields.get(field) for field in fields])

    def argument(self, name: str) -> Any:
        """What its class is given for an argument: the config's value, what a class of the user's
        own passes on, or the default."""
        value = self.fields.get(name)
        if value is None and self.is_segmentation:
            value = getattr(self._built, name, None)
        return default_argument(self.kind, name) if value is None else value

    @cached_property
    def _built(self) -> object:
        """A segmentation data set that has read no files; None where its class can't be built."""
        unused = ("type", "_scope_", "pipeline", "lazy_init")
        known = {key: value for key, value in self.fields.items() if key not in unused}
        try:
            return self.kind(**known, pipeline=[], lazy_init=True) if self.kind else None
        except Exception:  # a user's class may raise any, which the run says
            return None

    def folder(self, prefix: str) -> Path:
        """A folder of its ``data_prefix``."""
        return self.root / ((self.fields.get("data_prefix") or {}).get(prefix) or "")

    def check_root(self) -> None:
        """Raises a DatasetError if its folder isn't there, or a list that lies elsewhere."""
        listed = Path(self.fields.get("ann_file") or "")
        elsewhere = listed.is_absolute() and not (
            self.fields.get("data_root") and listed.is_relative_to(self.root.absolute())
        )
        if self.is_local and elsewhere and not listed.exists():
            raise DatasetError(
                f"no annotations at {listed}, where the config has them: there is no such file",
                where=listed,
                hint="move them back, or change the paths in the config",
            )
        if self.fields.get("data_root") and not self.root.is_dir():
            raise DatasetError(f"no data under {self.root}: there is no such folder", **GET_DATA)

    @cached_property
    def classified_images(self) -> ClassifiedImages:
        """The images of a classification data set, and the label of each.

        Raises:
            DatasetError: there is no list or folder; the list is no list of images and labels, or
                names files elsewhere; there are no folders of images.
        """
        known = {k: v for k, v in self.fields.items() if k not in ("pipeline", "metainfo")}
        known.pop("type")
        assert self.kind is not None  # by is_classification
        built = self.kind(**known, metainfo={}, lazy_init=True)  # it knows where its splits are
        folder = Path(built.img_prefix)
        if not folder.is_dir():
            raise DatasetError(f"no images under {folder}: there is no such folder", **GET_DATA)
        if built.ann_file:
            lines = read_list(Path(built.ann_file), self.allow_outside)
            pairs = [line.rsplit(" ", 1) for line in lines]
            wrong = next((i for i, pair in enumerate(pairs) if not _names_label(pair)), None)
            if wrong is not None:
                raise DatasetError(
                    f"line {wrong + 1} of {built.ann_file} is no image and label: "
                    f"{lines[wrong][:60]!r}",
                    where=built.ann_file,
                )
            names, labels = zip(*pairs, strict=True)
            ann_file = Path(built.ann_file)
            return ClassifiedImages(folder, list(names), list(map(int, labels)), None, ann_file)
        folders = sorted(path.name for path in folder.iterdir() if path.is_dir())
        folders = [name for name in folders if not name.startswith(".")]
        if not folders:
            raise DatasetError(
                f"there are no classes in {folder}: images lie in a folder a class", **GET_DATA
            )
        found = [
            (path.relative_to(folder).as_posix(), label)
            for label, name in enumerate(folders)
            for path in sorted((folder / name).rglob("*"))
            if built.is_valid_file(path.name)
        ]
        return ClassifiedImages(
            folder, [name for name, _ in found], [label for _, label in found], folders, None
        )

    def segmentation_files(self) -> SegmentationFiles:
        """Lists the images and label maps of a segmentation data set.

        Raises:
            DatasetError: there are no images; the list of them is missing, no text, or names files
                elsewhere.
        """
        folder, suffix = self.folder("img_path"), self.argument("img_suffix")
        if not folder.is_dir():
            raise DatasetError(f"no images under {folder}: there is no such folder", **GET_DATA)
        if self.fields.get("ann_file"):
            stems = read_list(self.ann_file, self.allow_outside)
        else:
            names = (str(path.relative_to(folder)) for path in folder.rglob(f"*{suffix}"))
            stems = [name.removesuffix(suffix) for name in names]
            if not stems:
                what = f"no images under {folder}: no file there ends in {suffix}"
                raise DatasetError(what, **GET_DATA)
        maps = (self.fields.get("data_prefix") or {}).get("seg_map_path")
        map_folder = self.root / maps if maps else None
        map_suffix = self.argument("seg_map_suffix")
        return SegmentationFiles(folder, suffix, map_folder, map_suffix, sorted(stems))


def _names_label(pair: list[str]) -> bool:
    return len(pair) == 2 and pair[1].isdecimal()


def iter_dataset_configs(
    config: Config, splits: Iterable[str] = SPLITS
) -> Iterator[tuple[str, DatasetConfig]]:
    """The data sets of a config's splits, each with the name of its split."""
    scope = config.get("default_scope") or "mmengine"
    for split, fields in split_datasets(config, splits):
        yield split, DatasetConfig(fields, scope, config.get(ALLOW_OUTSIDE, False))
