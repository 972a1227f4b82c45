"""The exceptions that end a run with a sentence: a user's mistake, a signal."""

from __future__ import annotations

import signal


class UserError(ValueError):
    """A mistake of the user's: its message is one sentence that says what is wrong, where, and
    what to do about it.

    The command lines print that sentence and exit with code 2; from Python it is a ``ValueError``
    like any other.
    """

    @property
    def sentence(self) -> str:
        """The message alone, also where a data-loading worker has wrapped it in its traceback."""
        return str(self).rsplit(f"{type(self).__name__}: ", 1)[-1].strip()


class Stopped(KeyboardInterrupt):
    """A signal ended the run.

    Args:
        number (int): the signal's.
        iteration (int | None): complete iterations, where it was training. Default: None.
        saved (str | None): the checkpoint to go on from. Default: None.
    """

    def __init__(self, number: int, iteration: int | None = None, saved: str | None = None) -> None:
        super().__init__(number)
        self.code = 128 + number  # as shells count
        name = signal.Signals(number).name
        if iteration is None:
            self.sentence = f"stopped by {name}"
        elif saved:
            self.sentence = (
                f"stopped by {name} after iteration {iteration}, which is saved in {saved}: "
                "--resume goes on from there"
            )
        else:
            self.sentence = (
                f"stopped by {name} after iteration {iteration}, which could not be saved: "
                "--resume goes on from the checkpoint before"
            )
