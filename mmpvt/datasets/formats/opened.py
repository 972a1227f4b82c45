"""A data set in any format, as one thing: images, classes, splits, and writing it in another."""

from __future__ import annotations

import colorsys
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from mmpvt.datasets.formats import writing
from mmpvt.datasets.formats.reading import corners
from mmpvt.datasets.formats.records import ALL, Colour, ImageRecord, Instance
from mmpvt.datasets.formats.splitting import copies_of, group_duplicates, stratify
from mmpvt.datasets.formats.writing import LabelMaps
from mmpvt.errors import ConfigError, DatasetError
from mmpvt.utils.text import counted, few

_TITLES = dict(
    coco="COCO",
    voc="Pascal VOC",
    yolo="YOLO",
    labelme="LabelMe",
    cvat="CVAT for images 1.1",
    masks="images with label maps",
    folders="images in a folder a class",
)


def distinct_colours(count: int) -> list[Colour]:
    """Colours at equal distances around the colour wheel, in turns light and dark."""
    made = []
    for i in range(count):
        parts = colorsys.hsv_to_rgb(i / count, 0.85, 1.0 if i % 2 == 0 else 0.65)
        red, green, blue = (round(255 * part) for part in parts)
        made.append((red, green, blue))
    return made


@dataclass
class OpenedDataset:
    """A user's data set.

    Attributes:
        path (Path): what was opened.
        format (str): one of :data:`FORMATS`, ``'voc'`` in all of its variants.
        classes (tuple[str, ...]): names, by label.
        palette (list): RGB colours, by label: the format's own, or evenly distinct ones.
        is_semantic (bool): whether images have label maps, not objects.
        splits (dict[str, list[ImageRecord]]): by ``'train'``, ``'val'``, ``'test'``, as they are
            there; ``{'all': […]}`` where the data isn't split.
        notes (list[str]): what the user must know, a sentence each.
        label_values (tuple | None): what the label maps hold for each class, ints or RGB colours;
            None where they hold the labels.
        remark (str): which variant of the format was taken, and why.
    """

    path: Path
    format: str
    classes: tuple[str, ...]
    palette: list[Colour]
    is_semantic: bool
    splits: dict[str, list[ImageRecord]]
    notes: list[str] = field(default_factory=list)
    label_values: tuple | None = None
    remark: str = ""

    @property
    def has_masks(self) -> bool:
        """Whether the objects have masks: all of them, or none (:meth:`fill_outlines`)."""
        return any(one.polygons or one.rle for one in self._instances())

    @cached_property
    def image_root(self) -> Path:
        """The folder that all images lie in, which ``file_name`` in written files starts from."""
        folders = {os.path.abspath(record.path.parent) for record in self._records()}  # noqa: PTH100
        return Path(os.path.commonpath(folders))

    def name_of(self, record: ImageRecord) -> str:
        """An image's path from :attr:`image_root`, with slashes."""
        return Path(os.path.relpath(record.path, self.image_root)).as_posix()

    def describe(self) -> str:
        """One line: format, images, objects, classes, splits."""
        number = sum(1 for _ in self._instances())
        objects = ""
        if not self.is_semantic and self.format != "folders":
            kind = "masks" if self.has_masks else "boxes"
            objects = f", {counted(number, 'object')} with {kind}"
        total = sum(map(len, self.splits.values()))
        parts = [f"{name} {len(records):,}" for name, records in self.splits.items()]
        split = "not split" if list(self.splits) == [ALL] else ", ".join(parts)
        title = _TITLES[self.format] + (f" with {self.remark}" if self.remark else "")
        return (
            f"{self.path}: {title}, {counted(total, 'image')}{objects}, "
            f"{counted(len(self.classes), 'class', 'classes')} ({few(self.classes)}); {split}"
        )

    def split(
        self, val_fraction: float = 0.2, seed: int = 0, test_fraction: float = 0.0
    ) -> OpenedDataset:
        """Makes ``val``, and ``test`` if asked for, where they are missing, of the others.

        The same on every machine. Each class gets its share of each split, and images that are
        copies, or augmented versions by their names, stay together.

        Args:
            val_fraction (float): of the images. Default: 0.2.
            seed (int): another seed, another split. Default: 0.
            test_fraction (float): of the images. Default: 0, no test split is made.

        Raises:
            ConfigError: the fractions leave nothing to train on.
            DatasetError: there is nothing to train on, or too little to split.
        """
        wanted = dict(val=val_fraction, test=test_fraction)
        made = {name: part for name, part in wanted.items() if part and name not in self.splits}
        for name, part in wanted.items():
            if not 0 <= part < 1 or sum(made.values()) >= 1:
                raise ConfigError(
                    f"{part} of the images can't be split off", setting=f"{name}_fraction"
                )
        source = next((name for name in ("train", ALL) if name in self.splits), None)
        if source is None:
            raise DatasetError(
                f"{self.path} has no images to train on, only {few(self.splits)}", where=self.path
            )
        if not made:
            splits = {("train" if k == ALL else k): v for k, v in self.splits.items()}
            return replace(self, splits=splits)
        records = {self.name_of(record): record for record in self.splits[source]}
        labels = {
            name: frozenset(record.labels) | {one.label for one in record.instances}
            for name, record in records.items()
        }
        groups = group_duplicates(records)
        if len(groups) <= len(made):
            raise DatasetError(
                f"{self.path} has {counted(len(records), 'image')} in "
                f"{counted(len(groups), 'group')} of copies: too few for {1 + len(made)} splits",
                where=self.path,
            )
        fractions = dict(train=1 - sum(made.values()), **made)
        named = stratify(groups, labels, fractions, seed)
        new = {split: [records[name] for name in names] for split, names in named.items()}
        kept = {split: one for split, one in self.splits.items() if split != source}
        both = {**new, **kept}
        splits = {name: both[name] for name in ("train", "val", "test") if name in both}
        opened = replace(self, splits=splits, notes=list(self.notes))
        sizes = ", ".join(f"{name} {len(same):,}" for name, same in new.items())
        opened.notes.append(f"split with seed {seed} into {sizes}")
        opened.note_classes()
        return opened

    def write_coco(self, folder: str | Path, undo: ExitStack | None = None) -> dict[str, Path]:
        """Writes a COCO JSON a split, whose ``file_name`` start from :attr:`image_root`.

        Args:
            folder (str | Path): takes ``train.json``, …
            undo (ExitStack | None): puts back, when it is closed, what was replaced.

        Returns:
            dict[str, Path]: the files, by split. Equal data gives equal bytes.

        Raises:
            DatasetError: it holds label maps.
            OutputError: a file can't be written, or would replace what no tool wrote.
        """
        return writing.write_coco(self, Path(folder), undo)

    def write_labels(self, folder: str | Path, undo: ExitStack | None = None) -> dict[str, Path]:
        """Writes a list of images and their labels a split, as mmpretrain's ``CustomDataset`` reads
        it; names start from :attr:`image_root`.

        Args:
            folder (str | Path): takes ``train.txt``, …
            undo (ExitStack | None): puts back, when it is closed, what was replaced.

        Returns:
            dict[str, Path]: the files, by split.

        Raises:
            OutputError: a file can't be written, or would replace what no tool wrote.
        """
        return writing.write_labels(self, Path(folder), undo)

    def write_label_maps(self, folder: str | Path, undo: ExitStack | None = None) -> LabelMaps:
        """Writes a list of images a split, and label maps where the user's can't be read.

        Args:
            folder (str | Path): takes ``train.txt``, … and ``label_maps/``.
            undo (ExitStack | None): puts back, when it is closed, what was replaced.

        Returns:
            LabelMaps: the arguments of MMSegmentation's ``BaseSegDataset``.

        Raises:
            DatasetError: it holds boxes only.
            OutputError: a file can't be written, or would replace what no tool wrote.
        """
        return writing.write_label_maps(self, Path(folder), undo)

    def write(self, folder: str | Path, to: str) -> Path:
        """Writes the data set with its images in a format.

        Args:
            folder (str | Path): a new or empty one.
            to (str): ``'coco'``, ``'voc'``, ``'yolo'`` or ``'masks'``.

        Raises:
            DatasetError: the format can't hold the data.
            OutputError: the folder holds other files, or can't be written.
        """
        return writing.write(self, Path(folder), to)

    def fill_outlines(self) -> None:
        """Takes boxes as outlines where other objects have outlines, and says so."""
        bare = [one for one in self._instances() if not one.polygons and not one.rle]
        if bare and self.has_masks:
            for one in bare:
                one.polygons = [corners(one.box)]
            those = counted(len(bare), "object has", "objects have")
            self.notes.append(f"{those} no outline: it is that of the box")

    def note_copies(self) -> None:
        """Notes images of other splits that are in the training split, too."""
        others = [r for split, same in self.splits.items() if split != "train" for r in same]
        copies = copies_of(self.splits.get("train", []), others)
        if copies:
            record, first = copies[0]
            within = os.path.relpath(record.path, self.image_root)
            original = os.path.relpath(first.path, self.image_root)
            example = within if within == original else f"{within} of {original}"
            where = " and ".join(split for split in self.splits if split != "train")
            said = counted(
                len(copies),
                f"image of {where} is a copy of a training image",
                f"images of {where} are copies of training images",
            )
            self.notes.append(
                f"{said}, or made from the same (the first: {example}): scores on them say too much"
            )

    def note_classes(self) -> None:
        """Notes classes that no training image has."""
        split = next((name for name in ("train", ALL) if name in self.splits), None)
        counts: Counter[int] = Counter()
        for record in self.splits.get(split or "", ()):
            counts.update({*record.labels, *(one.label for one in record.instances)})
        missing = [name for label, name in enumerate(self.classes) if not counts[label]]
        note = f"no training image has an object of {few(missing)}"
        if split and missing and note not in self.notes:
            self.notes.append(note)

    def _records(self) -> Iterator[ImageRecord]:
        for records in self.splits.values():
            yield from records

    def _instances(self) -> Iterator[Instance]:
        for record in self._records():
            yield from record.instances
