"""Times files of tools/export.py beside PyTorch, and says how far their results are apart.

python tools/benchmark_onnx.py CONFIG CHECKPOINT model.onnx model_int8.xml --images photos/

ONNX files run in each of --runtimes. With --annotations, also the box and mask AP of each on those
images, or the mIoU of label maps. Images that an int8 file was calibrated on are left out.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import run_onnx
import torch
from mmdet.structures.mask import encode_mask_results
from pycocotools.coco import COCO

from mmpvt.cli.export import load_deploy
from mmpvt.datasets.coco import clean_annotations, read_annotations
from mmpvt.engine.checks.label_maps import label_map_fields, label_map_loader
from mmpvt.engine.cli import add_cfg_options, user_errors
from mmpvt.engine.config import load_config
from mmpvt.engine.dataset_config import DatasetConfig, iter_dataset_configs
from mmpvt.engine.initial_weights import set_checkpoint
from mmpvt.engine.pipeline import TestPipeline, load_model
from mmpvt.errors import UserError
from mmpvt.evaluation import IoUMetric
from mmpvt.evaluation.coco_eval import CategorywiseCOCOeval
from mmpvt.evaluation.detection_arrays import DetectionArrays, RLEArray
from mmpvt.inference.sources import find_sources
from mmpvt.utils.constants import IGNORE_LABEL
from mmpvt.utils.progress import progress

PYTORCH = "PyTorch"
Results = list[dict[str, np.ndarray]]


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("config", help="config file, or mmdet::… / mmseg::… for an installed one")
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument("files", nargs="+", type=Path, metavar="MODEL", help=".onnx or .xml")
    parser.add_argument(
        "--runtimes",
        nargs="+",
        choices=run_onnx.RUNTIMES,
        default=["onnxruntime"],
        help="of .onnx files (default: onnxruntime)",
    )
    parser.add_argument("--images", nargs="+", type=Path, required=True, help="files or folders")
    parser.add_argument("--most", type=int, default=20, help="images (default: 20)")
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="PATH",
        help="of the images: COCO's JSON file, or a folder of label maps, PNG",
    )
    parser.add_argument("--runs", type=int, default=3, help="of each image (default: 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    add_cfg_options(parser, "model.test_cfg.score_thr=0.3")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with user_errors():
        try:
            run(args)
        except run_onnx.UserError as error:
            raise UserError(str(error)) from error


def run(args: argparse.Namespace) -> None:
    """Prints a table."""
    if min(args.most, args.runs, args.threads) < 1:
        raise UserError("--most, --runs and --threads take at least 1")
    has_label_maps = args.annotations is not None and args.annotations.is_dir()
    truth = None
    if args.annotations is not None and not has_label_maps:
        truth, _ = clean_annotations(read_annotations(args.annotations), masks=False)
    paths = [source.path for source in find_sources(args.images)[0]]
    if truth is not None:
        ids = image_ids(paths, truth)
        paths = list(ids)
    config = load_config(args.config, args.cfg_options)
    if has_label_maps:
        datasets = (dataset for _, dataset in iter_dataset_configs(config, ["test"]))
        dataset = next((each for each in datasets if each.is_segmentation), None)
        if dataset is None:
            raise UserError("--annotations is a folder of label maps, which no test data set takes")
        places = {path: label_map_path(args.annotations, path, dataset) for path in paths}
        paths = [path for path in paths if places[path].is_file()]
    set_checkpoint(config, args.checkpoint)
    load_deploy()
    from mmpvt.deploy.preprocessing import read_image_format
    from mmpvt.deploy.verification import Deviation, compare, predict, to_rgb

    torch.set_num_threads(args.threads)
    model = load_model(config, args.checkpoint)
    is_bgr = read_image_format(config).is_bgr
    classes = model.dataset_meta.get("classes", ())
    categories = category_ids(truth, classes) if truth else []
    files = load_files(args.files, args.runtimes, args.threads)
    calibrated: set[str] = set()
    for exported in files.values():
        calibrated.update(json.loads(exported.runtime.meta.get("calibrated_on", "[]")))
    images, used = load_images(TestPipeline(config), paths, is_bgr, calibrated, args.most)
    maps = []
    if has_label_maps:
        for path, image in zip(used, images, strict=True):
            size = image.shape[:2]
            maps.append(read_label_map(places[path], path, size, dataset, len(classes)))

    ways: dict[str, Callable] = {PYTORCH: lambda image: predict(model, config, image)}
    for name, exported in files.items():
        ways[name] = lambda image, exported=exported: exported([to_rgb(image, is_bgr)])[0]
    results, seconds = measure(ways, images, args.runs)

    print(
        f"{type(model).__name__}, {len(images)} images, {args.threads} threads, medians of "
        f"{args.runs} runs; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n\n"
        "| | precision | seconds an image | AP or mIoU | beside PyTorch |\n|---|---|---|---|---|"
    )
    for way, found in results.items():
        score = ""
        if truth is not None and "boxes" in found[0]:
            score = average_precision(truth, categories, [ids[path] for path in used], found)
        elif has_label_maps and "label_map" in found[0]:
            score = mean_iou(maps, found, len(classes))
        deviation = Deviation()
        for ours, wanted in zip(found, results[PYTORCH], strict=True):
            deviation.include(compare(ours, wanted))
        beside = "" if way == PYTORCH else str(deviation)
        precision = "" if way == PYTORCH else files[way].runtime.meta.get("precision", "")
        median = statistics.median(seconds[way])
        print(f"| {way} | {precision} | {median:.3f} | {score} | {beside} |")


def load_files(
    files: Sequence[Path], runtimes: Sequence[str], threads: int
) -> dict[str, run_onnx.Model]:
    """Each file in each runtime that takes it, under a name for the table."""
    models = {}
    for file in files:
        for runtime in ["openvino"] if file.suffix == ".xml" else runtimes:
            try:
                models[f"{file.name}, {runtime}"] = run_onnx.Model(file, threads, runtime)
            except run_onnx.UserError as error:
                if len(runtimes) == 1 or file.suffix == ".xml":
                    raise
                run_onnx.say(f"skipped in {runtime}: {error}")  # int8 of onnxruntime's own, say
    return models


def load_images(
    pipeline: TestPipeline, paths: Sequence[Path], is_bgr: bool, calibrated: set[str], most: int
) -> tuple[list[np.ndarray], list[Path]]:
    """The first images that no file was calibrated on, ``most`` of them, and where they lie."""
    from mmpvt.deploy.precision import digest
    from mmpvt.deploy.verification import to_rgb

    images, used = [], []
    for path in paths:
        image = pipeline.load(path)
        if digest(to_rgb(image, is_bgr)) not in calibrated:
            images.append(image)
            used.append(path)
        if len(images) == most:
            break
    if not images:
        raise UserError("no images are left: --annotations names none, or all were calibrated on")
    return images, used


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


def image_ids(paths: Sequence[Path], truth: dict) -> dict[Path, int]:
    """The ids of those images that the annotations name, by their names or ends of their paths."""
    known = {image["file_name"]: image["id"] for image in truth["images"]}
    found = {}
    for path in paths:
        parts = path.absolute().parts
        names = ["/".join(parts[i:]) for i in range(len(parts))]  # with the most folders first
        if name := next((name for name in names if name in known), None):
            found[path] = known[name]
    return found


def label_map_path(folder: Path, image: Path, dataset: DatasetConfig) -> Path:
    """An image's label map, named by the data set's suffixes or else as the image."""
    ends = [dataset.argument(name) for name in ("img_suffix", "seg_map_suffix")]
    path = folder / (image.name.removesuffix(ends[0]) + ends[1])
    return path if path.is_file() else folder / f"{image.stem}.png"


def read_label_map(
    path: Path, image: Path, shape: tuple[int, ...], dataset: DatasetConfig, num_classes: int
) -> np.ndarray:
    """The labels of an image of ``shape``, height and width, as test.py reads them.

    Raises:
        BadFileError: the file is no label map of the image, or has labels of no class.
    """
    results = dict(seg_map_path=str(path), img_path=str(image), ori_shape=shape)
    loader = label_map_loader(dataset, num_classes)
    return loader(dict(results, seg_fields=[], **label_map_fields(dataset)))["gt_seg_map"]


def mean_iou(maps: Sequence[np.ndarray], results: Results, num_classes: int) -> str:
    """Mean intersection over union of the classes that occur, in percent."""
    shared = union = 0
    for labels, found in zip(maps, results, strict=True):
        pair = (torch.from_numpy(x.astype(np.int64)) for x in (found["label_map"], labels))
        areas = IoUMetric.intersect_and_union(*pair, num_classes, IGNORE_LABEL)
        shared, union = shared + areas[0], union + areas[1]
    return f"{100 * (shared / union).nanmean():.2f}"


def category_ids(truth: dict, classes: Sequence[str]) -> list[int]:
    """The id of each class, by its name, as MMDetection has it.

    Raises:
        UserError: the annotations have no category of that name.
    """
    ids = {category["name"]: category["id"] for category in truth["categories"]}
    for name in classes:
        if name not in ids:
            raise UserError(f"--annotations has no category {name!r}, which the model has")
    return [ids[name] for name in classes]


def average_precision(
    truth: dict, categories: Sequence[int], image_ids: list[int], results: Results
) -> str:
    """Box AP of categories, by label, and mask AP where there are masks, in percent."""
    has_masks = any("masks" in found for found in results)
    content, _ = clean_annotations(truth, has_masks)  # as test.py does
    api = COCO()
    api.dataset = copy.deepcopy(content)  # it is added to
    scores = []
    with redirect_stdout(StringIO()):
        api.createIndex()
        for kind in ("bbox", "segm")[: 1 + has_masks]:
            found = DetectionArrays.collect([_as_kept(one) for one in results], kind == "segm")
            evaluation = CategorywiseCOCOeval(api, found, image_ids, categories, kind)
            evaluation.params.imgIds = image_ids
            evaluation.params.catIds = list(categories)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            scores.append(f"{100 * evaluation.stats[0]:.2f}")
    return ", masks ".join(scores)


def _as_kept(found: dict[str, np.ndarray]) -> dict:
    """An image's results as :class:`mmpvt.evaluation.CocoMetric` keeps them."""
    kept = dict(bboxes=found["boxes"], labels=found["labels"], scores=found["scores"])
    if "masks" in found:
        kept["masks"] = RLEArray.pack(encode_mask_results(found["masks"]))
    return kept


if __name__ == "__main__":
    sys.exit(main())
