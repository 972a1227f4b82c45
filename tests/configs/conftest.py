"""The configs, and a data set for any of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dev.model_zoo import Entry, read_zoo
from helpers import ROOT
from mmpvt.datasets.shapes import generate


@pytest.fixture(scope="session")
def zoo() -> dict[str, Entry]:
    """Every config, by name; each is parsed and counted once."""
    return {entry.name: entry for entry in read_zoo(ROOT)}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training and one validation picture, in COCO's and in ADE20K's layout."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    return generate(root, num_train=2, num_val=1, size=(128, 160), progress=False)
