"""What makes MMEngine run on today's Python and PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import mmdet
import mmseg
import numpy as np
import pytest
from mmengine.utils import get_installed_path, is_installed
from mmengine.visualization import Visualizer

from helpers import ROOT, environment

WITHOUT_PKG_RESOURCES = """
import sys
sys.modules["pkg_resources"] = None  # what importing it is like from setuptools 82 on
import mmpvt
from mmengine.config import Config
config = Config.fromfile(sys.argv[1])
assert config.model.type == "RetinaNet"
"""


def test_bases_resolve_without_pkg_resources():
    config = ROOT / "configs" / "retinanet_pvt_t_fpn_1x_coco.py"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PKG_RESOURCES, config],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_where_packages_lie():
    assert get_installed_path("mmdet") == str(Path(mmdet.__file__).parent)
    assert get_installed_path("mmsegmentation") == str(Path(mmseg.__file__).parent)
    assert is_installed("mmsegmentation") and is_installed("mmseg")
    assert not is_installed("no-such-package")
    with pytest.raises(ModuleNotFoundError, match="no-such-package is not installed"):
        get_installed_path("no-such-package")


def test_drawing_over_an_image_leaves_it_in_place():
    image = np.zeros((120, 160, 3), dtype=np.uint8)
    image[40:80, 60:100] = 255
    visualizer = Visualizer()
    visualizer.set_image(image)
    visualizer.draw_bboxes(np.array([[10, 10, 50, 50]]), edge_colors="r")
    drawn = cv2.resize(visualizer.get_image(), (160, 120))
    difference = np.abs(drawn.astype(int) - image).max(axis=2)
    assert (difference[60:, :] > 60).mean() < 0.02  # away from the box nothing moved
