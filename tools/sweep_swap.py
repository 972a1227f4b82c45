"""Tries PVT under the shipped configs of the installed MMDetection and MMSegmentation.

python tools/sweep_swap.py --all
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import replace
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path

import mmpvt.setup  # noqa: F401  before MMDetection is imported
from dev import swap_sweep
from mmpvt.engine.cli import user_errors

ROOT = Path(__file__).resolve().parents[1]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--families", action="store_true", help="one config of each family (default)"
    )
    which.add_argument("--all", action="store_true", help="every config")
    parser.add_argument(
        "--records",
        type=Path,
        metavar="FILE",
        default=Path("work_dirs/swap_sweep/records.jsonl"),
        help="the result of each config; those in it aren't tried again (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        default=ROOT / "docs" / "swap_coverage.md",
        help="the page to write (default: docs/swap_coverage.md)",
    )
    parser.add_argument("--fresh", action="store_true", help="try all again")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    warnings.simplefilter("ignore")  # of a thousand models
    with user_errors("interrupted; the same command resumes from here"):
        if args.fresh:
            args.records.unlink(missing_ok=True)
        records = swap_sweep.Records(args.records)
        configs = swap_sweep.shipped_configs()
        sweep(records, [[each] for each in configs] if args.all else swap_sweep.by_family(configs))
        versions = dict(mmdet=version("mmdet"), mmseg=version("mmsegmentation"))
        args.out.write_text(swap_sweep.markdown(records, versions))
        print(f"wrote {args.out}")


def sweep(records: swap_sweep.Records, groups: list[list[swap_sweep.ShippedConfig]]) -> None:
    """Tries the first config of each group that can be tried, and reports it in a line."""
    trial = swap_sweep.ConfigTrial()
    start = time.perf_counter()
    for i, group in enumerate(groups, 1):
        for shipped in group:
            record = records.get(shipped.name)
            if record is None:
                record = try_one(trial, records, shipped)
                records.add(record)
                eta = (time.perf_counter() - start) / i * (len(groups) - i)
                print(
                    f"[{i:4}/{len(groups)}] {record.verdict:10} {record.seconds:5.1f} s  "
                    f"ETA {timedelta(seconds=round(eta))}  {record.name}  {record.reason}",
                    flush=True,
                )
            if record.was_run:
                break


def try_one(
    trial: swap_sweep.ConfigTrial, records: swap_sweep.Records, shipped: swap_sweep.ShippedConfig
) -> swap_sweep.Record:
    """The record of a config; of one whose model has run under another name, that one's."""
    record, config = trial.prepare(shipped)
    if config is None:
        return record
    known = records.of_model(record.model)
    if known:
        return replace(known, name=shipped.name, family=shipped.family, seconds=0.0)
    return trial.run(shipped, record, config)


if __name__ == "__main__":
    main()
