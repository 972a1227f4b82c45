"""``python -m mmpvt``: the ``mmpvt`` command, for torchrun, say."""

from mmpvt.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
