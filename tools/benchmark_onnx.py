"""Times files of tools/export.py beside PyTorch, and says how far their results are apart.

python tools/benchmark_onnx.py CONFIG CHECKPOINT model.onnx model_int8.onnx --images photos/

With --annotations, also the box and mask AP of each on those images.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from mmengine.config import DictAction
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmpvt.cli.export import load_deploy
from mmpvt.datasets.coco import read_annotations
from mmpvt.engine.cli import user_errors
from mmpvt.engine.config import load_config, set_checkpoint
from mmpvt.engine.pipeline import TestPipeline, load_model
from mmpvt.errors import UserError
from mmpvt.inference.sources import find_sources
from mmpvt.utils.progress import progress

PYTORCH = "PyTorch"
Results = list[dict[str, np.ndarray]]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("config", help="config file, or mmdet::… / mmseg::… for an installed one")
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument("files", nargs="+", type=Path, metavar="MODEL.onnx")
    parser.add_argument("--images", nargs="+", type=Path, required=True, help="files or folders")
    parser.add_argument("--most", type=int, default=20, help="images (default: 20)")
    parser.add_argument("--annotations", type=Path, metavar="JSON", help="of the images, COCO's")
    parser.add_argument("--runs", type=int, default=3, help="of each image (default: 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        run(args)


def run(args: argparse.Namespace) -> None:
    """Prints a table."""
    if min(args.most, args.runs, args.threads) < 1:
        raise UserError("--most, --runs and --threads take at least 1")
    truth = read_annotations(args.annotations) if args.annotations else None
    paths = [source.path for source in find_sources(args.images)[0]]
    if truth is not None:
        known = {image["file_name"]: image["id"] for image in truth["images"]}
        paths = [path for path in paths if path.name in known]
    paths = paths[: args.most]
    if not paths:
        raise UserError(f"{args.annotations} names none of the images")
    config = load_config(args.config, args.cfg_options)
    set_checkpoint(config, args.checkpoint)
    load_deploy()
    from mmpvt.deploy import verification
    from mmpvt.deploy.preprocessing import read_image_format

    torch.set_num_threads(args.threads)
    model = load_model(config, args.checkpoint)
    ways = {PYTORCH: lambda image: verification.predict(model, config, image)}
    for file in args.files:
        ways[file.name] = verification.onnx_predictor(
            str(file), args.threads, read_image_format(config).is_bgr
        )
    pipeline = TestPipeline(config)
    images = [pipeline.load(path) for path in paths]
    results, seconds = measure(ways, images, args.runs)

    print(
        f"{type(model).__name__}, {len(images)} images, {args.threads} threads, medians of "
        f"{args.runs} runs\n\n| | seconds an image | AP | beside PyTorch |\n|---|---|---|---|"
    )
    for way, found in results.items():
        ap = ""
        if truth is not None and "boxes" in found[0]:
            ap = average_precision(truth, [known[path.name] for path in paths], found)
        deviation = verification.Deviation()
        for ours, wanted in zip(found, results[PYTORCH], strict=True):
            deviation.include(verification.compare(ours, wanted))
        beside = "" if way == PYTORCH else str(deviation)
        print(f"| {way} | {statistics.median(seconds[way]):.3f} | {ap} | {beside} |")


def measure(
    ways: dict[str, Callable], images: list[np.ndarray], runs: int
) -> tuple[dict[str, Results], dict[str, list[float]]]:
    """What each way finds, and the seconds of each image.

    One way does all images before the next does: idle threads of the other library would be in
    its way.
    """
    results: dict[str, Results] = {}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    done = 0
    with progress("running", (runs + 1) * len(ways) * len(images)) as advance:
        for number in range(runs + 1):  # the first warms up
            for way, predict in ways.items():
                found = []
                for image in images:
                    start = time.perf_counter()
                    found.append(predict(image))
                    if number:
                        seconds[way].append(time.perf_counter() - start)
                    done += 1
                    advance(done)
                results[way] = found
    return results, seconds


def average_precision(truth: dict, image_ids: list[int], results: Results) -> str:
    """Box AP, and mask AP where there are masks, in percent."""
    categories = sorted(category["id"] for category in truth["categories"])
    records = []
    for image_id, found in zip(image_ids, results, strict=True):
        for i, (x1, y1, x2, y2) in enumerate(found["boxes"].tolist()):
            record = dict(
                image_id=image_id,
                category_id=categories[found["labels"][i]],
                bbox=[x1, y1, x2 - x1, y2 - y1],
                score=float(found["scores"][i]),
            )
            if "masks" in found:
                mask = np.asfortranarray(found["masks"][i], np.uint8)
                record["segmentation"] = coco_masks.encode(mask)
            records.append(record)
    if not records:
        return "0.00"
    with redirect_stdout(StringIO()):
        api = COCO()
        api.dataset = copy.deepcopy(truth)  # it is added to
        api.createIndex()
        scores = []
        for kind in ("bbox", "segm")[: 1 + ("segmentation" in records[0])]:
            evaluation = COCOeval(api, api.loadRes(records), kind)
            evaluation.params.imgIds = image_ids
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            scores.append(f"{100 * evaluation.stats[0]:.2f}")
    return ", masks ".join(scores)


if __name__ == "__main__":
    sys.exit(main())
