"""What reading any format takes: parsing safely, images' sizes, boxes, what is wrong."""

from __future__ import annotations

import codecs
import os
import struct
from collections import Counter, defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import ExifTags, Image

from mmpvt.datasets.formats.files import Files
from mmpvt.datasets.formats.records import Colour, ImageRecord, Instance
from mmpvt.errors import DatasetError, UserError
from mmpvt.utils.files import MAX_ANNOTATIONS, check_regular, read_bytes
from mmpvt.utils.text import counted

MAX_TEXT = 2**30  # bytes of an XML, YAML or text file
TOLERANCE = 1e-3  # of an image's side, which relative coordinates may be off by
_TURNED = (5, 6, 7, 8)  # EXIF's orientations that swap width and height
_UNREADABLE = (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError)


def read_json(path: Path) -> bytes:
    """A JSON file's content without a byte order mark, which Windows' editors write."""
    return read_bytes(path, MAX_ANNOTATIONS).removeprefix(codecs.BOM_UTF8)


def parse_xml(data: bytes) -> ElementTree.Element:
    """Parses XML without a document type, which could define entities that grow without end.

    Raises:
        ValueError: it is no XML, or has a document type.
    """
    try:
        return ElementTree.fromstring(data, ElementTree.XMLParser(target=_NoDoctype()))
    except ElementTree.ParseError as error:
        raise ValueError(f"it is no XML ({error})") from error


class _NoDoctype(ElementTree.TreeBuilder):
    def doctype(self, *_: object) -> None:
        raise ValueError("it has a document type (<!DOCTYPE …>), which is refused")


@dataclass
class Content:
    """What a format's reader found.

    Attributes:
        classes (list[str]): in the format's own order, or sorted.
        splits (dict[str, list[ImageRecord]]): by name.
        colours (dict[str, Colour]): those that the format gives to classes.
        label_values (tuple | None): what label maps hold for each class, if not the labels.
        remark (str): what was taken of the format where it has variants.
    """

    classes: list[str]
    splits: dict[str, list[ImageRecord]]
    colours: dict[str, Colour] = field(default_factory=dict)
    label_values: tuple | None = None
    remark: str = ""


