"""The beginning of a file that is on its way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mmpvt.errors import UserError
from mmpvt.utils.atomic import atomic_write


@dataclass
class Part:
    """What has come of a file, and of which file it is the beginning.

    Attributes:
        path: ``NAME.part``; beside it lies what else is known, in ``NAME.part.json``.
        validator: what tells the file from a later one of its name.
        total: bytes of the whole.
        pieces: answers that it was put together from.
    """

    path: Path
    validator: str | None = None
    total: int | None = None
    pieces: int = 0

    @classmethod
    def found(cls, path: Path) -> Part:
        """What an earlier process has left."""
        with suppress(OSError, ValueError, TypeError):
            return cls(path, **json.loads(cls(path).note.read_text()))
        return cls(path, pieces=1)

    @property
    def note(self) -> Path:
        """The file that says what it is the beginning of."""
        return self.path.with_name(self.path.name + ".json")

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return self.path.stat().st_size if self.path.exists() else 0

    def begin(self, validator: str | None, total: int | None) -> None:
        """Starts anew, with another file's beginning."""
        self.discard()
        self.validator, self.total, self.pieces = validator, total, 0

    def keep(self) -> None:
        """Writes down what it is the beginning of."""
        facts = dict(validator=self.validator, total=self.total, pieces=self.pieces)
        with on_disk(self.note):
            atomic_write(self.note, json.dumps(facts).encode())

    def discard(self) -> None:
        """Removes it."""
        for path in (self.path, self.note):
            with on_disk(path):
                path.unlink(missing_ok=True)


@contextmanager
def on_disk(path: Path) -> Iterator[None]:
    """Says of an error within that it is the disk's, not the network's.

    Args:
        path (Path): what is written.

    Raises:
        UserError: it can't be.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} can't be written ({error.strerror or error}): what has come is kept, and the "
            "same command goes on from there"
        ) from error
