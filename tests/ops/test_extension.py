"""How mmpvt.ops takes the place of mmcv's compiled extension, and when it does not."""

import importlib
import pkgutil
import subprocess
import sys
import warnings
from pathlib import Path

import mmcv
import mmcv.utils
import pytest
from mmcv.utils import ext_loader

from helpers import environment
from mmpvt.errors import UserError
from mmpvt.ops import extension, install


@pytest.fixture
def fresh(monkeypatch):
    """mmcv as before any install()."""
    monkeypatch.setitem(sys.modules, "mmcv._ext", extension)
    monkeypatch.delitem(sys.modules, "mmcv._ext")
    monkeypatch.setattr(mmcv, "_ext", None, raising=False)


@pytest.fixture
def ship(monkeypatch, tmp_path, fresh):
    """ship(code): an mmcv whose extension is ``code``."""

    def ship(code):
        (tmp_path / "_ext.py").write_text(code)
        importlib.invalidate_caches()
        monkeypatch.setattr(mmcv, "__path__", [str(tmp_path), *mmcv.__path__])

    return ship


@pytest.fixture
def lite(monkeypatch, tmp_path, fresh):
    """An mmcv without extension."""
    monkeypatch.setattr(mmcv, "__path__", [str(tmp_path)])


def test_a_fresh_process_imports_everything():
    code = """
import warnings
warnings.simplefilter("ignore")
try:
    import mmcv.ops
except ModuleNotFoundError as error:
    assert error.name == "mmcv._ext"
import mmpvt.ops
mmpvt.ops.install()
mmpvt.setup_environment()  # where mmpretrain is installed, MMDetection's models import torchvision
import mmcv.ops, mmdet.models, mmseg.models
from mmdet.models import RetinaNet
print(mmcv.ops.RoIAlign(7).output_size, RetinaNet.__name__)
"""
    root = str(Path(__file__).parents[2])
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[-2] == "(7, 7) RetinaNet"


def test_the_fallback_is_used_where_there_is_no_extension(lite):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert install()
        assert install()
    assert sys.modules["mmcv._ext"] is mmcv._ext is extension
    assert importlib.import_module("mmcv._ext") is extension
    assert ext_loader.load_ext("_ext", ["nms", "anything_at_all"]) is extension


@pytest.mark.parametrize("imported", [False, True])
def test_importing_mmpvt_supplies_it(imported):
    """Neither mmcv nor PyTorch is imported for it; an mmcv.ops that failed before works."""
    before = "import contextlib\nwith contextlib.suppress(ImportError): import mmcv.ops\n"
    code = (
        "import sys, mmpvt\n"
        "assert imported or not {'torch', 'mmcv', 'matplotlib'} & set(sys.modules)\n"
        "import mmcv.ops\n"
        "from mmpvt.ops import extension, uses_fallback\n"
        "assert sys.modules['mmcv._ext'] is mmcv._ext is extension and uses_fallback()\n"
        "print(sum(type(finder).__module__ == 'mmpvt.ops' for finder in sys.meta_path))"
    )
    code = f"imported = {imported}\n" + (before if imported else "") + code
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[-1] == str(int(not imported))


def test_leaves_mmcv_s_own_extension_alone(ship):
    ship("def nms(boxes, scores, iou_threshold, offset):\n    return 'compiled'\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not install()
        assert not install()
    assert sys.modules["mmcv._ext"].nms(0, 0, 0, 0) == "compiled"
    assert sys.modules["mmcv._ext"] is not extension


def test_the_fallback_replaces_an_extension_that_does_not_load_with_a_warning(ship):
    ship("raise ImportError('_ext.so: undefined symbol: _ZN2at4_ops')")
    said = "undefined symbol: _ZN2at4_ops.*ops are used instead; `pip install .*mmcv.*` builds"
    with pytest.warns(UserWarning, match=said):
        assert install()
    assert sys.modules["mmcv._ext"] is extension
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert install()


def test_no_mmcv_at_all(monkeypatch):
    monkeypatch.setitem(sys.modules, "mmcv", None)
    with pytest.raises(ModuleNotFoundError, match="pip install") as caught:
        install()
    assert caught.value.name == "mmcv"


@pytest.mark.parametrize("has_find_loader", [True, False])
def test_check_ops_exist(monkeypatch, lite, has_find_loader):
    monkeypatch.setattr(ext_loader, "check_ops_exist", ext_loader.check_ops_exist)
    if not has_find_loader:  # as in Python 3.14
        monkeypatch.delattr(pkgutil, "find_loader", raising=False)
    install()
    assert ext_loader.check_ops_exist()


def test_a_missing_operator_complains_when_it_is_called_only():
    operator = extension.three_nn_forward
    assert operator.__name__ == "three_nn_forward"
    with pytest.raises(UserError, match=r"'three_nn_forward'.*mim install mmcv==\d") as caught:
        operator(1, 2, m=3)
    assert "\n" not in str(caught.value)


def test_python_s_own_questions_get_python_s_own_answers():
    for name in ("__path__", "__wrapped__", "_anything"):
        assert not hasattr(extension, name)


@pytest.mark.parametrize("name", ["nms", "softnms", "roi_align_forward", "carafe_backward"])
def test_operators_are_found_in_their_files(name: str):
    assert vars(extension)[name].__module__.startswith("mmpvt.ops.")


def test_environment_report(monkeypatch):
    info = importlib.import_module("mmcv.ops.info")
    monkeypatch.setattr(info, "ext_module", extension)
    report = mmcv.utils.collect_env()
    assert "mmpvt" in report["MMCV Compiler"]
    assert report["MMCV CUDA Compiler"] == "not available"
