"""Files that small models are exported to, each once a session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from mmengine.config import Config
from torch import nn

from mmpvt.deploy import write
from mmpvt.deploy.verification import predict
from small_models import build, picture


@dataclass
class Exported:
    """A model, its config and the file that it was exported to.

    ``before`` and ``after`` the export are what the model predicts, and its modules' attributes,
    some of them in training mode.
    """

    model: nn.Module
    config: Config
    path: Path
    before: tuple[dict, dict]
    after: tuple[dict, dict]


def attributes(model: nn.Module) -> dict[str, dict[str, str]]:
    """Each module's attributes; functions and modules by their addresses."""
    return {
        name: {key: repr(value) for key, value in vars(part).items() if key != "_modules"}
        for name, part in model.named_modules()
    }


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    """Exports a kind of model, the same one only once."""
    folder = tmp_path_factory.mktemp("exported")
    made: dict[tuple, Exported] = {}

    def get(kind: str, version: str, shape: tuple[int, int] | None = None, **options) -> Exported:
        key = (kind, version, shape, *options.items())
        if key not in made:
            model, config = build(kind, version)
            path = folder / f"{len(made)}.onnx"
            image = picture(120, 160)
            found = predict(model, config, image)
            model.train()
            model.backbone.eval()  # modules of both modes
            before = found, attributes(model)
            write(model, config, path, shape, **options)
            after = predict(model, config, image), attributes(model)
            model.eval()
            made[key] = Exported(model, config, path, before, after)
        return made[key]

    return get
