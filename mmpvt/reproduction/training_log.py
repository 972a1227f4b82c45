"""Training curves out of the logs that MMEngine and MMDetection 2 write."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmpvt.utils.files import parse_json, read_bytes

POINTS = 300  # of a curve at most
MAX_NUMBER = 1e15  # float64 holds it with its digits
TRAIN = re.compile(r"(?:Epoch|Iter)(?:\(train\))?\s*(?:\[\d+\])?\[\s*(\d+)/\d+\]")
LOSS = re.compile(r"\bloss: (\d+\.?\d*(?:e[+-]?\d+)?)")
SCORES = ("bbox_mAP", "segm_mAP", "mIoU")
SCORE = re.compile(rf"\b({'|'.join(SCORES)}): (\d+\.?\d*)")


def find_log(folder: Path, name: str, config: str, out: Path | None = None) -> Path | None:
    """The log of a checkpoint's training.

    Args:
        folder (Path): of logs or work directories.
        name (str): the checkpoint's.
        config (str): its config's.
        out (Path | None): the report's folder, which is not searched. Default: None.

    Returns:
        Path | None: a file in a folder of either name, or one whose name begins with it; JSON
        before text, then the largest.
    """
    stems = {name.rsplit("/", 1)[-1], name.split("/", 1)[0], config}
    own = out and out.resolve()
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix in (".json", ".log") and path.is_file()
        if own not in path.resolve().parents
        if stems & set(path.relative_to(folder).parts[:-1])
        or any(re.match(re.escape(stem) + r"(\W|_2\d{7}|$)", path.name) for stem in stems)
    ]
    return max(found, key=lambda p: (p.suffix == ".json", p.stat().st_size, p.name), default=None)


def read_log(path: Path) -> dict | None:
    """The curves of a training.

    Args:
        path (Path): ``scalars.json``, ``….log.json`` or ``….log``.

    Returns:
        dict | None: ``loss``, at most 300 pairs of an iteration and a mean; ``scores``, by name,
        pairs of a validation's number (from 1) and a share of 1. None where there is no loss.

    Raises:
        UserError: the file is too large.
    """
    file = io.BytesIO(read_bytes(path))
    if path.suffix == ".json":
        rows = list(_json_rows(file))
    else:
        rows = list(_text_rows(io.TextIOWrapper(file, errors="replace")))
    steps = list(_count_through(row for row in rows if "loss" in row))
    if not steps:
        return None
    scores = {
        name: list(enumerate((row[name] for row in rows if name in row), 1)) for name in SCORES
    }
    return dict(
        file=path.name,
        loss=_thin([(row["step"], row["loss"]) for row in steps]),
        scores={name: values for name, values in scores.items() if values},
    )


def _json_rows(lines: Iterable[bytes]) -> Iterator[dict]:
    for line in lines:
        try:
            content = parse_json(line)
        except ValueError:  # the truncated last line of a killed run, say
            continue
        if not isinstance(content, dict):
            continue
        row = {key.rpartition("/")[2]: v for key, v in content.items() if _is_number(v)}
        if "loss" in row and content.get("mode") != "val":
            yield dict(row, step=row.get("step", row.get("iter", 0)))
        else:
            yield {name: _share(name, row[name]) for name in SCORES if name in row}


def _text_rows(lines: Iterable[str]) -> Iterator[dict]:
    for line in lines:
        place, loss = TRAIN.search(line), LOSS.search(line)
        if place and loss:
            step, value = float(place[1]), float(loss[1])
            if _is_number(step) and _is_number(value):
                yield dict(step=int(step), loss=value)
        elif scores := SCORE.findall(line):
            found = ((name, float(value)) for name, value in scores)
            yield {name: _share(name, value) for name, value in found if _is_number(value)}


def _count_through(rows: Iterable[dict]) -> Iterator[dict]:
    """Iterations of a log that counts from 1 in each epoch, counted through all."""
    before = last = 0
    for row in rows:
        if row["step"] <= last:
            before += last
        last = row["step"]
        yield dict(row, step=before + last)


def _share(name: str, value: float) -> float:
    """mIoU comes in percent from MMSegmentation 1, as a share of 1 from older ones."""
    return value / 100 if name == "mIoU" and value > 1 else value


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most ``POINTS`` points, means of neighbours."""
    size = -(-len(points) // POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), max(1, size))]
    return [
        (group[-1][0], float(f"{sum(value for _, value in group) / len(group):.4g}"))
        for group in groups
    ]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= MAX_NUMBER
