"""MMDetection's COCO metric, with faster-coco-eval's computation where that is installed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmdet.datasets.api_wrappers import COCO, COCOevalMP
from mmdet.evaluation import CocoMetric as MMDetCocoMetric
from mmengine.logging import MMLogger
from pycocotools.cocoeval import COCOeval, Params
from terminaltables import AsciiTable

from mmpvt.errors import UserError
from mmpvt.evaluation.detections import Detections, Masks
from mmpvt.registry import METRICS
from mmpvt.utils.text import printable

STATS = (  # as pycocotools' summary lists them
    *("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l"),
    *("AR@100", "AR@300", "AR@1000", "AR_s@1000", "AR_m@1000", "AR_l@1000"),
)


@dataclass(frozen=True)
class Evaluation:
    """What pycocotools' ``COCOeval`` gives in the end, without what it took.

    Attributes:
        params (Params): categories, thresholds and so on.
        eval (dict): ``'precision'`` (IoU thresholds, recall thresholds, categories, areas,
            maximum detections), ``'recall'`` (without recall thresholds) and ``'scores'``.
        stats (np.ndarray): the summary's twelve numbers, unrounded.
    """

    params: Params
    eval: dict
    stats: np.ndarray


@METRICS.register_module()
class CocoMetric(MMDetCocoMetric):
    """Takes and gives what MMDetection's does, in less time and memory.

    Where faster-coco-eval isn't installed, pycocotools computes the same numbers.

    Attributes:
        evaluations (dict[str, Evaluation]): of each metric of the last evaluation, but for
            ``'proposal_fast'``.

    Args:
        *args, **kwargs: of MMDetection's ``CocoMetric``.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.evaluations: dict[str, Evaluation] = {}

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keeps a batch's predictions.

        Args:
            data_batch (dict): of the data loader.
            data_samples (Sequence[dict]): with the model's ``pred_instances``.
        """
        start = len(self.results)
        super().process(data_batch, data_samples)
        for _, result in self.results[start:]:
            if "masks" in result:
                result["masks"] = Masks.pack(result["masks"])

    def results2json(self, results: Sequence[dict], outfile_prefix: str) -> dict[str, str]:
        """Writes the predictions as COCO's server takes them.

        Args:
            results (Sequence[dict]): of the images.
            outfile_prefix (str): how the files' paths begin.

        Returns:
            dict[str, str]: the files, by metric.
        """
        unpacked = [
            dict(result, masks=result["masks"].unpack()) if "masks" in result else result
            for result in results
        ]
        return super().results2json(unpacked, outfile_prefix)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The summary numbers, rounded as MMDetection's.

        Args:
            results (list): of the images of all processes.

        Returns:
            dict[str, float]: ``'bbox_mAP'`` and so on; what ``metric_items`` names.

        Raises:
            UserError: ``metric_items`` names no such number, the model gives no masks to
                compare, or it was given images that the annotations don't hold.
        """
        logger = MMLogger.get_current_instance()
        self.evaluations = {}
        truths, predictions = zip(*results, strict=True)
        if self._coco_api is None:
            logger.info("Converting ground truth to coco format...")
            with tempfile.TemporaryDirectory() as folder:
                prefix = self.outfile_prefix or str(Path(folder) / "results")
                self._coco_api = COCO(self.gt_to_coco_json(truths, prefix))
        if self.cat_ids is None:
            self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta["classes"])
        if self.img_ids is None:
            self.img_ids = self._coco_api.get_img_ids()
        if self.outfile_prefix is not None:
            self.results2json(predictions, self.outfile_prefix)
        if self.format_only:
            logger.info(f"results are saved in {Path(self.outfile_prefix).parent}")
            return {}

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
                raise UserError("the metric 'segm' compares masks, and the model predicts none")
            elif not any(len(prediction["labels"]) for prediction in predictions):
                logger.error("The testing results of the whole dataset is empty.")
                break
            else:
                scores.update(self._score(metric, predictions, logger))
        return scores

    def _score(self, metric: str, predictions: Sequence[dict], logger: MMLogger) -> dict:
        is_proposal = metric == "proposal"
        items = self.metric_items or (STATS[6:] if is_proposal else STATS[:6])
        for item in items:
            if item not in STATS:
                raise UserError(f"metric_items: {item!r} is none of {', '.join(STATS)}")
        evaluation = self._evaluation(predictions, "bbox" if is_proposal else metric)
        params = evaluation.params
        params.useCats = int(not is_proposal)
        params.catIds, params.imgIds = self.cat_ids, self.img_ids
        params.maxDets, params.iouThrs = list(self.proposal_nums), np.asarray(self.iou_thrs)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        done = Evaluation(evaluation.params, evaluation.eval, evaluation.stats)
        self.evaluations[metric] = done

        stats = dict(zip(STATS, done.stats, strict=True))
        if is_proposal:
            return {item: round(float(stats[item]), 3) for item in items}
        scores = self._classwise(done, logger) if self.classwise else {}
        scores.update({f"{metric}_{item}": float(round(stats[item], 3)) for item in items})
        logger.info(f"{metric}_mAP_copypaste: {' '.join(f'{stats[k]:.3f}' for k in STATS[:6])}")
        return scores

    def _evaluation(self, predictions: Sequence[dict], iou_type: str) -> COCOeval:
        image_ids = [prediction["img_id"] for prediction in predictions]
        unknown = set(image_ids) - self._coco_api.imgs.keys()
        if unknown:
            raise UserError(
                f"{len(unknown)} images were tested that the annotations don't hold, such as "
                f"{next(iter(unknown))}: the data set and the evaluator read different files"
            )
        detections = Detections.collect(predictions, with_masks=iou_type == "segm")
        try:
            from mmpvt.evaluation.coco_eval import FasterCOCOeval
        except ImportError:  # faster-coco-eval is an extra
            return self._pycocotools(detections, image_ids, iou_type)
        return FasterCOCOeval(self._coco_api, detections, image_ids, self.cat_ids, iou_type)

    def _pycocotools(self, detections: Detections, image_ids: list, iou_type: str) -> COCOeval:
        annotations = detections.as_annotations(
            np.arange(len(detections.labels)), np.array(image_ids), np.array(self.cat_ids)
        )
        if iou_type == "segm":
            for annotation in annotations:
                del annotation["bbox"]  # or areas would be those of boxes
        kind = COCOevalMP if self.use_mp_eval else COCOeval
        return kind(self._coco_api, self._coco_api.loadRes(annotations), iou_type)

    def _classwise(self, evaluation: Evaluation, logger: MMLogger) -> dict[str, float]:
        """A table of each category's AP, and the first of its columns."""
        precision, thresholds = evaluation.eval["precision"], np.asarray(self.iou_thrs)
        at = [np.isclose(thresholds, iou) for iou in (0.5, 0.75)]
        rows = []
        for k, category in enumerate(evaluation.params.catIds):
            name = printable(self._coco_api.cats[category]["name"])
            overall = precision[:, :, k, 0, -1]
            by_area = (precision[:, :, k, area, -1] for area in (1, 2, 3))
            means = [_mean(part) for part in (overall, *(overall[iou] for iou in at), *by_area)]
            rows.append([name, *(round(mean, 3) for mean in means)])
        logger.info("\n" + AsciiTable([["category", *STATS[:6]], *rows]).table)
        return {f"{name}_precision": mean for name, mean, *_ in rows}


def _mean(precision: np.ndarray) -> float:
    """Of what there is: pycocotools marks with -1 what there is no truth for."""
    precision = precision[precision > -1]
    return precision.mean() if precision.size else np.float64("nan")
