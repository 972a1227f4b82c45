"""What was found, in one picture: classes, sizes, and a contact sheet."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpecFromSubplotSpec, SubplotSpec
from mmengine.structures import InstanceData

from mmpvt.engine.checks.channels import evenly_spaced
from mmpvt.inspection.report import DatasetReport, Example
from mmpvt.utils.text import counted, printable
from mmpvt.visualization.drawing import colours, draw_instances, draw_map, viewable

WIDTH, DPI = 24, 100  # inches, dots an inch
ROW = 0.205  # inches of a class in the histogram
ROWS = 50  # classes in a column of it, at most
LETTER = 0.085  # inches of a class's name
COLUMNS, CELL = 6, 3.6  # of the contact sheet; inches
SHOWN = 12  # images of a data set on it
NAMED = 18  # objects that are drawn, the largest: with more, their names hide the image
COLOURS = ("#1f5fa8", "#f28e2b", "#59a14f", "#b07aa1")
ABSENT = "#c0392b"
FONT = "DejaVu Sans"  # matplotlib's own
PLACEHOLDERS = "Last Resort"  # its font whose glyphs name a script


def draw(reports: Sequence[DatasetReport]) -> bytes:
    """Draws the data sets of a config, as a PNG file."""
    names = [name for report in reports for name in report.classes]
    names += [Path(one.files.image).name for report in reports for one in report.examples]
    families = font_families(printable("".join(names)))
    # a name may hold dollar signs
    with matplotlib.rc_context({"text.parse_math": False, "font.family": families}):
        return _draw(reports)


def font_families(text: str) -> list[str]:
    """matplotlib's own font, and installed ones for characters that it lacks, as of Chinese."""
    lacking = {ord(character) for character in text}
    lacking -= _held(lacking, font_manager.fontManager.findfont(FONT))
    families = [FONT]
    for font in font_manager.fontManager.ttflist if lacking else ():
        if not font.name.startswith(PLACEHOLDERS) and (held := _held(lacking, font.fname)):
            families.append(font.name)
            lacking -= held
    return families


def _held(characters: set[int], font: str) -> set[int]:
    """Those of the characters that a font's file has."""
    with suppress(OSError, RuntimeError):  # uninstalled since matplotlib listed it, or damaged
        return set(filter(font_manager.get_font(font).get_char_index, characters))
    return set()


