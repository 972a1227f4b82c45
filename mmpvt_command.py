"""The ``mmpvt`` command's start, beside the package: that imports only where mmcv and MMEngine do.

Where they are missing or broken, ``mmpvt env`` still says what is there, and any other command
says why in one sentence.
"""

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path


def main() -> int:
    """Runs the command of this process's arguments; its exit code."""
    try:
        from mmpvt.cli import main
    except Exception as error:  # of a broken package, whatever it raises
        package = find_spec("mmpvt")
        if sys.argv[1:2] == ["env"] and package is not None and package.origin is not None:
            file = Path(package.origin).parent / "cli" / "env.py"
            return runpy.run_path(str(file))["run"]()
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        print(f"error: {reason} (mmpvt env says what is installed)", file=sys.stderr)
        return 2
    return main()
