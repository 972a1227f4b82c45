"""What there is in a data set, and what is wrong with it: as data, and in words."""

from __future__ import annotations

import textwrap
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mmpvt.engine.checks.channels import LostBits
from mmpvt.engine.dataset_config import DatasetConfig
from mmpvt.inspection.files import FileInfo, SampleFiles, SampleLoader
from mmpvt.utils.text import counted, printable

NAMED = 3  # of each kind; the rest is in a file
WIDTH = 110  # characters of a line
WRAPPING: dict[str, Any] = dict(
    subsequent_indent="    ", break_on_hyphens=False, break_long_words=False
)


class Example(NamedTuple):
    """An image to show."""

    files: SampleFiles
    boxes: np.ndarray  # of its objects, (n, 4), in pixels: left, top, right, bottom
    labels: np.ndarray  # their classes, (n,)


@dataclass
class DatasetReport:
    """What was found in a data set."""

    dataset: DatasetConfig
    splits: list[str]  # that it is used for
    place: str  # of its annotations or images
    classes: list[str]  # their names, by label
    images: int  # how many are listed
    shapes: np.ndarray = field(init=False)  # of the images that can be used, (n, 2): height, width
    # objects, images of it, or percent of the labelled pixels, (classes,)
    counts: np.ndarray = field(init=False)
    # square root of each object's area as annotated, in pixels, or of each class's region in an
    # image; of images that each are of a class, none
    sizes: np.ndarray = field(init=False)
    empty: int = 0  # images without an object or label
    examples: list[Example] = field(default_factory=list)
    channels: dict[int, str] = field(default_factory=dict)  # as loaded, and an image of each
    depths: dict[str, str] = field(default_factory=dict)  # types of values, and an image of each
    digests: dict[str, bytes] = field(default_factory=dict)  # of each image's file, by its path
    ids: set = field(default_factory=set)  # of the images
    errors: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # by kind
    notes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # by kind

    def __post_init__(self) -> None:
        self.segments = self.dataset.is_segmentation
        self.classifies = self.dataset.is_classification
        self.loader = SampleLoader(self.dataset)
        self.counts, self.sizes = np.zeros(len(self.classes)), np.zeros(0)

    @property
    def name(self) -> str:
        """The splits that it is used for."""
        return ", ".join(self.splits)

    def add_files(self, samples: Sequence[SampleFiles], infos: Sequence[FileInfo]) -> None:
        """Adds what is known of the files: digests, shapes, channels, errors, duplicates."""
        first: dict[bytes, str] = {}
        for files, info in zip(samples, infos, strict=True):
            if info.reason:
                self.errors[info.problem.kind if info.problem else "files"].append(info.reason)
            if info.channels is not None:
                self.channels.setdefault(info.channels, files.image)
            if info.depth is not None:
                self.depths.setdefault(info.depth, files.image)
            if info.digest is None or files.image in self.digests:
                continue
            self.digests[files.image] = info.digest
            if info.digest in first:
                same = f"{files.image} is the same as {first[info.digest]}"
                self.errors["images that are there twice"].append(same)
            first.setdefault(info.digest, files.image)
        if lost_bits := LostBits.join(info.lost_bits for info in infos):
            group = self.errors if lost_bits.is_dark else self.notes
            group["data sets of images that are cut to 8 bits"].append(str(lost_bits))
        self.shapes = np.array([info.shape for info in infos if info.shape], int).reshape(-1, 2)


def describe(reports: Sequence[DatasetReport]) -> str:
    """A summary of data sets for people to read, in lines."""
    return "\n".join(printable(line) for report in reports for line in _lines(report))


def _lines(report: DatasetReport) -> Iterator[str]:
    yield f"{report.name}: {report.place}"
    usable = len(report.shapes)
    yield (
        f"  {counted(report.images, 'image')}, {usable:,} of them can be used"
        + (
            f", {report.empty:,} without {'a label' if report.segments else 'an object'}"
            if report.empty
            else ""
        )
    )
    if usable:
        (low, left), (high, right) = report.shapes.min(0), report.shapes.max(0)
        middle = np.median(report.shapes, 0).astype(int)
        yield (
            f"  height {low} to {high} pixels, half of them up to {middle[0]}; width {left} to "
            f"{right}, half up to {middle[1]}"
        )
    present = np.count_nonzero(report.counts)
    if len(report.sizes) and report.segments:
        yield (
            f"  {present} of {len(report.classes)} classes, {len(report.sizes) / usable:.1f} in an "
            f"image; most of {_top(report)}"
        )
    elif report.classifies and present:
        yield f"  {present} of {len(report.classes)} classes; most of {_top(report)}"
    elif len(report.sizes):
        small, large = (np.mean(report.sizes < side) for side in (32, 96))
        yield (
            f"  {counted(len(report.sizes), 'object')} of {present} of {len(report.classes)} "
            f"classes, {len(report.sizes) / max(1, report.images):.1f} an image; most of "
            f"{_top(report)}"
        )
        yield (
            f"  {small:.0%} small (below 32 x 32 pixels), {large - small:.0%} medium, "
            f"{1 - large:.0%} large (from 96 x 96)"
        )
    absent = [name for name, count in zip(report.classes, report.counts, strict=True) if not count]
    if absent and present:
        yield _clipped(f"  none of {len(absent)} classes: {', '.join(map(str, absent))}")
    yield from _kinds("error", report.errors)
    yield from _kinds("note", report.notes)


def _kinds(word: str, kinds: Mapping[str, list[str]]) -> Iterator[str]:
    for kind, said in kinds.items():
        yield f"  {word}: {kind}: {len(said):,}"
        if len(said) == 1:  # all that there is to say, with what to do
            yield from textwrap.wrap(said[0], WIDTH, initial_indent="    ", **WRAPPING)
            continue
        for one in said[:NAMED]:
            yield _clipped(f"    {one}")
        if len(said) > NAMED:
            yield "    …"


def _top(report: DatasetReport) -> str:
    order = np.argsort(-report.counts)[:3]
    unit = "{:.1f}%" if report.segments else "{:,.0f}"
    return ", ".join(
        f"{report.classes[i]} ({unit.format(report.counts[i])})" for i in order if report.counts[i]
    )


def _clipped(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 2] + " …"