def _draw(reports: Sequence[DatasetReport]) -> bytes:
    length = max(len(report.classes) for report in reports)
    columns = max(1, -(-length // ROWS))
    top = max(6.5, ROW * -(-length // columns) + 1)
    shown = [
        [report.examples[i] for i in evenly_spaced(len(report.examples), SHOWN)]
        for report in reports
    ]
    sheets = [0.4 + CELL * -(-len(examples) // COLUMNS) for examples in shown]
    figure = Figure(figsize=(WIDTH, 1 + top + sum(sheets)), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(1 + len(reports), 1, height_ratios=[top, *sheets])
    ratios = [1.0] * columns + [max(1.1, 0.35 * columns)]
    upper = GridSpecFromSubplotSpec(1, columns + 1, grid[0], width_ratios=ratios)
    _draw_classes(figure, upper, reports, columns)
    sizes = [_draw_image_sizes]
    if not reports[0].classifies:  # of objects or labels in an image
        sizes.insert(0, _draw_object_sizes)
    right = GridSpecFromSubplotSpec(len(sizes), 1, upper[columns])
    for row, draw_sizes in enumerate(sizes):
        draw_sizes(figure.add_subplot(right[row]), reports)
    for place, (report, examples) in enumerate(zip(reports, shown, strict=True), start=1):
        _draw_sheet(figure, grid[place], report, examples)
    total = "   ".join(f"{report.name}: {counted(report.images, 'image')}" for report in reports)
    figure.suptitle(total, fontsize=18, fontfamily=FONT, fontweight="bold")  # not all have a bold
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _draw_classes(
    figure: Figure, grid: GridSpecFromSubplotSpec, reports: Sequence[DatasetReport], columns: int
) -> None:
    """Bars from the most frequent class to the rarest, as the first data set has them."""
    classes = max((report.classes for report in reports), key=len)
    by_name = [dict(zip(report.classes, report.counts, strict=True)) for report in reports]
    counts = np.array([[known.get(name, 0) for name in classes] for known in by_name], float)
    shares = counts / np.maximum(1e-9, counts.sum(axis=1, keepdims=True))
    order = np.argsort(-shares.sum(axis=0), kind="stable")
    positive = np.append(counts[counts > 0], 1.0)
    limits = positive.min() / 2, positive.max() * 1.5
    share = reports[0].segments
    height = 0.8 / len(reports)
    most = int(0.4 * WIDTH / (columns + 1) / LETTER)  # the rest of a column is for its bars
    for column, part in enumerate(np.array_split(order, columns)):
        axes = figure.add_subplot(grid[column])
        rows = np.arange(len(part))
        axes.set(xscale="log", xlim=limits)
        for i, (report, colour) in enumerate(zip(reports, cycle(COLOURS), strict=False)):
            places = rows + (i - (len(reports) - 1) / 2) * height
            axes.barh(places, counts[i, part], height, left=0, color=colour, label=report.name)
        axes.set(xlim=limits, ylim=(len(part) - 0.4, -0.6))
        axes.set_yticks(rows, [_clipped(printable(classes[i]), most) for i in part], fontsize=10)
        for tick, i in zip(axes.get_yticklabels(), part, strict=True):
            if not counts[:, i].all():
                tick.set_color(ABSENT)
        axes.grid(axis="x", alpha=0.3)
        axes.xaxis.set_major_formatter("{x:g}%" if share else "{x:,.0f}")
        if column == 0:
            what = "images" if reports[0].classifies else "objects"
            what = "share of the labelled pixels" if share else what
            _label(axes, f"{what}, by class (red: none in some)", "lower right")


def _clipped(name: str, most: int) -> str:
    """A name of ``most`` characters, without its middle if it is longer."""
    half = most // 2
    return name if len(name) <= most else f"{name[: most - half - 1]}…{name[-half:]}"


def _draw_object_sizes(axes: Axes, reports: Sequence[DatasetReport]) -> None:
    sizes = [np.maximum(report.sizes, 0.5) for report in reports]
    everything = np.concatenate([*sizes, [10.0]])
    bins = np.geomspace(everything.min() * 0.9, everything.max() * 1.1, 60).tolist()
    for report, size, colour in zip(reports, sizes, cycle(COLOURS), strict=False):
        if len(size):
            weights = np.full(len(size), 100 / len(size))
            axes.hist(size, bins, weights=weights, color=colour, alpha=0.55, label=report.name)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}%")
    axes.grid(alpha=0.3)
    what = "a class in an image: square root of its pixels"
    if not reports[0].segments:
        what = "objects: square root of the area, pixels"
        top = 1.08 * axes.get_ylim()[1]
        axes.set_ylim(top=top)
        for side, name, height in ((32, "medium", 0.985), (96, "large", 0.935)):
            axes.axvline(side, color="0.3", linestyle="--", linewidth=1)
            text = axes.text(side, top * height, f" {name} from {side}", va="top", color="0.3")
            text.set_in_layout(False)  # where it reaches out, the chart isn't made smaller
    _label(axes, what, "upper left")


def _draw_image_sizes(axes: Axes, reports: Sequence[DatasetReport]) -> None:
    """A dot for each size; its area grows with the number of images."""
    for report, colour in zip(reports, cycle(COLOURS), strict=False):
        if len(report.shapes):
            sizes, counts = np.unique(report.shapes, axis=0, return_counts=True)
            area = 14 + 500 * counts / counts.sum()
            axes.scatter(sizes[:, 1], sizes[:, 0], area, color=colour, alpha=0.5, label=report.name)
    axes.set(xlabel="width", ylabel="height", aspect="equal")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    _label(axes, "images: pixels", "lower right")


def _label(axes: Axes, title: str, place: str) -> None:
    axes.set_title(title, loc="left", fontsize=13)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=11, loc=place)


def _draw_sheet(
    figure: Figure, place: SubplotSpec, report: DatasetReport, examples: Sequence[Example]
) -> None:
    rows = max(1, -(-len(examples) // COLUMNS))
    grid = GridSpecFromSubplotSpec(rows, COLUMNS, place, hspace=0.02, wspace=0.02)
    for i in range(rows * COLUMNS):
        axes = figure.add_subplot(grid[divmod(i, COLUMNS)])
        axes.set_axis_off()
        if i == 0 and not examples:
            axes.set_title(f"{report.name}: no image to show", loc="left", fontsize=13)
        if i < len(examples):
            axes.imshow(_draw_example(report, examples[i]), interpolation="lanczos")
            name = printable(Path(examples[i].files.image).name)
            hidden = len(examples[i].labels) - NAMED
            name += f" ({hidden} more objects)" if hidden > 0 else ""
            title = f"{report.name}: {name}"
            axes.set_title(title, fontsize=10, loc="left", pad=2, parse_math=False)


def _draw_example(report: DatasetReport, example: Example) -> np.ndarray:
    """An image in its cell's size, with its boxes or its label map: RGB, uint8."""
    image, labels = report.loader.load(example.files)
    image = viewable(image)
    width, height = WIDTH * DPI / COLUMNS * 0.97, CELL * DPI * 0.93
    scale = min(width / image.shape[1], height / image.shape[0])
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    canvas = cv2.resize(image, size, interpolation=method)
    palette = colours(report.dataset.palette, len(report.classes))
    if labels is not None:
        return draw_map(canvas, labels, report.classes, palette)
    areas = np.prod(example.boxes[:, 2:] - example.boxes[:, :2], axis=1)
    largest = np.argsort(-areas)[:NAMED]
    instances = InstanceData(
        bboxes=torch.from_numpy(example.boxes[largest]),
        labels=torch.from_numpy(example.labels[largest]),
    )
    return draw_instances(canvas, instances, scale, report.classes, palette)
