"""MMDetection's COCO metric in less time and memory."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmengine.logging import MMLogger
from pycocotools.cocoeval import Params
from terminaltables import AsciiTable

from mmpvt.errors import ConfigError, DatasetError
from mmpvt.evaluation.coco_eval import CategorywiseCOCOeval
from mmpvt.evaluation.detection_arrays import DetectionArrays, RLEArray
from mmpvt.registry import METRICS
from mmpvt.utils.text import counted, printable

STATS = (  # as pycocotools' summary lists them
    *("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l"),
    *("AR@100", "AR@300", "AR@1000", "AR_s@1000", "AR_m@1000", "AR_l@1000"),
)
SUMMARIZED = 3  # of ``proposal_nums``, by pycocotools' summary
MAP_COUNTS = 100  # detections of a class in an image, there


@dataclass(frozen=True)
class CocoResult:
    """The results of pycocotools' ``COCOeval``.

    Attributes:
        params (Params): categories, thresholds and so on.
        eval (dict): ``'precision'`` (IoU thresholds, recall thresholds, categories, areas,
            maximum detections), ``'recall'`` (without recall thresholds) and ``'scores'``.
        stats (np.ndarray): the summary's twelve numbers, unrounded.
        detections (DetectionArrays): what was evaluated, without masks; labels are indices of the
            metric's ``cat_ids``.
        image_ids (list): by index of the detections' images.
    """

    params: Params
    eval: dict
    stats: np.ndarray
    detections: DetectionArrays
    image_ids: list


@METRICS.register_module()
class CocoMetric(MMDetCocoMetric):
    """Takes the arguments of MMDetection's, and gives its scores, in less time and memory.

    MMDetection's own ``compute_metrics`` writes the predictions to a JSON file and has
    pycocotools read it as a dict a box: 14.5 times as slow on 500,000 boxes, with 4 times the
    memory (``docs/evaluation.md``). Without faster-coco-eval, pycocotools computes the same.

    Attributes:
        evaluations (dict[str, CocoResult]): by metric, of the last evaluation; not of
            ``'proposal_fast'``.

    mAP counts 100 detections of a class in an image, as pycocotools does, the other APs the
    greatest of ``proposal_nums``. Where these lack 100, for data with more objects, mAP counts the
    greatest, too; MMDetection's is -1 then. Of a model that finds nothing MMDetection gives no
    scores; here they are 0.

    Args:
        *args: of MMDetection's ``CocoMetric``.
        **kwargs: of MMDetection's ``CocoMetric``.

    Raises:
        ConfigError: ``proposal_nums`` are fewer than three.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.iou_thrs: Any = np.atleast_1d(self.iou_thrs)
        nums = self.proposal_nums
        if len(nums) < SUMMARIZED and set(self.metrics) != {"proposal_fast"}:
            raise ConfigError(
                f"proposal_nums takes {SUMMARIZED} numbers of detections, which the summary names, "
                f"not {tuple(nums)}",
                hint="(1, 10, 100), say",
            )
        self.evaluations: dict[str, CocoResult] = {}

    @property
    def coco(self) -> COCO | None:
        """The annotations; None before an evaluation that takes them from the data samples."""
        return self._coco_api

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keeps a batch's predictions, masks in one string of bytes an image."""
        start = len(self.results)
        super().process(data_batch, data_samples)
        for _, result in self.results[start:]:
            if "masks" in result:
                result["masks"] = RLEArray.pack(result["masks"])

    def results2json(self, results: Sequence[dict], outfile_prefix: str) -> dict[str, str]:
        """Writes the predictions in the format of COCO's server, as MMDetection's does."""
        unpacked = [
            dict(result, masks=result["masks"].unpack()) if "masks" in result else result
            for result in results
        ]
        return super().results2json(unpacked, outfile_prefix)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The summary's scores, rounded as MMDetection's.

        Args:
            results (list): of the images of all processes.

        Returns:
            dict[str, float]: by name (``'bbox_mAP'``); those that ``metric_items`` names.

        Raises:
            ConfigError: ``metric_items`` names no such score, or the model predicts no masks.
            DatasetError: the annotations lack some of the images.
        """
        logger = MMLogger.get_current_instance()
        self.evaluations = {}
        truths, predictions = zip(*results, strict=True)
        if self._coco_api is None:
            logger.info("Converting ground truth to coco format...")
            with tempfile.TemporaryDirectory() as folder:
                prefix = self.outfile_prefix or str(Path(folder) / "results")
                self._coco_api: Any = COCO(self.gt_to_coco_json(truths, prefix))
        if self.cat_ids is None:
            self.cat_ids: Any = self._coco_api.get_cat_ids(cat_names=self.dataset_meta["classes"])
        if self.img_ids is None:
            self.img_ids: Any = self._coco_api.get_img_ids()
        if self.outfile_prefix is not None:
            self.results2json(predictions, self.outfile_prefix)
        if self.format_only:
            logger.info(f"results are saved in {Path(self.outfile_prefix).parent}")
            return {}

        if not any(len(prediction["labels"]) for prediction in predictions):
            logger.warning("the model found nothing in any image")
        scores: dict[str, float] = {}
        for metric in self.metrics:
            logger.info(f"Evaluating {metric}...")
            if metric == "proposal_fast":
                recalls = self.fast_eval_recall(
                    predictions, self.proposal_nums, self.iou_thrs, logger
                )
                found = {f"AR@{k}": ar for k, ar in zip(self.proposal_nums, recalls, strict=True)}
                logger.info("".join(f"\n{name}\t{ar:.4f}" for name, ar in found.items()))
                scores.update(found)
            elif metric == "segm" and "masks" not in predictions[0]:
                raise ConfigError("the metric 'segm' compares masks, and the model predicts none")
            else:
                scores.update(self._score(metric, predictions, logger))
        return scores

    def _score(self, metric: str, predictions: Sequence[dict], logger: MMLogger) -> dict:
        is_proposal = metric == "proposal"
        items = self.metric_items or (STATS[6:] if is_proposal else STATS[:6])
        for item in items:
            if item not in STATS:
                raise ConfigError(f"metric_items: {item!r} is none of {', '.join(STATS)}")
        image_ids = [prediction["img_id"] for prediction in predictions]
        unknown = set(image_ids) - self._coco_api.imgs.keys()
        if unknown:
            raise DatasetError(
                f"{counted(len(unknown), 'image was', 'images were')} tested that the annotations "
                f"don't hold, such as {next(iter(unknown))}: the data set and the evaluator read "
                "different files"
            )
        iou_type = "bbox" if is_proposal else metric
        detections = DetectionArrays.collect(predictions, with_masks=iou_type == "segm")
        evaluation = CategorywiseCOCOeval(
            self._coco_api, detections, image_ids, self.cat_ids, iou_type
        )
        params = evaluation.params
        params.useCats = int(not is_proposal)
        params.catIds, params.imgIds = self.cat_ids, self.img_ids
        params.maxDets, params.iouThrs = list(self.proposal_nums), self.iou_thrs
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        if MAP_COUNTS not in self.proposal_nums:
            evaluation.stats[0] = _mean(evaluation.eval["precision"][..., 0, -1], -1.0)
        if not is_proposal:
            self._warn_of_crowded(image_ids, logger)
        result = CocoResult(
            evaluation.params,
            evaluation.eval,
            evaluation.stats,
            replace(detections, masks=None),
            image_ids,
        )
        self.evaluations[metric] = result

        stats = dict(zip(STATS, result.stats, strict=True))
        if is_proposal:
            return {item: round(float(stats[item]), 3) for item in items}
        scores = self._classwise(result, logger) if self.classwise else {}
        scores.update({f"{metric}_{item}": float(round(stats[item], 3)) for item in items})
        logger.info(f"{metric}_mAP_copypaste: {' '.join(f'{stats[k]:.3f}' for k in STATS[:6])}")
        return scores

    def _warn_of_crowded(self, image_ids: Sequence, logger: MMLogger) -> None:
        limit = MAP_COUNTS if MAP_COUNTS in self.proposal_nums else max(self.proposal_nums)
        objects = Counter(
            (one["image_id"], one["category_id"])
            for image in image_ids
            for one in self._coco_api.imgToAnns.get(image, ())
            if one["category_id"] in self.cat_ids and not one.get("iscrowd")
        )
        crowded = {image for (image, _), number in objects.items() if number > limit}
        if crowded:
            most = max(objects.values())
            logger.warning(
                f"mAP counts {limit} detections of a class in an image, and "
                f"{counted(len(crowded), 'image has', 'images have')} more objects of one ({most} "
                "at most), so that it can't reach 1: with three other numbers in the evaluator's "
                f"proposal_nums, such as ({most}, {2 * most}, {3 * most}), it counts the greatest"
            )

    def _classwise(self, result: CocoResult, logger: MMLogger) -> dict[str, float]:
        """A table of each category's AP, and the first of its columns."""
        precision = result.eval["precision"]
        at = [np.isclose(self.iou_thrs, iou) for iou in (0.5, 0.75)]
        rows: list[list[Any]] = []
        for k, category in enumerate(result.params.catIds):
            name = printable(self._coco_api.cats[category]["name"])
            overall = precision[:, :, k, 0, -1]
            by_area = (precision[:, :, k, area, -1] for area in (1, 2, 3))
            means = [_mean(part) for part in (overall, *(overall[iou] for iou in at), *by_area)]
            rows.append([name, *(round(mean, 3) for mean in means)])
        logger.info("\n" + AsciiTable([["category", *STATS[:6]], *rows]).table)
        return {f"{name}_precision": mean for name, mean, *_ in rows}


def _mean(precision: np.ndarray, default: float = math.nan) -> float:
    """Of what there is: pycocotools marks with -1 what there is no truth for."""
    precision = precision[precision > -1]
    return precision.mean() if precision.size else np.float64(default)
