"""Fixtures that the tests share: the reference facts, the real data, the golden weights."""

from __future__ import annotations

import functools
import gc
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import mmengine.config.utils
import numpy as np
import pytest
import torch

import mmpvt  # noqa: F401  makes the stack run
from helpers import SHARED, forget_runs, need

torch.set_num_threads(1)  # the tests' tensors are small, and other processes may want the cores


@pytest.fixture(autouse=True)
def _no_run_left_over() -> Iterator[None]:
    """What a runner within this process leaves (a default scope, a logger) would be the next's."""
    yield
    forget_runs()


@pytest.fixture(scope="session", autouse=True)
def _cheap_runs() -> Iterator[None]:
    """Three quarters of a tiny run are full garbage collections and MMDetection's 300 YAML files.

    MMEngine collects for every data set, and we before every checkpoint: now without what the
    imports have left. It reads the YAML files for every ``mmdet::`` base: now once.
    """
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        load = functools.cache(mmengine.config.utils.load)
        patch.setattr(mmengine.config.utils, "load", load)
        yield


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of published facts and golden arrays."""
    return need(SHARED / "reference")


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """Real COCO images with their true annotations."""
    return need(SHARED / "data" / "coco_mini")


@pytest.fixture(scope="session")
def official_shapes(reference: Path) -> dict[str, dict[str, list[int]]]:
    """Names and shapes of the tensors in the published ImageNet checkpoints."""
    return json.loads((reference / "official_state_dicts.json").read_text())


@pytest.fixture(scope="session")
def recipe(reference: Path):
    """The module that says how the golden arrays' weights and images were drawn."""
    spec = importlib.util.spec_from_file_location("recipe", reference / "golden" / "recipe.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def published_weights(official_shapes: dict, recipe):
    """name -> the state dict of a published checkpoint, with the golden arrays' weights."""

    def draw(name: str) -> dict[str, torch.Tensor]:
        return {
            key: torch.from_numpy(np.asarray(recipe.weight(key, shape)))
            for key, shape in official_shapes[name].items()
        }

    return draw
