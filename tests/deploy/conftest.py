"""Files that small models are exported to, each once a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from mmengine.config import Config
from torch import nn

from mmpvt.deploy import write
from small_models import build


@dataclass
class Exported:
    """A model, its config and the file that it was exported to."""

    model: nn.Module
    config: Config
    path: Path


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    """Exports a kind of model, the same one only once."""
    folder = tmp_path_factory.mktemp("exported")
    made: dict[tuple, Exported] = {}

    def get(kind: str, version: str, shape: tuple[int, int] | None = None, **options) -> Exported:
        key = (kind, version, shape, *options)
        if key not in made:
            model, config = build(kind, version)
            path = folder / f"{len(made)}.onnx"
            write(model, config, path, shape, **options)
            made[key] = Exported(model, config, path)
        return made[key]

    return get
