"""Finding checkpoints, and the config of each by the names of files alone."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmpvt.engine.config import read_config
from mmpvt.errors import CheckpointError, ConfigError

FILE_SUFFIXES = (".pth", ".pt", ".safetensors")
SYNONYMS = {  # other projects' words: ours
    "tiny": ["t"],
    "small": ["s"],
    "medium": ["m"],
    "large": ["l"],
    "linear": ["li"],
    "pvtv2": ["pvt", "v2"],
    "maskrcnn": ["mask", "rcnn"],
    "semfpn": ["fpn"],
}
# what follows a config's name: the training's length, a date and time, a digest
SUFFIX_WORDS = re.compile(
    r"(?:(?:best|epoch|iter|latest|last|final|published|ema|ckpt|checkpoint|model|weights)|"
    r"(?:epoch|iter|ep|e)\d+|(?<=epoch )\d+|(?<=iter )\d+|"
    r"20\d{6}|(?<=20\d{6} )\d{4,6}|[0-9a-f]{8,64})(?: |$)"
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file and the config it is of.

    Attributes:
        name: path in the folder of checkpoints, without ``.pth``.
        path: the file.
        config: path of the config, ``mmdet::…`` included; None where no name fits.
        near: names of configs that might be its, where that is unclear.
    """

    name: str
    path: Path
    config: str | None = None
    near: tuple[str, ...] = ()


def read_published(root: Path) -> dict[str, tuple[Path, dict]]:
    """The configs of a checkout, and what the papers report of each.

    Args:
        root (Path): the folder of ``configs`` and ``docs``.

    Returns:
        dict[str, tuple[Path, dict]]: by a config's name, its path and its record of
        ``docs/published_results.json``, empty for a config of this project's own. The published
        ones come first, in the order of their records.

    Raises:
        ConfigError: there are no records, or one is of a config that isn't there.
    """
    file = root / "docs" / "published_results.json"
    if not file.is_file():
        raise ConfigError(f"no published results at {file}: there is no such file", where=file)
    published = {record["config"]: record for record in json.loads(file.read_text())}
    paths = {path.stem: path for path in sorted((root / "configs").glob("*.py"))}
    if missing := [name for name in published if name not in paths]:
        raise ConfigError(
            f"{file} has results of configs that {root}/configs lacks: {missing}", where=file
        )
    names = [*published, *(name for name in paths if name not in published)]
    return {name: (paths[name], published.get(name, {})) for name in names}


def find_checkpoints(
    folder: Path, configs: Mapping[str, Path], mapped: Mapping[str, str]
) -> list[Checkpoint]:
    """The checkpoints under a folder, in alphabetical order, each with its config.

    A file whose own name says nothing (``epoch_12.pth``) goes by its folder's name.

    Args:
        folder (Path): searched with all folders in it.
        configs (Mapping[str, Path]): configs by name.
        mapped (Mapping[str, str]): configs by a checkpoint's name, which come first: its path in
            ``folder`` or the file's name, with or without suffix.

    Returns:
        list[Checkpoint]: one a file.

    Raises:
        CheckpointError: there is no such folder, or no checkpoint in it.
        ConfigError: a name in ``mapped`` is no checkpoint's, or a config there can't be read.
    """
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder {folder}", setting="checkpoints")
    paths = sorted(
        path for path in folder.rglob("*") if path.suffix in FILE_SUFFIXES and path.is_file()
    )
    if not paths:
        suffixes = ", ".join(FILE_SUFFIXES)
        raise CheckpointError(f"no file under {folder} ends in {suffixes}", setting="checkpoints")
    for config in mapped.values():
        read_config(config)
    used, found = set(), []
    for path in paths:
        inside = path.relative_to(folder)
        names = {inside.as_posix(), inside.with_suffix("").as_posix(), path.name, path.stem}
        asked = sorted(names & mapped.keys(), key=len)
        used.update(asked)
        name = inside.as_posix().removesuffix(".pth")
        fitting = match(path.stem, configs) or match(path.parent.name, configs, path.stem)
        if asked or len(fitting) == 1:
            config = mapped[asked[-1]] if asked else str(configs[fitting[0]])
            found.append(Checkpoint(name, path, config))
        else:
            near = fitting or difflib.get_close_matches(path.stem, configs, n=2)
            found.append(Checkpoint(name, path, near=tuple(near)))
    if unknown := sorted(mapped.keys() - used):
        called = ", ".join(unknown)
        raise ConfigError(f"no checkpoint under {folder} is called {called}", setting="map")
    return found


def match(name: str, configs: Iterable[str], suffix: str = "") -> list[str]:
    """The longest of the configs' names that ``name`` begins with; none where more than suffixes
    such as ``epoch_12`` follows, there or in ``suffix``; several where it is unclear."""
    words = _words(f"{name} {suffix}")
    best: dict[int, list[str]] = {}
    for config in configs:
        own = _words(config)
        if words[: len(own)] == own and _are_suffixes(words[len(own) :]):
            best.setdefault(len(own), []).append(config)
    return best[max(best)] if best else []


def parse_map(pairs: Sequence[str]) -> dict[str, str]:
    """Configs by checkpoint's name, of ``NAME=CONFIG`` pairs.

    Raises:
        ConfigError: one is no such pair.
    """
    mapped = {}
    for pair in pairs:
        name, _, config = pair.partition("=")
        if not name or not config:
            raise ConfigError(f"{pair} is not NAME=CONFIG", setting="map")
        mapped[name] = config
    return mapped


def _words(name: str) -> list[str]:
    words = re.split(r"[\W_]+", name.lower())
    return [part for word in words if word for part in SYNONYMS.get(word, [word])]


def _are_suffixes(words: Sequence[str]) -> bool:
    text, end = " ".join(words), 0
    while end < len(text) and (found := SUFFIX_WORDS.match(text, end)):
        end = found.end()
    return end == len(text)
