"""A data set in any format, as one thing: images, classes, splits, and writing it in another."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from mmpvt.datasets.formats.records import ImageRecord

Colour = tuple[int, int, int]


class LabelMaps(NamedTuple):
    """Images and label maps as the arguments of MMSegmentation's ``BaseSegDataset``."""

    lists: dict[str, Path]  # ann_file, by split
    img_path: Path  # of data_prefix
    seg_map_path: Path  # of data_prefix
    img_suffix: str
    seg_map_suffix: str


@dataclass
class OpenedDataset:
    """A user's data set.

    Attributes:
        path (Path): what was opened.
        format (str): one of :data:`FORMATS`.
        classes (tuple[str, ...]): names, by label.
        palette (list): RGB colours, by label: the format's own, or evenly distinct ones.
        is_semantic (bool): whether images have label maps, not objects.
        splits (dict[str, list[ImageRecord]]): by ``'train'``, ``'val'``, ``'test'``, as they are
            there; ``{'all': […]}`` where the data isn't split.
        notes (list[str]): what the user must know, a sentence each.
        label_values (tuple | None): what the label maps hold for each class, ints or RGB colours;
            None where they hold the labels.
    """

    path: Path
    format: str
    classes: tuple[str, ...]
    palette: list[Colour]
    is_semantic: bool
    splits: dict[str, list[ImageRecord]]
    notes: list[str] = field(default_factory=list)
    label_values: tuple | None = None

    @property
    def has_masks(self) -> bool:
        """Whether any object has a mask."""
        raise NotImplementedError

    @property
    def image_root(self) -> Path:
        """The folder that all images lie in, which ``file_name`` in written files starts from."""
        raise NotImplementedError

    def describe(self) -> str:
        """One line: format, images, objects, classes, splits."""
        raise NotImplementedError

    def split(
        self, val_fraction: float = 0.2, seed: int = 0, test_fraction: float = 0.0
    ) -> OpenedDataset:
        """Makes ``train`` and ``val`` where they are missing; the same on every machine."""
        raise NotImplementedError

    def write_coco(self, folder: str | Path) -> dict[str, Path]:
        """Writes a COCO JSON a split, whose ``file_name`` start from :attr:`image_root`."""
        raise NotImplementedError

    def write_label_maps(self, folder: str | Path) -> LabelMaps:
        """Writes a list of images a split, and label maps where the user's can't be read."""
        raise NotImplementedError

    def write(self, folder: str | Path, to: str) -> Path:
        """Writes the data set in a format: ``'coco'``, ``'voc'``, ``'yolo'``, ``'masks'``."""
        raise NotImplementedError