class Reading:
    """A data set being read: its files, and what was found to say of them.

    Args:
        files (Files): that are there.
        source (Path): the file that says where they are (``data.yaml``), or their folder.
        classes (tuple[str, ...] | None): that the user named.
        keep_empty (bool): whether images without annotations are taken.
        skip (bool): whether annotations that can't be used are skipped.
        within (bool): whether files outside of the folder are refused. Default: False.
    """

    def __init__(
        self,
        files: Files,
        source: Path,
        classes: tuple[str, ...] | None,
        keep_empty: bool,
        skip: bool,
        within: bool = False,
    ) -> None:
        self.files, self.source, self.classes = files, source, classes
        self.keep_empty, self.skip, self.within = keep_empty, skip, within
        self.notes: list[str] = []
        self._problems: list[str] = []
        self._counts: Counter[str] = Counter()
        self._firsts: dict[str, str] = {}

    @property
    def root(self) -> Path:
        """The data set's folder."""
        return self.files.root

    def name_of(self, path: Path) -> str:
        """A file's path from the root, where it lies there."""
        return str(path).removeprefix(f"{self.root}{os.sep}")

    def problem(self, where: str, what: str) -> None:
        """Something that can't be used: it is skipped, or ends the reading by :meth:`finish`."""
        self._problems.append(f"{where}: {what}")

    def count(self, what: str, where: str, number: int = 1) -> None:
        """Something to be told, with how many there are of it: ``'points are skipped'``."""
        self._counts[what] += number
        self._firsts.setdefault(what, where)

    def finish(self) -> None:
        """Makes notes of what was counted.

        Raises:
            DatasetError: there were problems, and they aren't to be skipped.
        """
        number = len(self._problems)
        if number:
            what = f"{counted(number, 'error')} in {self.source}"
            found = "; ".join(self._problems[:3]) + " …" * (number > 3)
            if not self.skip:
                raise DatasetError(
                    f"{what}: {found}",
                    where=self.source,
                    hint="correct them",
                    instead=("on_bad_data", "skip"),
                )
            self.notes.append(f"{what}, skipped: {found}")
        for what, many in self._counts.items():
            self.notes.append(f"{what}: {many:,} (the first: {self._firsts[what]})")

    def read_text(self, path: Path) -> str:
        """A text file's content, in UTF-8.

        Raises:
            DatasetError: it can't be read, or is no such text.
        """
        try:
            return read_bytes(path, MAX_TEXT).decode("utf-8-sig")
        except OSError as error:
            raise DatasetError(f"{path} can't be read: {error.strerror}", where=path) from error
        except UnicodeDecodeError as error:
            raise DatasetError(f"{path} is no text in UTF-8", where=path) from error

    def read_names(self, path: Path) -> list[str]:
        """The names of classes in a text file, a line each.

        Raises:
            DatasetError: it can't be read, or a line in between is empty.
        """
        names = [line.strip() for line in self.read_text(path).rstrip().splitlines()]
        if "" in names:
            raise DatasetError(
                f"line {names.index('') + 1} of {path} is empty, where a class's name is expected",
                where=path,
            )
        return names

    def record(
        self, path: Path, stated: tuple[int, int] | None = None, name: str | None = None
    ) -> ImageRecord | None:
        """An image with the size that training loads it with; None where it can't be read.

        Args:
            path (Path): the image.
            stated (tuple[int, int] | None): the width and height that its annotations say.
            name (str | None): it has in messages. Default: None, its path from the root.
        """
        name = name or self.name_of(path)
        try:
            check_regular(path)
            size, stored = image_size(path)
        except UserError as error:
            self.problem(name, error.what)
            return None
        except _UNREADABLE as error:
            reason = error.strerror if isinstance(error, OSError) else None
            self.problem(name, reason or "it can't be read as an image")
            return None
        if stated is not None and stated != size:
            # mmpvt.LoadImageFromFile leaves an image as it is stored where its annotations do
            if stated == stored:
                size = stored
            else:
                told, found = "x".join(map(str, stated)), "x".join(map(str, size))
                what = "images are of another size than annotated, whose coordinates may be off"
                self.count(what, f"{name}: {found}, not {told}")
        return ImageRecord(path, *size)

    def note_unused(self, used: Set[str], what: str) -> None:
        """Notes the images that aren't among ``used``, which are ``what``."""
        others = [name for name in self.files.images if name not in used]
        if others:
            self.notes.append(
                f"{counted(len(others), 'image is', 'images are')} {what} and unused (the first: "
                f"{others[0]})"
            )

    def lacking(self, names: Sequence[str], total: int) -> bool:
        """Whether images without annotations are taken.

        Args:
            names (Sequence[str]): those images.
            total (int): all images, with them.

        Raises:
            DatasetError: the user must decide about them, or there were problems, which may be why
                they lack annotations.
        """
        if not names:
            return False
        what = f"{len(names):,} of {total:,} images in {self.source} have no annotations"
        if self.keep_empty:
            self.count("images without annotations are taken as images without objects", names[0])
        elif self._problems and not self.skip:
            self.finish()  # an annotation file that can't be used isn't a missing one
        elif self.skip and len(names) < total:
            self.notes.append(f"{what} and are skipped (the first: {names[0]})")
        else:
            raise DatasetError(
                f"{what} (the first: {names[0]})",
                where=self.source,
                hint="annotate or remove them",
                instead=("keep_empty", True),
            )
        return self.keep_empty

    def clip_box(
        self, record: ImageRecord, x1: float, y1: float, x2: float, y2: float, where: str
    ) -> tuple[float, float, float, float] | None:
        """Clips a box to its image.

        Args:
            record (ImageRecord): the image.
            x1, y1, x2, y2 (float): two opposite corners, in pixels.
            where (str): the box is, for messages.

        Returns:
            tuple[float, float, float, float] | None: x, y, width, height; None of a box without
            area in the image, which is noted as a problem.
        """
        values = (x1, y1, x2, y2)
        if not all(abs(value) < 1e9 for value in values):  # NaN isn't either
            self.problem(where, "a box isn't of numbers")
            return None
        x1, x2 = sorted((x1, x2))
        y1, y2 = sorted((y1, y2))
        left, top = max(x1, 0.0), max(y1, 0.0)
        right, bottom = min(x2, float(record.width)), min(y2, float(record.height))
        if right <= left or bottom <= top:
            inside = x2 > 0 and y2 > 0 and x1 < record.width and y1 < record.height
            self.problem(where, "a box has no area" if inside else "a box is outside its image")
            return None
        if max(left - x1, x2 - right) > 0.01 or max(top - y1, y2 - bottom) > 0.01:  # pixels
            self.count("boxes reach out of their images and are clipped", where)
        return left, top, right - left, bottom - top


