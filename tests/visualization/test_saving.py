"""Pictures and label maps as files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from mmpvt import UserError
from mmpvt.utils.outputs import CannotWriteError, Outputs
from mmpvt.visualization import saving


@pytest.mark.parametrize(("highest", "kind"), [(149, np.uint8), (300, np.uint16)])
def test_label_maps(highest: int, kind: type, tmp_path: Path):
    labels = torch.arange(20).repeat(1, 10, 1) * highest // 19
    found = saving.label_map(SegDataSample(pred_sem_seg=PixelData(data=labels)))
    assert found.dtype == kind and found.max() == highest
    saving.write_picture(Outputs(tmp_path), "new/a", found, [".png"])
    read = cv2.imread(str(tmp_path / "new" / "a.png"), cv2.IMREAD_UNCHANGED)
    assert read.dtype == kind and (read == found).all()
    assert saving.colour_map(found, {}).shape == (10, 20, 3)


def test_pictures_that_cannot_be_written(tmp_path: Path):
    out = Outputs(tmp_path / "out")
    with pytest.raises(CannotWriteError, match="a can't be written: a picture of 70000x1 pixels"):
        saving.write_picture(out, "a", np.zeros((1, 70_000, 3), np.uint8), [".jpg"])
    written = saving.write_picture(out, "a", np.zeros((1, 70_000, 3), np.uint8))
    assert written == tmp_path / "out" / "a.png" and written.stat().st_size
    (tmp_path / "out" / "file").touch()
    with pytest.raises(UserError, match=r"a\.jpg can't be written"):
        saving.write_picture(out, "file/a", np.zeros((9, 9, 3), np.uint8))
