"""What was found, in words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mmpvt.inspection.surveys import Survey
from mmpvt.utils.text import printable

NAMED = 3  # of each kind; the rest is in a file
WIDTH = 110  # characters of a line
WRAPPING = dict(subsequent_indent="    ", break_on_hyphens=False, break_long_words=False)


def describe(surveys: Sequence[Survey]) -> str:
    """A summary for people to read.

    Args:
        surveys (Sequence[Survey]): of the data sets.

    Returns:
        str: lines.
    """
    return "\n".join(printable(line) for survey in surveys for line in _lines(survey))


def _lines(survey: Survey) -> Iterator[str]:
    yield f"{survey.name}: {survey.place}"
    usable = len(survey.shapes)
    yield (
        f"  {survey.images:,} images, {usable:,} of them can be used"
        + (f", {survey.empty:,} without {_thing(survey)}" if survey.empty else "")
    )
    if usable:
        (low, left), (high, right) = survey.shapes.min(0), survey.shapes.max(0)
        middle = np.median(survey.shapes, 0).astype(int)
        yield (
            f"  height {low} to {high} pixels, half of them up to {middle[0]}; width {left} to "
            f"{right}, half up to {middle[1]}"
        )
    present = np.count_nonzero(survey.counts)
    if len(survey.sizes) and survey.segments:
        yield (
            f"  {present} of {len(survey.classes)} classes, {len(survey.sizes) / usable:.1f} in an "
            f"image; most of {_top(survey)}"
        )
    elif len(survey.sizes):
        small, large = (np.mean(survey.sizes < side) for side in (32, 96))
        yield (
            f"  {len(survey.sizes):,} objects of {present} of {len(survey.classes)} classes, "
            f"{len(survey.sizes) / max(1, survey.images):.1f} an image; most of {_top(survey)}"
        )
        yield (
            f"  {small:.0%} small (below 32 x 32 pixels), {large - small:.0%} medium, "
            f"{1 - large:.0%} large (from 96 x 96)"
        )
    absent = [name for name, count in zip(survey.classes, survey.counts, strict=True) if not count]
    if absent and present:
        yield _clipped(f"  none of {len(absent)} classes: {', '.join(map(str, absent))}")
    yield from _kinds("to mend", survey.problems)
    yield from _kinds("note", survey.notes)


def _kinds(word: str, kinds: Mapping[str, list[str]]) -> Iterator[str]:
    for kind, said in kinds.items():
        yield f"  {word}: {len(said):,} {kind}"
        if len(said) == 1:  # all that there is to say, with what to do
            yield from textwrap.wrap(said[0], WIDTH, initial_indent="    ", **WRAPPING)
            continue
        for one in said[:NAMED]:
            yield _clipped(f"    {one}")
        if len(said) > NAMED:
            yield "    …"


def _thing(survey: Survey) -> str:
    return "a label" if survey.segments else "an object"


def _top(survey: Survey) -> str:
    order = np.argsort(-survey.counts)[:3]
    unit = "{:.1f}%" if survey.segments else "{:,.0f}"
    return ", ".join(
        f"{survey.classes[i]} ({unit.format(survey.counts[i])})" for i in order if survey.counts[i]
    )


def _clipped(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 2] + " …"
