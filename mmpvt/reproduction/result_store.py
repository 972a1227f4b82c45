"""The results of tested checkpoints, each in a file with a digest of what it was tested on."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np
from mmengine.config import Config

from mmpvt.engine.config_parts import iter_datasets
from mmpvt.utils.files import (
    MAX_ANNOTATIONS,
    MAX_BYTES,
    check_regular,
    file_sha256,
    parse_json,
    read_bytes,
)
from mmpvt.utils.outputs import Outputs, fitting
from mmpvt.utils.text import to_json as to_safe_json

TESTED, FAILED, SKIPPED = "tested", "failed", "skipped"
FOLDER = "models"  # in the report's
MAX_CHECKPOINT = 2**40  # bytes
FORMAT = 2  # of the records: with another one a checkpoint is tested again


class _GalleryEntry(msgspec.Struct):
    jpeg: str


class _TestedRecord(msgspec.Struct):  # what a report takes from it
    name: str
    key: str
    status: str
    scores: dict[str, float]
    parameters: float
    gflops: float | None
    images_per_second: float | None
    memory: dict[str, float | str]
    versions: dict[str, str]
    gallery: list[_GalleryEntry] = []


class ResultStore:
    """The records of a report, in its folder."""

    def __init__(self, out: Outputs) -> None:
        self.out = out

    def get(self, name: str, key: str) -> dict | None:
        """The record of a tested checkpoint; None if there is none with this digest as ``key``."""
        try:
            record: Any = parse_json(read_bytes(self.out.folder / self._file(name)))
            found = msgspec.convert(record, _TestedRecord)
        except (OSError, ValueError, msgspec.ValidationError):
            return None
        return record if (found.status, found.key) == (TESTED, key) else None

    def put(self, record: dict) -> None:
        """Writes a record."""
        self.out.write(self._file(record["name"]), to_json(record))

    def _file(self, name: str) -> str:
        return f"{FOLDER}/{file_name(name)}.json"


def file_name(name: str) -> str:
    """A checkpoint's name as that of one file or folder."""
    return fitting(quote(os.fsencode(name), safe=" "))


def to_json(content: object) -> bytes:
    """JSON that browsers read: NaN and Inf become null."""
    return to_safe_json(_finite(content), allow_nan=False)


def _finite(content: object) -> object:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if isinstance(content, np.ndarray):
        return _finite(content.tolist())
    if isinstance(content, np.generic):
        content = content.item()
    if isinstance(content, float) and not np.isfinite(content):
        return None
    return content


def digest_of_test(checkpoint: Path, config: Config, known: dict[str, str]) -> str:
    """A digest that differs where a test's result might.

    What counts is the checkpoint's content, the config but for its data's folder, the content of
    annotations and label maps, and the names and sizes of images.

    Args:
        checkpoint (Path): the file.
        config (Config): of the test.
        known (dict[str, str]): digests of data that were read before; added to.
    """
    settings = config.to_dict()
    settings.pop("work_dir", None)
    data = [_digest_data(d, known) for d in iter_datasets(config.test_dataloader.dataset)]
    parts = [FORMAT, _digest_file(checkpoint, MAX_CHECKPOINT), _without_roots(settings), data]
    text = json.dumps(parts, sort_keys=True, default=_type_name)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest_data(dataset: dict, known: dict[str, str]) -> str:
    root = Path(dataset.get("data_root") or "")
    ann_file = dataset.get("ann_file")
    prefix = dataset.get("data_prefix") or {}
    place = repr((root, ann_file, prefix))
    if place not in known:
        listing = [[_digest_file(root / ann_file, MAX_ANNOTATIONS)]] if ann_file else []
        for kind, folder in sorted(prefix.items()):
            files = (p for p in sorted((root / folder).rglob("*")) if p.is_file())
            if "seg" in kind:
                listing += [[path.name, _digest_file(path, MAX_BYTES)] for path in files]
            else:
                listing += [[path.name, path.stat().st_size] for path in files]
        known[place] = hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    return known[place]


def _digest_file(path: Path, max_bytes: int) -> str:
    check_regular(path, max_bytes)
    return file_sha256(path)


def _type_name(value: object) -> str:
    return getattr(value, "__qualname__", type(value).__qualname__)


def _without_roots(part: object) -> object:
    """A part of a config, without the folders of its data."""
    if isinstance(part, dict):
        return {
            key: Path(value).name if value and key == "ann_file" else _without_roots(value)
            for key, value in part.items()
            if key != "data_root"
        }
    if isinstance(part, list | tuple):
        return [_without_roots(value) for value in part]
    return part
