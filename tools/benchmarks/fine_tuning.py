"""What a trained detector brings to few images of other classes.

python tools/benchmarks/fine_tuning.py --seeds 0 1 2

A RetinaNet with PVT v2 B0 learns four of the shapes' six classes on 1000 images, 630 iterations.
For each seed, two learn all six on 160 other images, 100 iterations: one starts from the first, one
from random weights. Printed is their box AP on 200 images, in percent.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import mmpvt.setup  # noqa: F401  before MMDetection is imported
from mmpvt.datasets import shapes
from mmpvt.engine.cli import user_errors

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "retinanet_pvt_v2_b0_fpn_shapes.py"
BEFORE = shapes.CLASSES[:4]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    args = parser.parse_args()
    with user_errors(), tempfile.TemporaryDirectory(prefix="mmpvt-") as folder:
        root = Path(folder)
        many = shapes.generate(root / "many", num_train=1000, num_val=200, seed=1, progress=False)
        few = shapes.generate(root / "few", num_train=160, num_val=200, seed=2, progress=False)
        train(root / "detector", "--data", many, "--classes", ",".join(BEFORE))
        for seed in args.seeds:
            common = ("--data", few, "--seed", seed)
            start = ("--start-from", root / "detector" / "epoch_10.pth")
            tuned = train(root / f"tuned_{seed}", *common, *start)
            scratch = train(root / f"scratch_{seed}", *common)
            print(f"seed {seed}: {tuned:.1f} fine-tuned, {scratch:.1f} from scratch", flush=True)


def train(work_dir: Path, *options: object) -> float:
    """Trains for ten epochs of the config's batch, and gives the last box AP in percent."""
    command = [sys.executable, ROOT / "tools" / "train.py", CONFIG, "--work-dir", work_dir,
               "--epochs", 10, *options]  # fmt: skip
    ended = subprocess.run([str(one) for one in command], capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(ended.stdout[-2000:] + ended.stderr[-4000:])
    (log,) = work_dir.glob("*/vis_data/scalars.json")
    lines = map(json.loads, log.read_text().splitlines())
    return 100 * [line["coco/bbox_mAP"] for line in lines if "coco/bbox_mAP" in line][-1]


if __name__ == "__main__":
    main()