def image_size(path: Path) -> tuple[tuple[int, int], tuple[int, int]]:
    """An image's width and height as OpenCV loads it, and as it is stored.

    OpenCV heeds the EXIF orientation of JPEG, PNG and WebP files. Only the header is read:
    20,000 JPEG files take 0.6 s; imagesize 2.0 takes 0.4 s, without their orientation.
    """
    with Image.open(path) as image:
        stored = image.size
        is_turned = orientation(image) in _TURNED
    return (stored[::-1] if is_turned else stored), stored


def orientation(image: Image.Image) -> int:
    """How EXIF says to turn an open image file, 1 to 8; 1 is not at all.

    Pillow has turned a TIFF file already, as OpenCV does.
    """
    if image.format == "TIFF" or "exif" not in image.info:
        return 1
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def outline_box(polygons: list[list[float]]) -> tuple[float, float, float, float]:
    """The corners of the box around polygons."""
    xs = [x for polygon in polygons for x in polygon[::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def clip_outline(outline: list[float], width: int, height: int) -> list[float]:
    """The part of an outline that lies in an image; empty where none does."""
    xs, ys = outline[::2], outline[1::2]
    if min(*xs, *ys) >= 0 and max(xs) <= width and max(ys) <= height:
        return outline
    from matplotlib.path import Path as Outline  # slow to import
    from matplotlib.transforms import Bbox

    path = Outline(np.stack([xs, ys], 1)).clip_to_bbox(Bbox.from_extents(0, 0, width, height))
    points = np.asarray(path.vertices)[:-1]  # the last is the first again
    return points.ravel().tolist() if len(points) > 2 else []  # a corner may touch the border


def outlined(
    reading: Reading, record: ImageRecord, label: int, outline: list[float], where: str
) -> Instance | None:
    """An object of one polygon; None, and a problem, of one that can't be used."""
    if len(outline) < 6:
        reading.problem(where, f"a polygon of {len(outline) // 2} points")
        return None
    box = reading.clip_box(record, *outline_box([outline]), where)
    if box is None:
        return None
    inside = clip_outline(outline, record.width, record.height)
    if inside is not outline:
        box = reading.clip_box(record, *outline_box([inside or [-1, -1]]), where)
    return box and Instance(label, box, [inside])


def corners(box: tuple[float, float, float, float]) -> list[float]:
    """A box of x, y, width, height as a polygon."""
    x, y, width, height = box
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def join_groups(
    record: ImageRecord, parts: Sequence[tuple[object, Instance]], where: str, reading: Reading
) -> None:
    """Adds an image's objects; those of one group and class are one, such as a half-hidden car.

    Args:
        record (ImageRecord): takes them.
        parts (Sequence[tuple[object, Instance]]): each with its group, or None.
        where (str): they are, for notes.
        reading (Reading): takes the notes.
    """
    groups: dict[tuple, list[Instance]] = defaultdict(list)
    for number, (group, part) in enumerate(parts):
        groups[(group, part.label) if group is not None else (number,)].append(part)
    for same in groups.values():
        if len(same) == 1 or any(part.rle is not None for part in same):
            record.instances.extend(same)
            if len(same) > 1:
                reading.count("grouped masks stay objects of their own", where, len(same))
            continue
        boxes = [(x, y, x + w, y + h) for x, y, w, h in (part.box for part in same)]
        x1, y1 = (min(box[i] for box in boxes) for i in (0, 1))
        x2, y2 = (max(box[i] for box in boxes) for i in (2, 3))
        polygons = None
        if any(part.polygons for part in same):
            polygons = [p for part in same for p in part.polygons or [corners(part.box)]]
        record.instances.append(Instance(same[0].label, (x1, y1, x2 - x1, y2 - y1), polygons))
