"""docs/swap_coverage.md, from a sweep's records."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from dev.swap_sweep.records import FAILED, OK, REFUSED, SKIPPED, UNREADABLE, Record

_HEAD = """# Swapped configs that run

Written by `python tools/sweep_swap.py --all`. Of every config that MMDetection {mmdet} and
MMSegmentation {mmseg} ship with a backbone of the ResNet family, or one of mmpretrain (ConvNeXt,
PoolFormer, timm's; to read these it has to be installed): the backbone is swapped for PVT v2-B0,
the model is built, trained for one step on two synthetic images of 128 pixels (losses and the
backbone's gradients must be finite), and predicts on one (boxes, scores, masks or label maps must
be finite and of the right shape). Fewer boxes go from part to part than in real training, and
padding is smaller; nothing else of the structure is changed. Weights are random.

Many configs differ by schedule, data set or the depth of the ResNet alone, and are one and the same
model once the backbone is swapped: {models} distinct models ran, each once.
"""


def markdown(records: Iterable[Record], versions: dict[str, str]) -> str:
    """The page.

    Args:
        records (Iterable[Record]): of a sweep.
        versions (dict[str, str]): of ``mmdet`` and ``mmseg``.

    Returns:
        str: its text.
    """
    records = [record for record in records if record.verdict != SKIPPED]
    counted = [record for record in records if record.verdict != UNREADABLE]
    models = len({record.model for record in counted if record.model})
    return "\n".join(
        [
            _HEAD.format(models=models, **versions),
            *_summary(counted),
            "",
            "## Not swapped, or not run",
            "",
            *_reasons(counted, (REFUSED, FAILED)),
            "",
            "## Families",
            "",
            *_families(counted),
            "",
            "## Not counted",
            "",
            "Configs that can't be read as they are shipped, whatever their backbone.",
            "",
            *_reasons(records, (UNREADABLE,)),
            "",
        ]
    )


def _summary(records: list[Record]) -> list[str]:
    lines = [
        "| package | families | of these run | configs | of these run | refused | failed |",
        "|---|---|---|---|---|---|---|",
    ]
    packages = defaultdict(list)
    for record in records:
        packages[record.name.partition("::")[0]].append(record)
    for package, own in [*packages.items(), ("both", records)]:
        verdicts = Counter(record.verdict for record in own)
        families = {record.family for record in own}
        running = {record.family for record in own if record.verdict == OK}
        lines.append(
            f"| {package} | {len(families)} | {_share(len(running), len(families))} | {len(own)} "
            f"| {_share(verdicts[OK], len(own))} | {verdicts[REFUSED]} | {verdicts[FAILED]} |"
        )
    return [*lines, "", "A family runs if a config of it does; the table below counts its configs."]


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / max(whole, 1):.1%})"


def _reasons(records: list[Record], verdicts: tuple[str, ...]) -> list[str]:
    lines = ["| config | verdict | reason |", "|---|---|---|"]
    chosen = [record for record in records if record.verdict in verdicts]
    for record in sorted(chosen, key=lambda record: (record.verdict, record.name)):
        reason = record.reason.replace("|", r"\|")
        lines.append(f"| {record.name} | {record.verdict} | {reason} |")
    return lines if chosen else ["None."]


def _families(records: list[Record]) -> list[str]:
    families = defaultdict(Counter)
    for record in records:
        families[record.family][record.verdict] += 1
    lines = ["| family | configs | run | refused | failed |", "|---|---|---|---|---|"]
    for family, verdicts in sorted(families.items()):
        counts = (verdicts[verdict] for verdict in (OK, REFUSED, FAILED))
        lines.append(f"| {family} | {verdicts.total()} | {' | '.join(map(str, counts))} |")
    return lines
