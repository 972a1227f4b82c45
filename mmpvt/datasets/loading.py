"""Loading images and label maps from files that may be broken."""

from __future__ import annotations

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations

from mmpvt.errors import UserError
from mmpvt.registry import TRANSFORMS

IGNORED = 255  # label of pixels that count for no class


@TRANSFORMS.register_module()
class LoadImageFromFile(MMCVLoadImageFromFile):
    """MMCV's transform, saying which file it is that can't be read."""

    def transform(self, results: dict) -> dict | None:
        """Reads ``results['img_path']``.

        Raises:
            UserError: the file is missing or no readable image.
        """
        try:
            return super().transform(results)
        except FileNotFoundError as error:
            raise UserError(f"the image {results['img_path']} is missing") from error
        except (OSError, ValueError, AssertionError, AttributeError, cv2.error) as error:
            raise UserError(
                f"{results['img_path']} can't be read as an image: the file is empty, truncated "
                "or of another kind; replace it, or take it out of the annotations"
            ) from error


@TRANSFORMS.register_module()
class LoadSegAnnotations(LoadAnnotations):
    """MMSegmentation's transform, saying which label map it is that can't be used.

    Args:
        num_classes (int | None): of the model; labels from there on are refused. Default: None.
        **kwargs: of MMSegmentation's ``LoadAnnotations``.
    """

    def __init__(self, num_classes: int | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes

    def _load_seg_map(self, results: dict) -> None:
        """Reads ``results['seg_map_path']``.

        Raises:
            UserError: the file is missing or no label map, of another size than its image, or
                holds labels that the model has no class for.
        """
        path = results["seg_map_path"]
        try:
            super()._load_seg_map(results)
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(
                f"{path} can't be read as a label map: the file is missing, empty, truncated or "
                "of another kind"
            ) from error
        labels = results["gt_seg_map"]
        if labels.shape != tuple(results["ori_shape"]):
            raise UserError(
                f"the label map {path} is of another size than its image {results['img_path']}: "
                f"{'x'.join(map(str, labels.shape))}, not "
                f"{'x'.join(map(str, results['ori_shape']))} (height x width)"
            )
        if self.num_classes is not None:
            outside = labels[(labels >= self.num_classes) & (labels != IGNORED)]
            if outside.size:
                shift = 1 if self.reduce_zero_label else 0
                raise UserError(
                    f"the label map {path} holds the value {int(np.max(outside)) + shift}, and "
                    f"the model's {self.num_classes} classes end at "
                    f"{self.num_classes - 1 + shift}"
                )
