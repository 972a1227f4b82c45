"""Runs ``tools/test.py``, and writes the error that it ends with as JSON.

A script: ``python evaluation_child.py ERROR_FILE TOOL ARGUMENTS…``.
"""

from __future__ import annotations

import runpy
import sys
import traceback
from pathlib import Path

FIELDS = ("what", "where", "hint", "setting", "instead")  # of a UserError


def main() -> None:
    file, tool, *arguments = sys.argv[1:]
    sys.argv = [tool, *arguments]
    sys.path[0] = str(Path(tool).parent)  # as of the tool itself, before anything is imported
    try:
        runpy.run_path(tool, run_name="__main__")
    except SystemExit as end:
        if end.code:
            write_error(Path(file), end.__context__)
        raise
    except BaseException as error:
        write_error(Path(file), error)
        raise


def write_error(file: Path, error: BaseException | None) -> None:
    """Writes an error's fields, and whether it is another process's end that caused it."""
    from mmpvt.engine.launch import LOST, failure_of
    from mmpvt.errors import UserError
    from mmpvt.utils.text import to_json

    if error is None:  # argparse has printed what is wrong
        return
    lost_another = isinstance(error, RuntimeError) and bool(LOST.search(str(error)))
    if isinstance(error, RuntimeError):
        error = failure_of(error) or error
    if isinstance(error, UserError):
        fields = {name: getattr(error, name) for name in FIELDS}
    else:
        fields = dict(what=traceback.format_exception_only(error)[-1].split("\n")[0])
    file.write_bytes(to_json(dict(fields, lost_another=lost_another), default=str))


if __name__ == "__main__":
    main()
