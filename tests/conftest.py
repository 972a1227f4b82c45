"""Fixtures that the tests share: reference data, real photographs, golden weights."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import mmengine.config.config
import mmengine.config.utils
import pytest
import torch
from yapf.yapflib import yapf_api

import mmpvt
from helpers import DATA, LEAN, SHARED, forget_runs, golden_weight, need

os.environ["PYTHONPATH"] = str(LEAN)
mmpvt.setup_environment()
torch.set_num_threads(1)  # the tests' tensors are small, and other processes may want the cores


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """A process for each file, but one for two that export the same models: that takes a minute."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return super()._split_scope(nodeid).replace("test_precision", "test_exporting")

    return ByFile(config, log)


@pytest.fixture(autouse=True)
def _no_run_left_over() -> Iterator[None]:
    """What a runner within this process leaves (a default scope, a logger) would be the next's."""
    yield
    forget_runs()
    freeze_imports()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Chromium, for the tests of pages."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright drives the browser")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("there is no Chromium on this machine")
    with api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session", autouse=True)
def _cheap_runs() -> Iterator[None]:
    """Three quarters of a tiny run are full garbage collections and MMDetection's 300 YAML files.

    MMEngine collects for every data set, and we before every checkpoint: now without what imports
    have left. It reads the YAML files for every ``mmdet::`` base: now once.
    """
    freeze_imports()
    with pytest.MonkeyPatch.context() as patch:
        load = functools.cache(mmengine.config.utils.load)
        patch.setattr(mmengine.config.utils, "load", load)
        yield


_frozen_modules = 0


def freeze_imports() -> None:
    """Has the garbage collector leave alone what is alive, where many modules were imported since.

    A full collection of all that a detector's imports leave takes 0.2 s, without it 0.01.
    """
    global _frozen_modules
    if len(sys.modules) > _frozen_modules + 100:
        gc.collect()
        gc.freeze()
        _frozen_modules = len(sys.modules)


@pytest.fixture(scope="session", autouse=True)
def configs_are_not_formatted() -> Iterator[None]:
    """MMEngine formats a config's text four times a run, which takes longer than a tiny test.

    Text that isn't ASCII is formatted, once: odd names are to get through it.
    """
    format_code, known = yapf_api.FormatCode, {}

    def remember(text: str, **options: object) -> tuple:
        if text not in known:
            with contextlib.suppress(SyntaxError):
                compile(text, "config", "exec")
                known[text] = text, False
            if text not in known or not text.isascii():
                known[text] = format_code(text, **options)
        return known[text]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yapf_api, "FormatCode", remember)  # where OneDL's fork looks it up
        patch.setattr(mmengine.config.config, "FormatCode", remember, raising=False)
        yield


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of golden arrays and of published tensor names (its README says whence)."""
    return DATA


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """Real COCO images with their true annotations."""
    return need(SHARED / "data" / "coco_mini")


@pytest.fixture(scope="session")
def official_shapes(reference: Path) -> dict[str, dict[str, list[int]]]:
    """Names and shapes of the tensors in the published ImageNet checkpoints."""
    return json.loads((reference / "official_state_dicts.json").read_text())


@pytest.fixture(scope="session")
def published_weights(official_shapes: dict):
    """name -> the state dict of a published checkpoint, with the golden arrays' weights."""

    def generate(name: str) -> dict[str, torch.Tensor]:
        shapes = official_shapes[name].items()
        return {key: torch.from_numpy(golden_weight(key, shape)) for key, shape in shapes}

    return generate
