"""Each change to another package does what it is for."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path

import cv2
import mmdet
import mmseg
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.config import config as config_module
from mmengine.utils import get_installed_path, is_installed
from mmengine.visualization import Visualizer
from mmseg.models.losses import CrossEntropyLoss
from torch.nn import functional

from helpers import LEAN, ROOT, environment
from mmpvt.compat import format_config_once

WITHOUT_PKG_RESOURCES = """
import sys
sys.modules["pkg_resources"] = None  # what importing it is like from setuptools 82 on
import mmpvt
mmpvt.setup_environment()
from mmengine.config import Config, utils
utils._get_cfg_metainfo = None  # which reads a package's metafiles, slowly
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


@pytest.mark.skipif(not hasattr(config_module, "FormatCode"), reason="OneDL's fork has none")
def test_a_config_is_formatted_once(monkeypatch: pytest.MonkeyPatch):
    formatted = []

    def format_code(text: str, **_) -> tuple[str, bool]:
        formatted.append(text)
        return text, False

    monkeypatch.setattr(config_module, "FormatCode", format_code)
    with ExitStack() as undo:
        format_config_once(undo)
        texts = [Config(dict(a=a)).pretty_text for a in (1, 1, 2, 2)]
    assert texts == ["a=1", "a=1", "a=2", "a=2"]
    assert formatted == texts[::2] and config_module.FormatCode is format_code


def test_where_packages_lie():
    assert get_installed_path("mmdet") == str(Path(mmdet.__file__).parent)
    assert get_installed_path("mmsegmentation") == str(Path(mmseg.__file__).parent)
    assert is_installed("mmsegmentation") and is_installed("mmseg")
    assert not is_installed("no-such-package")
    with pytest.raises(ModuleNotFoundError, match="no-such-package is not installed"):
        get_installed_path("no-such-package")


def test_where_packages_of_other_distributions_lie(monkeypatch: pytest.MonkeyPatch):
    """OneDL's ``onedl-mmsegmentation`` has the module ``mmseg``, too."""

    def renamed(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", renamed)
    assert get_installed_path("mmsegmentation") == str(Path(mmseg.__file__).parent)
    assert is_installed("mmsegmentation") and not is_installed("no-such-package")


def test_drawing_over_an_image_leaves_it_in_place():
    image = np.zeros((120, 160, 3), dtype=np.uint8)
    image[40:80, 60:100] = 255
    visualizer = Visualizer()
    visualizer.set_image(image)
    visualizer.draw_bboxes(np.array([[10, 10, 50, 50]]), edge_colors="r")
    drawn = cv2.resize(visualizer.get_image(), (160, 120))
    difference = np.abs(drawn.astype(int) - image).max(axis=2)
    assert (difference[60:, :] > 60).mean() < 0.02  # away from the box nothing moved


def test_class_weights_beside_ignored_pixels():
    logits = torch.randn(2, 3, 4, 5)
    labels = torch.randint(3, (2, 4, 5))
    labels[:, 0] = 255
    weights = [0.5, 1.0, 3.0]
    loss = CrossEntropyLoss(class_weight=weights, avg_non_ignore=True)
    mean = loss(logits, labels, ignore_index=255)
    expected = functional.cross_entropy(
        logits, labels, weight=torch.tensor(weights), ignore_index=255
    )
    torch.testing.assert_close(mean, expected)
    ones, none = (
        CrossEntropyLoss(class_weight=weight)(logits, labels, ignore_index=255)
        for weight in ([1.0] * 3, None)
    )
    torch.testing.assert_close(ones, none)


LIKE_MMPRETRAIN = {  # how mmpretrain 1.2.0 is laid out around its switch
    "__init__.py": "from mmpretrain.utils import dependency\n",
    "utils/__init__.py": "from .dependency import WITH_MULTIMODAL\n",
    "utils/dependency.py": "WITH_MULTIMODAL = True\n",
    "models/__init__.py": """
from mmpretrain.utils.dependency import WITH_MULTIMODAL
if WITH_MULTIMODAL:
    try:
        from transformers.modeling_utils import PreTrainedModel, apply_chunking_to_forward
    except ImportError:
        PreTrainedModel = None
    class Bert(PreTrainedModel):
        pass
""",
}
OLD_TRANSFORMERS = """
class PreTrainedModel:
    pass
apply_chunking_to_forward = find_pruneable_heads_and_indices = prune_linear_layer = print
"""
IMPORTS_MMPRETRAIN = """
import sys
import mmpvt.setup
assert "transformers.modeling_utils" not in sys.modules and "mmpretrain" not in sys.modules
import mmpretrain.models
print(mmpretrain.models.WITH_MULTIMODAL)
"""


def run_code(code: str, *first: Path) -> str:
    """What a process prints, with folders before all others on its path."""
    env = environment(lean=False)
    path = os.pathsep.join([*map(str, first), env["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**env, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_torchvision_without_its_kernels(tmp_path: Path):
    """Laid out as torchvision 0.28: built for another PyTorch, it has no operators."""
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text(
        "from . import extension\nfrom torchvision import _meta_registrations, transforms\n"
    )
    (package / "extension.py").write_text("def _has_ops():\n    return False\n")
    (package / "_meta_registrations.py").write_text("raise RuntimeError('no operator nms')\n")
    (package / "transforms.py").write_text("")
    code = "import mmpvt.setup, torchvision.transforms as t; print(t.__name__)"
    assert run_code(code, tmp_path) == "torchvision.transforms"
    (package / "extension.py").write_text("def _has_ops():\n    return True\n")
    (package / "_meta_registrations.py").write_text("print('registered')\n")
    assert run_code(code, tmp_path).split() == ["registered", "torchvision.transforms"]


def test_mmpretrain_beside_any_transformers(tmp_path: Path):
    pytest.importorskip("transformers", minversion="5")
    for name, text in LIKE_MMPRETRAIN.items():
        path = tmp_path / "new" / "mmpretrain" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert run_code(IMPORTS_MMPRETRAIN, tmp_path / "new") == "False"
    old = tmp_path / "old" / "transformers"
    old.mkdir(parents=True)
    (old / "__init__.py").write_text("class Adafactor:\n    pass\n")
    (old / "modeling_utils.py").write_text(OLD_TRANSFORMERS)
    assert run_code(IMPORTS_MMPRETRAIN, old.parent, tmp_path / "new") == "True"
    assert run_code(IMPORTS_MMPRETRAIN, LEAN, tmp_path / "new") == "False"  # can't be imported


@pytest.mark.full
def test_the_real_mmpretrain():
    for package in ("mmpretrain", "torchvision", "transformers"):
        if not is_installed(package):
            pytest.skip(f"{package} is not installed")
    code = (
        "import mmpvt.setup, mmseg.models, mmdet.models, mmpretrain.models as m; print(m.ConvNeXt)"
    )
    assert "ConvNeXt" in run_code(code)
    code = (
        "import mmpvt.setup; from mmpvt.engine.config import read_config; "
        "print(read_config('mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py')"
        ".model.backbone.type)"
    )
    assert run_code(code) == "mmpretrain.ConvNeXt"
