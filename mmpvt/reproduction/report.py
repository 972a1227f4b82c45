"""A report's content: JSON and Markdown; the page is rendered by :mod:`.page`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mmengine.config import Config

from mmpvt.engine.config_parts import iter_datasets
from mmpvt.reproduction.page import render
from mmpvt.reproduction.result_store import FAILED, SKIPPED, TESTED, to_json
from mmpvt.utils.outputs import Outputs
from mmpvt.utils.text import printable

FILES = ("results.json", "results.md", "index.html")
BACKBONES = {"PyramidVisionTransformer": "pvt", "PyramidVisionTransformerV2": "pvt_v2"}
SHORT = dict(tiny="t", small="s", medium="m", large="l")  # as in the configs' names
SUFFIXES = {"": "", "50": "_50", "75": "_75", "_small": "_s", "_medium": "_m", "_large": "_l"}
SCORES = {  # our names: the metrics'
    f"{ours}_AP{our_suffix}": f"coco/{theirs}_mAP{their_suffix}"
    for ours, theirs in (("box", "bbox"), ("mask", "segm"))
    for our_suffix, their_suffix in SUFFIXES.items()
} | dict(mIoU="mIoU", mAcc="mAcc", aAcc="aAcc", top1="accuracy/top1", top5="accuracy/top5")
MAIN = dict(box_AP="box AP", mask_AP="mask AP", mIoU="mIoU", top1="top-1")
INTRODUCTION = """\
# Measured against published

AP, mIoU and top-1 in percent, as `tools/test.py` gives them; in parentheses the difference to what
the papers report. Speed is of inference alone, in images a second of one process; memory is the
most that one process took, of the GPU's or, where there is none, of the machine's.
"""


def describe(config: Config, name: str, published: Mapping[str, dict]) -> dict:
    """What a model is, for tables and filters, and its published scores.

    Args:
        config (Config): of the experiment.
        name (str): the config's.
        published (Mapping[str, dict]): what the papers report, by config's name.

    Returns:
        dict: ``config``, ``family``, ``backbone`` and ``dataset`` (names), ``published`` (scores in
        percent, as :func:`scores` names them), ``released_code`` (mIoU of the authors' code).
    """
    known = published.get(name, {})
    backbone = config.model.get("backbone") or {}
    arch = backbone.get("arch", "")
    arch = SHORT.get(arch, arch) if isinstance(arch, str) else ""
    kind = str(backbone.get("type", "")).rpartition(".")[2]
    kind = BACKBONES.get(kind, kind)
    dataset = next(iter_datasets(config.test_dataloader.dataset), {})
    scores = {key: known[key] for key in MAIN if known.get(key) is not None}
    scores.update({f"box_{key}": value for key, value in known.get("detail", {}).items()})
    return dict(
        config=name,
        family=known.get("method") or str(config.model.type).rpartition(".")[2],
        backbone=known.get("backbone") or f"{kind}_{arch}".rstrip("_"),
        dataset=known.get("dataset") or str(dataset.get("type", "")).rpartition(".")[2],
        published=scores,
        released_code=known.get("mIoU_released_code"),
    )


def scores(metrics: Mapping[str, float]) -> dict[str, float]:
    """A test's metrics in percent, by our names."""
    found = {name: metrics[metric] for name, metric in SCORES.items() if metric in metrics}
    return {
        name: round(100 * value, 1) if "AP" in name else round(value, 2)
        for name, value in found.items()
        if value is not None and value >= 0  # -1: there are no such objects
    }


def headline(record: Mapping) -> str:
    """A record's main scores in a line."""
    names = (name for name in MAIN if name in record["scores"])
    return ", ".join(f"{MAIN[name]} {_scored(record, name)}" for name in names)


def write(out: Outputs, records: Sequence[dict]) -> None:
    """Writes ``results.json``, ``results.md`` and ``index.html``, each intact or not at all."""
    slim = [{k: v for k, v in record.items() if k != "gallery"} for record in records]
    contents = (to_json(dict(models=slim)), markdown(records).encode(), render(records).encode())
    for name, content in zip(FILES, contents, strict=True):
        out.write(name, content)


def markdown(records: Sequence[Mapping]) -> str:
    """The table for a page of text."""
    tested = [record for record in records if record.get("status") == TESTED]
    parts = [INTRODUCTION]
    for dataset in dict.fromkeys(record["dataset"] for record in tested):
        rows = [record for record in tested if record["dataset"] == dataset]
        names = [name for name in SCORES if any(name in record["scores"] for record in rows)]
        head = ["model", *(name.replace("_", " ") for name in names)]
        head += ["params, M", "GFLOPs", "images/s", "memory, GiB"]
        cells = [[_text(record["name"]), *_cells(record, names)] for record in rows]
        parts.append(f"## {_text(dataset)}\n\n{_table(head, cells)}")
    for status, title in ((FAILED, "Failed"), (SKIPPED, "Skipped")):
        rest = [record for record in records if record.get("status") == status]
        if rest:
            cells = [[_text(record["name"]), _text(record["error"])] for record in rest]
            parts.append(f"## {title}\n\n{_table(['checkpoint', 'why'], cells)}")
    waiting = [_text(record["name"]) for record in records if "status" not in record]
    if waiting:
        parts.append(f"Not tested yet: {', '.join(waiting)}\n")
    if tested:
        versions = ", ".join(f"{name} {number}" for name, number in tested[-1]["versions"].items())
        parts.append(f"With {_text(versions)}.\n")
    return "\n".join(parts)


def _cells(record: Mapping, names: Sequence[str]) -> list[str]:
    memory = record["memory"]
    numbers = [
        _number(record["parameters"] / 1e6, 1),
        _number(record["gflops"], 1),
        _number(record["images_per_second"], 1),
        _number(memory.get("MiB", math.nan) / 1024, 2) + f" {memory.get('of', '')}",
    ]
    return [*(_scored(record, name) for name in names), *numbers]


def _scored(record: Mapping, name: str) -> str:
    value, target = record["scores"].get(name), record["published"].get(name)
    if value is None:
        return "-"
    digits = 2 if name in ("mIoU", "mAcc", "aAcc") else 1
    difference = "" if target is None else f" ({value - target:+.{digits}f})"
    return f"{value:.{digits}f}{difference}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def _text(text: str) -> str:
    """Any text as a cell of a table: without markup and newlines."""
    for character in "\\|<>[]*`":
        text = text.replace(character, "\\" + character)
    return printable(" ".join(text.split()))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = (head, ["---"] * len(head), *rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
