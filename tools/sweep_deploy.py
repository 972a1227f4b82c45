"""Exports shipped configs of the installed MMDetection and MMSegmentation with PVT under them.

python tools/sweep_deploy.py --data shared/data
"""

from __future__ import annotations

import argparse
import re
import time
from importlib.metadata import version
from pathlib import Path

from mmpvt import setup_environment

setup_environment()  # before mmdet is imported: PyPI's torchvision may not fit

from dev import deploy_sweep, swap_sweep  # noqa: E402
from mmpvt.engine.cli import user_errors  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
COVERAGE = ROOT / "docs" / "swap_coverage.md"  # whose table names the families


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("families", nargs="*", help="such as mmdet::atss (default: all)")
    parser.add_argument(
        "--records",
        type=Path,
        metavar="FILE",
        default=Path("work_dirs/deploy_sweep/records.jsonl"),
        help="the result of each model; those in it aren't tried again (default: %(default)s)",
    )
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", required=True, help="of coco_mini and ade_mini"
    )
    parser.add_argument(
        "--report-only", action="store_true", help="write the page of the records there are"
    )
    parser.add_argument("--photos", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        default=ROOT / "docs" / "deploy_families.md",
        help="the page to write, of all families (default: docs/deploy_families.md)",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors("interrupted; the same command resumes from here"):
        sweep = deploy_sweep.Sweep(args.records, args.data, args.photos)
        groups = swap_sweep.by_family(swap_sweep.shipped_configs())
        for group in groups:
            is_excluded = args.families and group[0].family not in args.families
            if is_excluded or args.report_only:
                continue
            start = time.monotonic()
            for record in sweep.family(group):
                seconds = time.monotonic() - start
                print(f"{seconds:5.0f} s  {record['verdict']:8}  {record['config']}", flush=True)
                for name in ("reason", "onnxruntime", "openvino"):
                    if record.get(name):
                        print(f"         {name}: {record[name]}", flush=True)
        if not args.families:
            families = re.findall(r"^\| (mm\w+::\S+) \| \d", COVERAGE.read_text(), re.MULTILINE)
            packages = dict(
                mmdet="mmdet",
                mmseg="mmsegmentation",
                onnxruntime="onnxruntime",
                openvino="openvino",
            )
            versions = {name: version(package) for name, package in packages.items()}
            args.out.write_text(
                deploy_sweep.markdown(sweep.by_family(families), args.photos, versions)
            )
            print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
