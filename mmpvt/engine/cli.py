"""What every command line shares: how a mistake ends it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mmpvt.errors import UserError

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count


@contextmanager
def user_errors(on_interrupt: str = "interrupted") -> Iterator[None]:
    """Ends the process with one sentence and code 2 on :class:`UserError`, 130 on Ctrl-C.

    Args:
        on_interrupt (str): the sentence for Ctrl-C.
    """
    try:
        yield
    except UserError as error:
        _leave(f"error: {error.sentence}", USER_ERROR)
    except KeyboardInterrupt:
        _leave(on_interrupt, INTERRUPTED)


def _leave(sentence: str, code: int) -> None:
    sys.stdout.flush()
    print(sentence, file=sys.stderr, flush=True)
    sys.exit(code)
