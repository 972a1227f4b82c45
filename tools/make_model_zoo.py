"""Writes the model zoo's pages and tables anew: python tools/make_model_zoo.py"""

from __future__ import annotations

import argparse
from pathlib import Path

import mmpvt.setup  # noqa: F401  before MMDetection is imported
from dev import model_zoo, training_cost
from mmpvt.engine.cli import user_errors

ROOT = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Write docs/model_zoo.md, model-index.yml and the table of docs/reproduce.md "
        "from the configs and the published figures."
    )
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="the checkout (default: the one of this file)"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        zoo = model_zoo.read_zoo(args.root)
        pages = {
            args.root / "docs" / "model_zoo.md": model_zoo.markdown(zoo),
            args.root / "model-index.yml": model_zoo.index(zoo),
        }
        reproduce = args.root / "docs" / "reproduce.md"
        if reproduce.is_file():
            costs = training_cost.markdown(zoo)
            pages[reproduce] = training_cost.insert(reproduce.read_text(), costs)
        for path, content in pages.items():
            path.write_text(content)
            print(path)


if __name__ == "__main__":
    main()
