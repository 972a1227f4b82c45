"""A RetinaNet that predicts while a file exists, and fails on images of certain heights."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
from mmdet.models import RetinaNet
from mmengine.registry import MODELS

FAILS, NO_MEMORY = 33, 34  # pixels: an image's height


@MODELS.register_module(force=True)
class GatedRetinaNet(RetinaNet):
    """MMDetection's, but for that; the file's path is in the environment's ``GATE``."""

    def predict(self, batch_inputs, batch_data_samples, rescale=True):
        while not Path(os.environ["GATE"]).exists():
            time.sleep(0.005)
        heights = {sample.ori_shape[0] for sample in batch_data_samples}
        if FAILS in heights:
            raise RuntimeError("this image is not to the model's taste")
        if NO_MEMORY in heights:
            raise torch.cuda.OutOfMemoryError
        return super().predict(batch_inputs, batch_data_samples, rescale)
