"""A segmenter's predictions: kept as they come, then turned into scores by class and a gallery."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from mmseg.evaluation import IoUMetric

from mmpvt.reproduction.pictures import IGNORED, label_picture, picture
from mmpvt.visualization.drawing import colours


class LabelMaps:
    """What a report says of a segmenter.

    Args:
        runner (Runner): about to test it.
    """

    def __init__(self, runner: Runner) -> None:
        meta = runner.test_dataloader.dataset.metainfo
        self.classes = list(meta["classes"])
        chosen = colours(meta.get("palette"), len(self.classes))
        self.palette = np.zeros((256, 3), dtype=np.uint8)
        self.palette[: len(chosen)] = chosen

    def keep(self, sample: BaseDataElement) -> dict:
        """What is needed of an image's prediction.

        Args:
            sample (BaseDataElement): MMSegmentation's, with ``pred_sem_seg`` and ``gt_sem_seg``.

        Returns:
            dict: pixels by class, arrays (classes,): ``both``, ``either``, ``truth``; the label
            maps ``truth_map`` and ``found_map`` as PNG files, see-through where no class is true.
        """
        found = sample.pred_sem_seg.data.squeeze().cpu()
        truth = sample.gt_sem_seg.data.squeeze().cpu().to(found)
        both, either, _, there = IoUMetric.intersect_and_union(
            found, truth, len(self.classes), IGNORED
        )
        return dict(
            path=sample.metainfo.get("img_path"),
            left_out="skipped" in sample.metainfo,
            both=both.numpy(),
            either=either.numpy(),
            truth=there.numpy(),
            truth_map=self._drawn(truth),
            found_map=self._drawn(found.masked_fill(truth == IGNORED, IGNORED)),
        )

    def _drawn(self, labels) -> bytes:
        return label_picture(labels.numpy().astype(np.uint8), self.palette)

    def summary(self, images: list[dict], pictures: int) -> dict:
        """IoU by class and a gallery.

        Args:
            images (list[dict]): what :meth:`keep` gave, of all images.
            pictures (int): at most as many in the gallery.

        Returns:
            dict: ``classes``, the class's name, ``IoU`` (None where neither truth nor prediction
            has it) and ``share`` of all pixels; ``gallery``, the worst first.
        """
        images = [image for image in images if not image["left_out"]]
        none = np.zeros(len(self.classes))
        both, either, there = (
            sum((image[key] for image in images), none) for key in ("both", "either", "truth")
        )
        shares = there / max(1.0, there.sum())
        with np.errstate(invalid="ignore"):
            ious = both / either
        by_class = [
            dict(name=name, IoU=float(iou), share=float(share))
            for name, iou, share in zip(self.classes, ious, shares, strict=True)
        ]
        order = sorted((i for i in images if i["truth"].any()), key=_mean_iou)
        gallery = [self._entry(image) for image in order[:pictures]]
        return dict(classes=by_class, gallery=gallery)

    def _entry(self, image: dict) -> dict:
        jpeg, _ = picture(image["path"])
        there = np.flatnonzero(image["either"])
        labels = there[np.argsort(image["both"][there] / image["either"][there], kind="stable")]
        total = image["truth"].sum()
        return dict(
            image=Path(image["path"]).name,
            jpeg=jpeg,
            truth_map=base64.b64encode(image["truth_map"]).decode(),
            found_map=base64.b64encode(image["found_map"]).decode(),
            mean_iou=round(_mean_iou(image), 4),
            classes=[
                dict(
                    name=self.classes[i],
                    colour=f"#{self.palette[i].tobytes().hex()}",
                    iou=round(float(image["both"][i] / image["either"][i]), 3),
                    share=round(float(image["truth"][i] / total), 4),
                )
                for i in labels
            ],
        )


def _mean_iou(image: dict) -> float:
    """Over the classes that the truth has."""
    there = image["truth"] > 0
    return float((image["both"][there] / image["either"][there]).mean())
