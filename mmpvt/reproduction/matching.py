"""Which config a checkpoint is of, told by the names of files and by nothing else."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmpvt.engine.config import read_config
from mmpvt.errors import UserError

SUFFIXES = (".pth", ".pt", ".safetensors")
SYNONYMS = {  # of a name's words, other projects' on the left
    "tiny": ["t"],
    "small": ["s"],
    "medium": ["m"],
    "large": ["l"],
    "linear": ["li"],
    "pvtv2": ["pvt", "v2"],
    "maskrcnn": ["mask", "rcnn"],
    "semfpn": ["fpn"],
}
# What is put behind a config's name: the training's length, a date and time, a digest.
MARKS = re.compile(
    r"(?:(?:best|epoch|iter|latest|last|final|published|ema|ckpt|checkpoint|model|weights)|"
    r"(?:epoch|iter|ep|e)\d+|(?<=epoch )\d+|(?<=iter )\d+|"
    r"20\d{6}|(?<=20\d{6} )\d{4,6}|[0-9a-f]{8,64})(?: |$)"
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint file and the config it is of.

    Attributes:
        name: path within the folder of checkpoints, without ``.pth``.
        path: of the file.
        config: path of the config, ``mmdet::…`` included; None where the name tells of none.
        near: names of configs that it might be of, where it is unclear.
    """

    name: str
    path: Path
    config: str | None = None
    near: tuple[str, ...] = ()


def find_checkpoints(
    folder: Path, configs: Mapping[str, Path], mapped: Mapping[str, str]
) -> list[Checkpoint]:
    """The checkpoints under a folder, in alphabetical order, each with its config.

    A file whose own name says nothing (``epoch_12.pth``) goes by its folder's name.

    Args:
        folder (Path): searched with all folders in it.
        configs (Mapping[str, Path]): configs by name.
        mapped (Mapping[str, str]): configs by a checkpoint's name: its path within ``folder`` or
            the file's name, with or without ending; these come before ``configs``.

    Returns:
        list[Checkpoint]: one a file.

    Raises:
        UserError: there is no such folder or no checkpoint in it; a name in ``mapped`` is no
            checkpoint's, or a config there can't be read.
    """
    if not folder.is_dir():
        raise UserError(f"--checkpoints: there is no folder {folder}")
    paths = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    if not paths:
        raise UserError(f"--checkpoints: no file under {folder} ends in {', '.join(SUFFIXES)}")
    for config in mapped.values():
        read_config(config)
    used, found = set(), []
    for path in paths:
        inside = path.relative_to(folder)
        names = {inside.as_posix(), inside.with_suffix("").as_posix(), path.name, path.stem}
        asked = sorted(names & mapped.keys(), key=len)
        used.update(asked)
        name = inside.as_posix().removesuffix(".pth")
        if asked:
            found.append(Checkpoint(name, path, mapped[asked[-1]]))
        else:
            fitting = match(path.stem, configs) or match(path.parent.name, configs, path.stem)
            if len(fitting) == 1:
                found.append(Checkpoint(name, path, str(configs[fitting[0]])))
            else:
                near = fitting or difflib.get_close_matches(path.stem, configs, n=2)
                found.append(Checkpoint(name, path, near=tuple(near)))
    if unknown := sorted(mapped.keys() - used):
        raise UserError(f"--map: no checkpoint under {folder} is called {', '.join(unknown)}")
    return found


def match(name: str, configs: Iterable[str], behind: str = "") -> list[str]:
    """The configs that a name is of.

    Args:
        name (str): ``'retinanet_pvt-s_fpn_1x_coco_20210906_142921-b6c94a5b'``, say.
        configs (Iterable[str]): their names.
        behind (str): what else was said of the file; like what follows a config's name in
            ``name`` it may be a mark such as ``epoch_12`` and nothing else. Default: ``''``.

    Returns:
        list[str]: one; none; several, where it is unclear.
    """
    words = _words(f"{name} {behind}")
    best: dict[int, list[str]] = {}
    for config in configs:
        own = _words(config)
        if words[: len(own)] == own and _are_marks(words[len(own) :]):
            best.setdefault(len(own), []).append(config)
    return best[max(best)] if best else []


def parse_map(pairs: Sequence[str]) -> dict[str, str]:
    """``--map``'s ``NAME=CONFIG`` pairs.

    Raises:
        UserError: there is no ``=``, or nothing on one side of it.
    """
    mapped = {}
    for pair in pairs:
        name, _, config = pair.partition("=")
        if not name or not config:
            raise UserError(f"--map takes NAME=CONFIG, not {pair}")
        mapped[name] = config
    return mapped


def _words(name: str) -> list[str]:
    words = re.split(r"[\W_]+", name.lower())
    return [part for word in words if word for part in SYNONYMS.get(word, [word])]


def _are_marks(words: Sequence[str]) -> bool:
    text = " ".join(words)
    place = 0
    while place < len(text):
        found = MARKS.match(text, place)
        if found is None:
            return False
        place = found.end()
    return True
