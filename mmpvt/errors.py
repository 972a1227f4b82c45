"""The exceptions that a user's mistake or a signal raises."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import ClassVar

Setting = tuple[str, object]  # a name, and the value to give it; None asks for the name alone


def as_argument(name: str, value: object = None) -> str:
    """A setting as Python writes it: ``on_bad_data='skip'``."""
    return name if value is None else f"{name}={value!r}"


class UserError(ValueError):
    """A mistake of the user's: what is wrong, where, and what to do about it.

    The command lines print it as one sentence, with settings as their flags, and exit with code 2.
    From Python it is a ``ValueError`` that names them as arguments.

    Args:
        what (str): what is wrong, as a sentence without its full stop.
        where (str | PathLike | None): the file, URL or config key at fault. Default: None.
        hint (str | None): what to do about it. Default: None.
        setting (str | None): the name of the setting at fault. Default: None.
        instead (tuple[str, object] | None): a setting, and its value, that would avoid the error.
            Default: None.
    """

    name_setting: ClassVar[Callable[..., str]] = staticmethod(as_argument)  # or as a flag

    def __init__(
        self,
        what: str,
        *,
        where: str | os.PathLike | None = None,
        hint: str | None = None,
        setting: str | None = None,
        instead: Setting | None = None,
    ) -> None:
        # PyTorch raises a data-loading worker's error anew, with its traceback as the message
        what = what.rsplit(f"{type(self).__name__}: ", 1)[-1].strip()
        super().__init__(what)
        self.what, self.where, self.hint = what, where, hint
        self.setting, self.instead = setting, instead

    def __str__(self) -> str:
        """``setting: what: hint, or pass instead``."""
        ways = [self.hint] if self.hint else []
        if self.instead:
            ways.append(f"pass {self.name_setting(*self.instead)}")
        parts = (self.setting and self.name_setting(self.setting), self.what, ", or ".join(ways))
        return ": ".join(part for part in parts if part)


class SetupError(UserError, ImportError):
    """An environment that mmpvt can't run in: what is installed, and what isn't."""


class ConfigError(UserError):
    """A config, or an option for it, that can't be used."""


class DatasetError(UserError):
    """Annotations, class names or a data set's files that can't be used."""


class BadFileError(DatasetError):
    """An image or label map that can't be read; ``on_bad_data`` says whether it is skipped.

    Args:
        what (str): what is wrong, as a sentence.
        problem (Enum | None): which kind of problem it is, for reports that count them, a
            :class:`mmpvt.datasets.loading.FileProblem`. Default: None.
        **fields: of :class:`UserError`.
    """

    def __init__(self, what: str, *, problem: Enum | None = None, **fields) -> None:
        super().__init__(what, **fields)
        self.problem = problem


class CheckpointError(UserError):
    """A checkpoint that can't be read, or is refused."""


class CheckpointMismatchError(CheckpointError):
    """A checkpoint whose tensors don't fit the model."""


class DownloadError(UserError):
    """A file that can't be downloaded."""


class OutputError(UserError):
    """A file or folder that can't be written, or may not be replaced."""


class SwapError(UserError):
    """A model whose backbone can't be swapped."""


class ExportError(UserError):
    """A model that can't be exported, or an exported file that differs from it."""


class LaunchError(UserError):
    """A device, launcher or port that this machine or job doesn't have."""


class Interrupted(KeyboardInterrupt):
    """A signal ended the run.

    Args:
        number (int): the signal's.
        iteration (int | None): complete iterations, where it was training. Default: None.
        saved (str | None): the checkpoint to resume from. Default: None.
    """

    def __init__(self, number: int, iteration: int | None = None, saved: str | None = None) -> None:
        super().__init__(number)
        self.number, self.iteration, self.saved = number, iteration, saved
        self.code = 128 + number  # as shells count

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"

    @staticmethod
    def behind(error: BaseException) -> KeyboardInterrupt | None:
        """The interrupt that an error was raised in the place of, as MMEngine does while it formats
        a config, if there is one."""
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, KeyboardInterrupt):
            cause = cause.__cause__ or cause.__context__
        return cause


@contextmanager
def without_folder(path: str | os.PathLike, name: str) -> Iterator[None]:
    """Has a UserError of the block say ``name`` for a path: clients aren't told of the server's
    folders.

    Args:
        path (str | PathLike): of the file.
        name (str): what the client knows it by.
    """
    try:
        yield
    except UserError as error:
        error.what = error.what.replace(os.fspath(path), name)
        raise
