"""The model zoo: every config with what the papers report of it and what it costs.

Sources of the published figures, ``docs/published_results.json``: PVT (arXiv 2102.12122) and
PVT v2 (arXiv 2106.13797), and the settings that their authors released.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml
from mmengine.config import Config

from mmpvt.datasets.download.catalog import detector_of
from mmpvt.models.archs import find_variant
from mmpvt.models.complexity import ModuleCost, build_without_memory, count
from mmpvt.reproduction.checkpoints import read_published

COLLECTIONS = {
    "PVT": dict(
        Name="PVT",
        Paper=dict(
            URL="https://arxiv.org/abs/2102.12122",
            Title="Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without "
            "Convolutions",
        ),
        README="docs/model_zoo.md",
    ),
    "PVT v2": dict(
        Name="PVT v2",
        Paper=dict(
            URL="https://arxiv.org/abs/2106.13797",
            Title="PVT v2: Improved Baselines with Pyramid Vision Transformer",
        ),
        README="docs/model_zoo.md",
    ),
}
INTRODUCTION = """\
# Model zoo

Every published experiment has a config here. AP, mIoU and top-1 are what the papers report
([PVT](https://arxiv.org/abs/2102.12122), [PVT v2](https://arxiv.org/abs/2106.13797)): they are the
targets of a training run of yours, not results of this project's. Parameters and GFLOPs are those
of the config, as `tools/get_flops.py` counts them (a multiply-add once, the backbone's ImageNet
head excluded); in parentheses, where the papers give them, theirs. Detectors are counted on one
image of 3x1280x800, segmenters on 3x512x512, classifiers, whose head is included, on 3x224x224.

Training of detectors and segmenters starts from the authors' ImageNet weights, which are downloaded
on first use; classifiers ([classification.md](classification.md)) start from random ones.

This page and `model-index.yml` are written by `python tools/make_model_zoo.py`.
"""
SCORES = {
    "box_AP": "box AP",
    "mask_AP": "mask AP",
    "mIoU": "mIoU",
    "mIoU_released_code": "mIoU, released code",
    "top1": "top-1",
}
OTHERS = """\
## Small configs

Not published experiments: small enough to try things with.
"""


@dataclass(frozen=True)
class Entry:
    """A config of the zoo.

    Attributes:
        path: of the config.
        published: what the papers report of it, a record of ``docs/published_results.json``;
            empty for a config of this project's own.
    """

    path: Path
    published: dict

    @property
    def name(self) -> str:
        """Of the config's file, without its ending."""
        return self.path.stem

    @cached_property
    def config(self) -> Config:
        """The config, parsed."""
        return Config.fromfile(self.path)

    @cached_property
    def parts(self) -> list[ModuleCost]:
        """What the model's parts cost."""
        return count(build_without_memory(self.config))

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        return sum(part.parameters for part in self.parts)

    @property
    def macs(self) -> int:
        """Of the whole model, for one image."""
        return sum(part.macs for part in self.parts)

    @property
    def published_gflops(self) -> float | None:
        """What the papers give, at the size that :func:`count` takes by default."""
        sizes = ("GFLOPs_512", "GFLOPs_1280x800", "GFLOPs_224")
        return next((self.published[size] for size in sizes if self.published.get(size)), None)

    @property
    def comment(self) -> str:
        """What the config's file says of itself in its first lines."""
        lines = self.path.read_text().splitlines()
        head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
        return " ".join(line.lstrip("# ") for line in head)


def read_zoo(root: Path) -> list[Entry]:
    """The configs of a checkout: the published ones in the order of their records, then others.

    Args:
        root (Path): the folder of ``configs`` and ``docs``.

    Returns:
        list[Entry]: one a config.

    Raises:
        UserError: there are no records, or one is of a config that isn't there.
    """
    return [Entry(path, published) for path, published in read_published(root).values()]


def markdown(zoo: Sequence[Entry]) -> str:
    """``docs/model_zoo.md``."""
    published = [entry for entry in zoo if entry.published]
    methods = dict.fromkeys(entry.published["method"] for entry in published)
    sections = [
        _section([entry for entry in published if entry.published["method"] == method])
        for method in methods
    ]
    others = [[link(entry), entry.comment] for entry in zoo if not entry.published]
    return "\n".join([INTRODUCTION, *sections, OTHERS, table(["config", "what it is"], others)])


def _section(entries: Sequence[Entry]) -> str:
    """One method's table."""
    scores = [name for name in SCORES if any(entry.published.get(name) for entry in entries)]
    rows = [
        [
            link(entry),
            *(_cell(entry.published.get(name), 1) for name in scores),
            _cell(entry.parameters / 1e6, 2, entry.published.get("params_M")),
            _cell(entry.macs / 1e9, 1, entry.published_gflops),
        ]
        for entry in entries
    ]
    head = ["config", *(SCORES[name] for name in scores), "parameters, M", "GFLOPs"]
    first = entries[0].published
    return f"## {first['method']}, {first['dataset']}\n\n{table(head, rows)}"


def link(entry: Entry) -> str:
    """A config's name that leads to it from a page in ``docs``."""
    return f"[{entry.name}](../configs/{entry.path.name})"


def _cell(value: float | None, digits: int, published: float | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" + (f" ({published})" if published else "")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = (head, ["---"] * len(head), *rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def index(zoo: Sequence[Entry]) -> str:
    """``model-index.yml``, in OpenMMLab's format."""
    models = [_model(entry) for entry in zoo if entry.published]
    content = dict(Collections=list(COLLECTIONS.values()), Models=models)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def _model(entry: Entry) -> dict:
    config, published = entry.config, entry.published
    loop = config.train_cfg
    length = (
        dict(Epochs=loop.max_epochs) if "max_epochs" in loop else dict(Iterations=loop.max_iters)
    )
    metadata = {
        "Parameters": entry.parameters,
        "FLOPs": round(entry.macs, -7),  # 0.01 G
        "Batch Size": config.auto_scale_lr.base_batch_size,
        **length,
    }
    tasks = {
        "Object Detection": {"box AP": published.get("box_AP"), **published.get("detail", {})},
        "Instance Segmentation": {"mask AP": published.get("mask_AP")},
        "Semantic Segmentation": {"mIoU": published.get("mIoU")},
        "Image Classification": {"Top 1 Accuracy": published.get("top1")},
    }
    results = [
        dict(Task=task, Dataset=published["dataset"], Metrics=metrics)
        for task, metrics in tasks.items()
        if any(metrics.values())
    ]
    detector = detector_of(entry.name)
    weights = detector.url if detector else None
    if "top1" in published:
        weights = find_variant(entry.name.removesuffix("_8xb128_in1k")).weights
    return {
        "Name": entry.name,
        "In Collection": "PVT v2" if published["backbone"].startswith("pvt_v2") else "PVT",
        "Config": f"configs/{entry.path.name}",
        "Metadata": metadata,
        **({"Results": results} if results else {}),
        **({"Weights": weights} if weights else {}),
    }
