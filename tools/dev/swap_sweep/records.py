"""The result of each config, kept line by line so that a sweep can resume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

OK, REFUSED, FAILED, SKIPPED, UNREADABLE = "ok", "refused", "failed", "skipped", "unreadable"


@dataclass(frozen=True)
class Record:
    """The result of one config.

    Attributes:
        name: of the config.
        family: that it belongs to.
        verdict: ``ok``; ``refused`` by the swap; ``failed``; ``skipped`` for its backbone;
            ``unreadable`` as it stands, without a swap.
        reason: of a refusal or failure, one line.
        model: digest of the model that ran; those of equal digest ran once.
        seconds: that it took.
    """

    name: str
    family: str
    verdict: str
    reason: str = ""
    model: str = ""
    seconds: float = 0.0

    @property
    def was_run(self) -> bool:
        """Whether a model was built."""
        return self.verdict in (OK, FAILED)


class Records:
    """The records of a sweep, in a file of JSON lines.

    Args:
        path (Path): the file; made, with its folder, if it isn't there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.exists() else []
        self._by_name = {record.name: record for record in map(_parse, lines) if record}

    def __iter__(self) -> Iterator[Record]:
        return iter(self._by_name.values())

    def get(self, name: str) -> Record | None:
        """The record of a config, if there is one."""
        return self._by_name.get(name)

    def add(self, record: Record) -> None:
        """Adds a record, on disk too."""
        self._by_name[record.name] = record
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(record)) + "\n")

    def of_model(self, digest: str) -> Record | None:
        """The record of a config whose model was the same."""
        return next((record for record in self if record.model == digest), None)


def _parse(line: str) -> Record | None:
    try:
        return Record(**json.loads(line))
    except (ValueError, TypeError):  # the truncated last line of a killed sweep
        return None
