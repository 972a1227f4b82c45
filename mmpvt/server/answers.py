"""What a request is answered: a prediction as JSON, as a picture or as a label map."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import msgspec
import numpy as np
from mmengine.structures import BaseDataElement

from mmpvt.errors import BadFileError, without_folder
from mmpvt.evaluation.coco_results import coco_categories
from mmpvt.inference.batches import classification, instance_lines
from mmpvt.inference.predictor import Predictor
from mmpvt.utils.text import class_name, encodable
from mmpvt.visualization import saving

JSON = "json"
PICTURE = "picture"
LABEL_MAP = "label_map"
FORMATS = (JSON, PICTURE, LABEL_MAP)
TYPES = {".jpg": "image/jpeg", ".png": "image/png"}
NAME = "the image"  # in messages: clients aren't told of the server's files


class Answers:
    """Prepares images for a model, and encodes its predictions.

    Args:
        predictor (Predictor): the model.
        score (float): instances below aren't drawn where a request doesn't say.

    Raises:
        ConfigError: the model is panoptic.
    """

    def __init__(self, predictor: Predictor, score: float) -> None:
        predictor.check_results()
        self.predictor, self.score = predictor, score
        self.categories = coco_categories([encodable(name) for name in predictor.classes])
        self._ids = [entry["id"] for entry in self.categories]

    @property
    def task(self) -> str:
        """What the model gives: ``instances``, a ``label_map`` or a ``class``."""
        if self.predictor.classifies:
            return "class"
        return "instances" if self.predictor.finds_instances else "label_map"

    def prepare(self, path: Path) -> tuple[dict, int]:
        """A file's image as the model takes it, and how many pixels the image has.

        Raises:
            UserError: it can't be used, in the sentence that ``mmpvt predict`` says of it.
        """
        image = self._load(path)
        return self.predictor.pipeline.prepare(image), image.shape[0] * image.shape[1]

    def encode(
        self, sample: BaseDataElement, path: Path, form: str, score: float | None
    ) -> tuple[bytes, str]:
        """A prediction in one of the formats, and its media type.

        Args:
            sample (BaseDataElement): the prediction.
            path (Path): the image, which is decoded again to be drawn on, so that it needn't be
                kept in memory until then.
            form (str): one of :data:`FORMATS`.
            score (float | None): instances below are left out. Default: None, of JSON none are.
        """
        if form == PICTURE:
            return self._picture(sample, path, self.score if score is None else score)
        if form == LABEL_MAP:
            return self._label_map(sample), TYPES[".png"]
        answer: dict = {}
        if "pred_instances" in sample:
            if score is not None:
                sample.pred_instances = sample.pred_instances[sample.pred_instances.scores >= score]
            answer["instances"] = found = instance_lines(sample, self._ids)
            for one, label in zip(found, sample.pred_instances.labels.tolist(), strict=True):
                one["class"] = encodable(class_name(self.predictor.classes, label))
        if "pred_sem_seg" in sample:
            answer["label_map"] = base64.b64encode(self._label_map(sample)).decode()
        if "pred_label" in sample:
            answer.update(classification(sample, self.predictor.classes))
        return msgspec.json.encode(answer), "application/json"

    def _load(self, path: Path) -> np.ndarray:
        with without_folder(path, NAME):
            return self.predictor.load(path)

    def _picture(self, sample: BaseDataElement, path: Path, score: float) -> tuple[bytes, str]:
        image = self._load(path)
        try:
            encoded = saving.encode_picture(self.predictor.draw(image, sample, score))
        except (cv2.error, MemoryError):  # it can be predicted on, but not be drawn
            encoded = None
        if encoded is None:
            height, width = image.shape[:2]
            raise BadFileError(f"a picture of {width}x{height} pixels can't be drawn")
        content, suffix = encoded
        return bytes(content), TYPES[suffix]

    def _label_map(self, sample: BaseDataElement) -> bytes:
        encoded = saving.encode_picture(saving.label_map(sample), [".png"])
        if encoded is None:
            raise BadFileError("a label map of this size can't be encoded")
        return bytes(encoded[0])
