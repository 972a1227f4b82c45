"""The configs that come with the package, by name, and what the papers report of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from mmpvt.compat import get_installed_path
from mmpvt.errors import ConfigError

SCORES = ("box AP", "mask AP", "mIoU", "Top 1 Accuracy")


@dataclass(frozen=True)
class ZooEntry:
    """A config that comes with the package.

    Attributes:
        name: of the config, without its ending.
        dataset: that the figures are on, empty where there are none.
        scores: what the papers report, in percent, by name: ``box AP``, ``mask AP``, ``mIoU``,
            ``Top 1 Accuracy``.
        parameters: of the whole model; None for a config of this project's own.
        macs: multiply-adds for one image, counted once; None likewise.
        weights: URL of a published checkpoint of the whole model, or None.
    """

    name: str
    dataset: str = ""
    scores: dict[str, float] | None = None
    parameters: int | None = None
    macs: int | None = None
    weights: str | None = None


def config_folder(package: str) -> Path | None:
    """The folder of an installed package's configs."""
    try:
        path = Path(get_installed_path(package))
    except ModuleNotFoundError:
        return None
    inside = path / ".mim" / "configs"
    return inside if inside.is_dir() else path.parent / "configs"


def files_folder() -> Path:
    """The folder of this package's ``configs``, ``tools`` and ``model-index.yml``.

    Raises:
        ConfigError: there is none: the package was copied without them.
    """
    folder = config_folder("mmpvt")
    if folder is None or not folder.is_dir():
        raise ConfigError(
            "mmpvt's configs aren't there", hint="install its wheel, or run it in its checkout"
        )
    return folder.parent


def find_config(name: str) -> Path | None:
    """The file of one of the package's configs, by its short name; None if there is none."""
    folder = config_folder("mmpvt")
    file = folder / f"{name}.py" if folder else None
    is_name = "/" not in name and "\\" not in name
    return file if is_name and file is not None and file.is_file() else None


def read_zoo() -> list[ZooEntry]:
    """The configs that come with the package: the published ones first.

    Raises:
        ConfigError: they, or ``model-index.yml``, aren't there.
    """
    root = files_folder()
    index = root / "model-index.yml"
    if not index.is_file():
        raise ConfigError(f"no index of models at {index}: there is no such file", where=index)
    content = yaml.safe_load(index.read_text(encoding="utf-8"))
    entries = {}
    for model in content["Models"]:
        results = model.get("Results") or []
        scores = {key: value for one in results for key, value in one["Metrics"].items()}
        entries[model["Name"]] = ZooEntry(
            model["Name"],
            results[0]["Dataset"] if results else "",
            {key: value for key, value in scores.items() if key in SCORES},
            model["Metadata"]["Parameters"],
            model["Metadata"]["FLOPs"],
            model.get("Weights"),
        )
    others = (path.stem for path in sorted((root / "configs").glob("*.py")))
    return [*entries.values(), *(ZooEntry(name) for name in others if name not in entries)]
