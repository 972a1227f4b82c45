"""A test's label maps, kept as files."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmpvt.engine.hooks.pictures import Names
from mmpvt.registry import HOOKS
from mmpvt.utils.outputs import CannotWriteError, Outputs
from mmpvt.utils.text import encodable, printable
from mmpvt.visualization.saving import write_picture


@HOOKS.register_module()
class LabelMapsHook(Hook):
    """Writes a PNG file of each image's predicted labels, as MMSegmentation's ``IoUMetric`` would.

    That one replaces whatever has the name, and so does the second of two images of one name.

    Args:
        out (str): the folder.
    """

    def __init__(self, out: str) -> None:
        self.out = Outputs(out)
        self.names: dict[str, str] = {}

    def before_test_epoch(self, runner: Runner) -> None:
        """Names all images' files, so that processes that share them don't take the same."""
        names, dataset = Names(), runner.test_dataloader.dataset
        paths = (dataset.get_data_info(i)["img_path"] for i in range(len(dataset)))
        self.names = {path: names.of(encodable(path)) for path in dict.fromkeys(paths)}

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs: Sequence | None = None
    ) -> None:
        """Writes a batch's."""
        for sample in outputs:
            if "left_out" in sample.metainfo:
                continue  # there was no image
            labels = sample.pred_sem_seg.data.squeeze(0).cpu().numpy()
            if sample.get("reduce_zero_label"):
                labels = labels + 1  # in ADE20K's files 0 is no class
            labels = labels.astype(np.uint8 if labels.max() < 256 else np.uint16)
            try:
                write_picture(self.out, self.names[sample.img_path], labels, [".png"])
            except CannotWriteError as error:
                said = printable(sample.img_path)
                runner.logger.warning(f"no label map of {said}: {error}")
