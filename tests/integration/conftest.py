"""A tiny data set, a tiny config, and the tools run as a user would."""

from __future__ import annotations

import gc
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from helpers import ROOT, Ended, Started, forget_runs, save_untrained
from mmpvt.datasets.shapes import generate
from mmpvt.utils.signals import stop_signals

TINY = """
_base_ = "{base}"
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True,
            embed_dims=(8, 16, 20, 32),
            depths=(1, 1, 1, 1),
            mlp_ratios=(2, 2, 2, 2),
        )
    ),
    neck=dict(in_channels=[8, 16, 20, 32], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1),
    test_cfg=dict(score_thr=0.0),
)
_base_.train_pipeline[2].scale = (64, 64)
_base_.test_pipeline[1].scale = (64, 64)
train_dataloader = dict(batch_size=2, dataset=dict(pipeline=_base_.train_pipeline))
val_dataloader = dict(batch_size=2, dataset=dict(pipeline=_base_.test_pipeline))
test_dataloader = val_dataloader
train_cfg = dict(max_epochs=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(max_keep_ckpts=-1))
"""

TINY_SEGMENTER = """
_base_ = "{base}"
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=(8, 16, 20, 32), depths=(1, 1, 1, 1))
    ),
    neck=dict(in_channels=[8, 16, 20, 32], out_channels=16),
    decode_head=dict(in_channels=[16, 16, 16, 16], channels=16),
)
train_dataloader = dict(batch_size=2, num_workers=1)
val_dataloader = dict(num_workers=1)
test_dataloader = dict(num_workers=1)
train_cfg = dict(max_iters=4, val_interval=4)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=4))
"""


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training and four validation pictures of 64 pixels."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    return generate(root, num_train=8, num_val=4, size=64, progress=False)


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's config, made smaller still."""
    path = tmp_path_factory.mktemp("configs") / "tiny.py"
    path.write_text(TINY.format(base=ROOT / "configs/retinanet_pvt_v2_b0_fpn_shapes.py"))
    return path


@pytest.fixture(scope="session")
def tiny_segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter's config on the shapes, made as small."""
    path = tmp_path_factory.mktemp("configs") / "segmenter.py"
    path.write_text(TINY_SEGMENTER.format(base=ROOT / "configs" / "fpn_pvt_v2_b0_shapes.py"))
    return path


@pytest.fixture(scope="session")
def untrained_segmenter(
    tmp_path_factory: pytest.TempPathFactory, tiny_segmenter: Path
) -> tuple[Path, Path]:
    """The segmenter's config, and a checkpoint of drawn weights."""
    folder = tmp_path_factory.mktemp("untrained")
    return tiny_segmenter, save_untrained(tiny_segmenter, folder / "segmenter.pth")


@pytest.fixture(scope="session")
def run_tool(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Ended]:
    """Runs a tool as a process of its own: a copy of this one, or ``fresh``, with its imports."""

    def run(tool: str, *args: object, timeout: float = 240, fresh: bool = False) -> Ended:
        out, err = (tmp_path_factory.mktemp("ran") / name for name in ("out", "err"))
        process = Started(tool, args, out, {}, copied=not fresh, errors=err)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        return Ended(code, out.read_text(), err.read_text())

    return run


@pytest.fixture
def call_tool(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ended]:
    """Runs a tool within this process, which saves its imports."""

    handlers = {number: signal.getsignal(number) for number in stop_signals()}

    def call(tool: str, *args: object) -> Ended:
        monkeypatch.setattr(sys, "argv", [tool, *map(str, args)])
        capsys.readouterr()
        forget_runs()
        code = 0
        try:
            runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        finally:
            end_workers()
            for number, handler in handlers.items():
                signal.signal(number, handler)
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return call


def end_workers() -> None:
    """Ends the loading workers of runs within this process.

    The garbage collector would, too, but the queues' ends close before it tells the workers, which
    it then gives five seconds.
    """
    for thing in gc.get_objects():
        if type(thing) is _MultiProcessingDataLoaderIter:
            thing._shutdown_workers()
    gc.collect()


@pytest.fixture
def start_tool(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """Starts a tool in a copy of this process, which saves its imports, to do harm to it."""
    started: list[Started] = []

    def start(tool: str, *args: object, copied: bool = True, **variables: str) -> Started:
        output = tmp_path / f"out_{len(started)}"
        started.append(Started(tool, args, output, variables, copied))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, shapes: Path, tiny_config: Path, run_tool
) -> Path:
    """The work directory of a finished run."""
    work_dir = tmp_path_factory.mktemp("work") / "trained"
    ended = run_tool(
        "train.py", tiny_config, "--data-root", shapes, "--work-dir", work_dir, "--seed", 0
    )
    assert ended.code == 0, ended.out + ended.err
    return work_dir
