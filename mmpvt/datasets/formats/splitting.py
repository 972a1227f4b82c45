"""Splits that every machine makes alike, with each class in each of them where it can be."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from mmpvt.datasets.formats.files import stem
from mmpvt.datasets.formats.records import ImageRecord
from mmpvt.utils.files import file_sha256
from mmpvt.utils.progress import with_progress

# What augmentation and file managers add to a name: Roboflow's hash, "flip", "copy". Not "(1)":
# Windows and browsers number different images so.
_ADDED = re.compile(
    r"(?:_(?:jpe?g|png))?\.rf\.[0-9A-Za-z]{8,}$|[ _-]+(?:copy|kopie)[ _-]*\d*$|"
    r"[_-](?:aug(?:mented)?|[hv]?flip(?:ped)?|mirror(?:ed)?|rot(?:ated)?|blur(?:red)?|noisy?|crop)"
    r"[_-]?\d*$",
    re.IGNORECASE,
)


def original_stem(name: str) -> str:
    """A relative path without its suffix and what was added to the name of the original image."""
    name, before = stem(name), ""
    while name != before:
        before, name = name, _ADDED.sub("", name) or name
    return name


def group_duplicates(records: dict[str, ImageRecord]) -> list[list[str]]:
    """Groups images, by relative path, that are copies of one another or made of one image."""
    parents = {name: name for name in records}

    def find(name: str) -> str:
        while parents[name] != name:
            parents[name] = name = parents[parents[name]]
        return name

    by_stem: dict[str, list[str]] = defaultdict(list)
    by_size: dict[int, list[str]] = defaultdict(list)
    for name, record in records.items():
        by_stem[original_stem(name)].append(name)
        by_size[_size(record.path)].append(name)
    by_content: dict[str, list[str]] = defaultdict(list)
    for same in by_size.values():
        for name in same if len(same) > 1 else ():
            by_content[file_sha256(records[name].path)].append(name)
    for same in (*by_stem.values(), *by_content.values()):
        for name in same[1:]:
            parents[find(name)] = find(same[0])
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(records):
        groups[find(name)].append(name)
    return list(groups.values())


def copies_of(
    records: Sequence[ImageRecord], others: Sequence[ImageRecord]
) -> list[tuple[ImageRecord, ImageRecord]]:
    """Images of ``others`` that are copies of ``records`` or made from the same image.

    Equal names in two folders are no sign of it, as numbering often begins anew in each: an
    augmentation's or Roboflow's suffix must have been added to one of them.

    Returns:
        list[tuple[ImageRecord, ImageRecord]]: the image of ``others``, and one of ``records``.
    """
    if not records or not others:
        return []
    by_stem = {original_stem(record.path.name): record for record in reversed(records)}
    sizes = {_size(record.path) for record in others}
    by_content: dict[str, ImageRecord] = {}
    shared = set()
    for record in with_progress(records, "comparing images"):
        if (size := _size(record.path)) in sizes:
            shared.add(size)
            by_content.setdefault(file_sha256(record.path), record)
    copies = []
    for record in with_progress(others, "comparing images"):
        original = (
            by_content.get(file_sha256(record.path)) if _size(record.path) in shared else None
        )
        named = by_stem.get(original_stem(record.path.name))
        if original is None and named and named.path.stem != record.path.stem:
            original = named
        if original is not None:
            copies.append((record, original))
    return copies


def _size(path: Path) -> int:
    return path.stat().st_size


def stratify(
    groups: Sequence[Sequence[str]],
    labels: dict[str, frozenset[int]],
    fractions: dict[str, float],
    seed: int,
) -> dict[str, list[str]]:
    """Splits groups of images so that each class has its fraction in each split.

    Iterative stratification (Sechidis et al., On the Stratification of Multi-Label Data, 2011,
    algorithm 1), with groups for single examples: the rarest class is dealt out first. The order
    is that of a hash of ``seed`` and name, which no version of a random generator changes.

    Args:
        groups (Sequence[Sequence[str]]): names of images that stay together.
        labels (dict[str, frozenset[int]]): the classes in each image.
        fractions (dict[str, float]): of the images, by split; they sum to 1.
        seed (int): another seed, other splits.

    Returns:
        dict[str, list[str]]: names by split, sorted.
    """
    total = sum(map(len, groups))
    counts = [Counter(label for name in group for label in labels[name]) for group in groups]
    sums: Counter[int] = Counter()
    by_label: dict[int, list[int]] = defaultdict(list)
    order = sorted(range(len(groups)), key=lambda i: (-len(groups[i]), _rank(seed, groups[i][0])))
    for i in order:
        sums.update(counts[i])
        for label in counts[i]:
            by_label[label].append(i)
    wanted = {split: fraction * total for split, fraction in fractions.items()}
    wanted_of = {s: {k: f * n for k, n in sums.items()} for s, f in fractions.items()}
    left = {label: len(found) for label, found in by_label.items()}
    where: dict[int, str] = {}

    def assign(i: int, split: str) -> None:
        where[i] = split
        wanted[split] -= len(groups[i])
        for label, number in counts[i].items():
            wanted_of[split][label] -= number
            left[label] -= 1

    while any(left.values()):
        label = min((label for label, n in left.items() if n), key=lambda k: (left[k], k))
        for i in by_label[label]:
            if i not in where:
                assign(i, max(fractions, key=lambda s: (wanted_of[s][label], wanted[s])))
    for i in order:
        if i not in where:
            assign(i, max(fractions, key=lambda s: wanted[s]))
    for split in fractions:  # none stays empty
        if split not in where.values():
            biggest = Counter(where.values()).most_common(1)[0][0]
            last = [i for i in order if where[i] == biggest][-1]
            where[last] = split
    made: dict[str, list[str]] = {split: [] for split in fractions}
    for i, split in where.items():
        made[split].extend(groups[i])
    return {split: sorted(names) for split, names in made.items()}


def _rank(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).digest()
