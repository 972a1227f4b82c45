"""The one exception that stands for a user's mistake."""

from __future__ import annotations


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
