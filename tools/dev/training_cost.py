"""What a published training run takes: an estimate, from what was measured and a GPU's rate.

- Work: images x 2 x multiply-adds of the model x 3 (a backward pass takes two forward passes), the
  multiply-adds in proportion to the area that images are resized to.
- Time: work over the rate that a GPU is assumed to sustain, :data:`RATE`.
- Memory: 16 bytes a parameter (weight, gradient, AdamW's two moments), and for each image what a
  multiply-add was measured to keep for the backward pass, :data:`KEPT`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dev.model_zoo import Entry, link, table
from mmpvt.engine.config_parts import iter_dicts
from mmpvt.errors import UserError

RATE = dict(float32=8e12, float16=24e12)  # assumed, FLOP/s; see docs/reproduce.md
SHORT = 800  # pixels of an image's short side that detectors' multiply-adds are counted at
PASSES = 3  # forward, and backward for the activations and for the weights
IMAGES = 117_266  # of train2017, with at least one object: the others are skipped
IMAGENET_IMAGES = 1_281_167  # to train on
BYTES = 16  # a parameter

# docs/performance.md: a training iteration of RetinaNet on v1 small, one image of 800x1216, peaks
# at 1.8 GB on a CPU, which computes much of it twice, and 5.1 GB by the published formula, which
# keeps all of it. A GPU is between the two.
MEASURED_GB = (1.8, 5.1)
MEASURED_PARAMETERS, MEASURED_MACS = 34.22e6, 285.7e9 * 800 * 1216 / (1280 * 800)
KEPT = tuple((gb * 1e9 - BYTES * MEASURED_PARAMETERS) / MEASURED_MACS for gb in MEASURED_GB)

START = "<!-- written by tools/make_model_zoo.py -->\n"
END = "<!-- end -->\n"


@dataclass(frozen=True)
class Cost:
    """What a run takes.

    Attributes:
        gpus: of the published run.
        batch: images a GPU.
        images: that are trained on, one counted as often as it is.
        flop: floating-point operations of all of them.
        hours: on that many GPUs.
        gigabytes: of a GPU's memory, at least and at most.
    """

    gpus: int
    batch: int
    images: int
    flop: float
    hours: float
    gigabytes: tuple[float, float]


def estimate(entry: Entry) -> Cost:
    """What a published experiment takes.

    Args:
        entry (Entry): of the model zoo.

    Returns:
        Cost: estimated, as the module says.
    """
    config = entry.config
    batch = config.train_dataloader.batch_size
    total = config.auto_scale_lr.base_batch_size
    loop = config.train_cfg
    per_epoch = IMAGENET_IMAGES if config.default_scope == "mmpretrain" else IMAGES
    images = total * loop.max_iters if "max_iters" in loop else per_epoch * loop.max_epochs
    macs = entry.macs * _area(entry)
    flop = images * 2 * macs * PASSES
    gpus = total // batch
    rate = RATE["float16" if config.optim_wrapper.get("type") == "AmpOptimWrapper" else "float32"]
    largest = entry.macs * max(_areas(entry))
    gigabytes = [(BYTES * entry.parameters + batch * largest * kept) / 1e9 for kept in KEPT]
    return Cost(gpus, batch, images, flop, flop / gpus / rate / 3600, tuple(gigabytes))


def _area(entry: Entry) -> float:
    areas = _areas(entry)
    return sum(areas) / len(areas)


def _areas(entry: Entry) -> list[float]:
    """Areas that images are resized to, over the one that multiply-adds are counted at."""
    if entry.config.default_scope in ("mmseg", "mmpretrain"):
        return [1.0]  # crops of that very size
    scales = []
    for step in iter_dicts(entry.config.train_dataloader.dataset.pipeline):
        if step.get("type") == "Resize":
            scales = [step["scale"]]
        elif step.get("type") == "RandomChoiceResize":
            scales = step["scales"]  # the last one in the pipeline decides
    return [(min(scale) / SHORT) ** 2 for scale in scales]


def markdown(zoo: Sequence[Entry]) -> str:
    """The table of ``docs/reproduce.md``.

    Args:
        zoo (Sequence[Entry]): the model zoo.

    Returns:
        str: a row for each published experiment.
    """
    head = ["config", "GPUs x images", "length", "PFLOP", "hours", "GPU hours", "GB a GPU"]
    rows = []
    for entry in zoo:
        if not entry.published:
            continue
        cost, loop = estimate(entry), entry.config.train_cfg
        epochs = "max_epochs" in loop
        length = f"{loop.max_epochs} epochs" if epochs else f"{loop.max_iters:,} iterations"
        low, high = cost.gigabytes
        rows.append(
            [
                link(entry),
                f"{cost.gpus} x {cost.batch}",
                length,
                f"{cost.flop / 1e15:,.0f}",
                f"{cost.hours:.1f}",
                f"{cost.hours * cost.gpus:.0f}",
                f"{low:.0f} to {high:.0f}",
            ]
        )
    return table(head, rows)


def insert(page: str, content: str) -> str:
    """A page with other content between the marks that this is written between.

    Args:
        page (str): with both marks.
        content (str): to put there.

    Returns:
        str: the page.

    Raises:
        UserError: a mark is missing.
    """
    if START not in page or END not in page:
        raise UserError(f"docs/reproduce.md lacks the lines {START.strip()} and {END.strip()}")
    before, rest = page.split(START, 1)
    return before + START + content + END + rest.split(END, 1)[1]
