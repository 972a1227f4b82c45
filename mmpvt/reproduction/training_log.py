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
MMENGINE = re.compile(r"\((?:val|test)\)\s*(?:\[\d+\])?\[\s*\d+/\d+\]")  # older ones: [10]
LOSS = re.compile(r"\bloss: (\d+\.?\d*(?:e[+-]?\d+)?)")
SCORES = ("bbox_mAP", "segm_mAP", "mIoU", "top1")
VALIDATION = (*SCORES, "val_loss")  # in no row of a training
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


def read_run(folder: Path) -> dict | None:
    """The curves of a training by MMEngine, through all times that it was resumed.

    Args:
        folder (Path): its work directory.

    Returns:
        dict | None: as of :func:`read_log`, but the scores' pairs begin with an iteration; and
        ``val_loss``, likewise. None where there is no log of a training.

    Raises:
        UserError: a log is too large.
    """
    train: list[tuple[float, float]] = []
    scores: dict[str, list[tuple[float, float]]] = {name: [] for name in (*SCORES, "val_loss")}
    for path in sorted(folder.glob("*/vis_data/scalars.json")):
        rows = list(_json_rows(io.BytesIO(read_bytes(path))))
        first = next((row["step"] for row in rows if "loss" in row), None)
        if first is None:  # a validation alone
            continue
        step = max((known for known, _ in train if known < first), default=0)
        for number, row in enumerate(rows):
            is_validation = "loss" not in row
            # a validation's step is an iteration, or the number of an epoch: of fewer
            now = max(step, row.pop("step")) if is_validation else row["step"]
            if not number or now < step:  # it resumes from there, or starts anew
                train[:] = [point for point in train if point[0] < now + is_validation]
                for points in scores.values():
                    points[:] = [point for point in points if point[0] < now]
            if is_validation:
                for name in row:
                    scores[name].append((now, row[name]))
            else:
                step = now
                train.append((step, row["loss"]))
    if not train:
        return None
    return dict(
        file=f"{folder.name}/*/vis_data/scalars.json",
        loss=_thin(train),
        val_loss=scores.pop("val_loss"),
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
        is_validation = content.get("mode") == "val" or any(name in row for name in VALIDATION)
        if "loss" in row and not (is_validation or "val/loss" in content):
            yield dict(row, step=row.get("step", row.get("iter", 0)))
            continue
        is_percent = "mode" not in content
        found = {name: _share(name, row[name], is_percent) for name in SCORES if name in row}
        found["step"] = row.get("step", 0)
        if (loss := row.get("val_loss", row.get("loss"))) is not None:
            found["val_loss"] = loss
        yield found


def _text_rows(lines: Iterable[str]) -> Iterator[dict]:
    for line in lines:
        place, loss = TRAIN.search(line), LOSS.search(line)
        if place and loss:
            step, value = float(place[1]), float(loss[1])
            if _is_number(step) and _is_number(value):
                yield dict(step=int(step), loss=value)
        elif scores := SCORE.findall(line):
            found = ((name, float(value)) for name, value in scores)
            is_percent = MMENGINE.search(line) is not None
            yield {n: _share(n, value, is_percent) for n, value in found if _is_number(value)}


def _count_through(rows: Iterable[dict]) -> Iterator[dict]:
    """Iterations of a log that counts from 1 in each epoch, counted through all."""
    before = last = 0
    for row in rows:
        if row["step"] <= last:
            before += last
        last = row["step"]
        yield dict(row, step=before + last)


def _share(name: str, value: float, is_percent: bool) -> float:
    """mIoU comes in percent from MMSegmentation 1, as a share of 1 from older ones; top-1 accuracy
    in percent from all."""
    return value / 100 if name == "top1" or (name == "mIoU" and is_percent) else value


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
