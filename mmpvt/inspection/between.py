"""What data sets have in common that they shouldn't."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from mmpvt.inspection.surveys import Survey


def compare(surveys: Sequence[Survey]) -> None:
    """Notes images that are in two data sets: a score on those says little.

    Args:
        surveys (Sequence[Survey]): of the data sets; the later ones are changed.
    """
    for one, other in itertools.combinations(surveys, 2):
        known = {digest: path for path, digest in one.digests.items()}
        for path, digest in other.digests.items():
            if digest in known:
                said = f"{path} is the same as {known[digest]}"
                other.problems[f"images that are in {one.name}, too"].append(said)
        if shared := one.ids & other.ids:
            said = [f"image {name}" for name in sorted(shared, key=str)]
            other.notes[f"ids of images that {one.name} has, too"] += said
