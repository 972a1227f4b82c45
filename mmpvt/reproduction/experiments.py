"""The experiments that the papers publish: their configs and what is reported of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from mmpvt.errors import ConfigError


@dataclass(frozen=True)
class Experiment:
    """A config of this project.

    Attributes:
        path: of the config.
        published: what the papers report of it, a record of ``docs/published_results.json``;
            empty for a config of this project's own.
    """

    path: Path
    published: dict

    @property
    def name(self) -> str:
        """Of the config's file, without its suffix."""
        return self.path.stem


def read_experiments(root: Path) -> list[Experiment]:
    """The configs of a checkout: the published ones in the order of their records, then others.

    Args:
        root (Path): the folder of ``configs`` and ``docs``.

    Returns:
        list[Experiment]: one a config.

    Raises:
        ConfigError: there are no records, or one is of a config that isn't there.
    """
    file = root / "docs" / "published_results.json"
    if not file.is_file():
        raise ConfigError(f"no published results at {file}: there is no such file")
    published = {record["config"]: record for record in json.loads(file.read_text())}
    paths = {path.stem: path for path in sorted((root / "configs").glob("*.py"))}
    if missing := [name for name in published if name not in paths]:
        raise ConfigError(f"{file} has results of configs that {root}/configs lacks: {missing}")
    names = [*published, *(name for name in paths if name not in published)]
    return [Experiment(paths[name], published.get(name, {})) for name in names]
