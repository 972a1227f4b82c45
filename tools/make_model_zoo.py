"""Writes docs/model_zoo.md and model-index.yml anew: python tools/make_model_zoo.py"""

from __future__ import annotations

import argparse
from pathlib import Path

import mmpvt  # noqa: F401  registers the modules
from mmpvt.analysis import model_zoo
from mmpvt.engine.cli import user_errors

ROOT = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Write docs/model_zoo.md and model-index.yml from the configs and the "
        "published figures."
    )
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="the checkout (default: the one of this file)"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        zoo = model_zoo.read_zoo(args.root)
        for path, content in {
            args.root / "docs" / "model_zoo.md": model_zoo.markdown(zoo),
            args.root / "model-index.yml": model_zoo.index(zoo),
        }.items():
            path.write_text(content)
            print(path)


if __name__ == "__main__":
    main()
