"""What importing mmpvt and setting up its environment mean to others in the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.runner import CheckpointLoader
from torch import _weights_only_unpickler as unpickler

import mmpvt
from helpers import environment
from mmpvt.compat.torch import weights_only_globals

STATE = """
import logging, os, pickle, signal, sys, warnings
import numpy, torch
from torch import _weights_only_unpickler as unpickler
import matplotlib, mmcv, mmengine
import mmengine.fileio.io as fileio
from mmengine.runner import CheckpointLoader
from mmengine.utils import package_utils
from mmengine.visualization import Visualizer
from mmengine.logging import HistoryBuffer

def state():
    labels = sys.modules.get("mmdet.datasets.api_wrappers.coco_api")
    return {
        "backends": {name: id(kind) for name, kind in fileio.backends.items()},
        "prefixes": {name: id(kind) for name, kind in fileio.prefix_to_backends.items()},
        "schemes": {name: id(load) for name, load in CheckpointLoader._schemes.items()},
        "safe globals": sorted(map(repr, torch.serialization.get_safe_globals())),
        "unpickler": {name: id(known) for name, known in unpickler._get_allowed_globals().items()},
        "torch": [id(torch.load), id(torch.save), torch.get_num_threads(),
                  torch.get_default_dtype(), torch.initial_seed(), torch.is_grad_enabled()],
        "lookup": [id(package_utils.is_installed), id(mmengine.utils.get_installed_path),
                   id(mmengine.config.config.get_installed_path),
                   id(mmengine.config.config._get_external_cfg_path)],
        "format": id(getattr(mmengine.config.config, "FormatCode", None)),
        "drawing": [id(Visualizer.set_image), matplotlib.get_backend(), str(matplotlib.rcParams)],
        "labels": id(labels and labels.COCO.get_cat_ids),
        "signals": {number: str(signal.getsignal(number)) for number in signal.valid_signals()},
        "warnings": list(warnings.filters),
        "logging": [id(logging.getLogRecordFactory()), list(logging.root.handlers),
                    logging.raiseExceptions],
        "interpreter": [id(sys.excepthook), sys.getrecursionlimit(), list(sys.path),
                        list(sys.path_hooks), numpy.get_printoptions()],
        "environment": dict(os.environ),
        "finders": [f for f in sys.meta_path if "mmpvt" not in type(f).__module__],
    }
"""
IMPORTS = f"""
{STATE}
assert "mmpvt" not in sys.modules
before = state()
import mmpvt
assert state() == before, {{k: v for k, v in state().items() if v != before[k]}}
mmpvt.models, mmpvt.checkpoint, mmpvt.swap_backbone
assert state() == before, {{k: v for k, v in state().items() if v != before[k]}}
mmpvt.Predictor  # imports MMDetection's models beside any mmpretrain and torchvision
from mmpvt.registry import MODELS
MODELS.get("PyramidVisionTransformerV2")
import mmdet.datasets, mmpvt.inference, mmpvt.engine.hooks.checkpoints
before = state()  # SciPy and others, which they import, add filters of warnings
assert HistoryBuffer not in torch.serialization.get_safe_globals()
torch.save({{"a": HistoryBuffer([1.0], [1]), "b": numpy.float64(1)}}, sys.argv[1])
assert mmpvt.checkpoint.load_checkpoint(sys.argv[1])["b"] == 1
assert state() == before
mmpvt.setup_environment()
changed = {{key for key, value in state().items() if value != before[key]}}
formats = {{"format"}} if hasattr(mmengine.config.config, "FormatCode") else set()  # not OneDL's
assert changed == {{"schemes", "lookup", "drawing", "labels"}} | formats, changed
once = state()
mmpvt.setup_environment()
import mmpvt.setup
assert state() == once
mmpvt.restore_environment()
assert state() == before, {{k: v for k, v in state().items() if v != before[k]}}
mmpvt.setup_environment()
assert {{key for key, value in state().items() if value != before[key]}} == changed
"""
FINDERS = """
import sys
before = list(sys.meta_path)
import mmpvt
assert sys.meta_path[: len(before)] == before and len(sys.meta_path) <= len(before) + 1
after = list(sys.meta_path)
mmpvt.setup_environment()
mmpvt.restore_environment()
assert sys.meta_path == after
mmpvt.setup_environment()
from mmengine.runner import CheckpointLoader
from mmengine.visualization import Visualizer
from mmdet.datasets.api_wrappers.coco_api import COCO
for changed in (CheckpointLoader._schemes[""], Visualizer.set_image, COCO.get_cat_ids):
    assert changed.__module__.startswith("mmpvt") or "mmpvt" in changed.__code__.co_filename
mmpvt.restore_environment()
for changed in (CheckpointLoader._schemes[""], Visualizer.set_image, COCO.get_cat_ids):
    assert "mmpvt" not in changed.__module__
"""
BESIDE = """
import sys
from pathlib import Path
import stand_in_plugin as plugin
folder, first, local = Path(sys.argv[1]), sys.argv[2] == "first", sys.argv[3] == "local"
if first:
    plugin.register(local)
    plugin.check(folder, local)
import mmpvt
if not first:
    plugin.register(local)
plugin.check(folder, local)
mmpvt.setup_environment()
plugin.check(folder, local)
import torch
from mmengine.logging import HistoryBuffer
from mmpvt.engine.hooks import checkpoints
torch.save({"state_dict": {}, "a": HistoryBuffer([1.0], [1])}, folder / "b.pth")
mmpvt.checkpoint.load_checkpoint(folder / "b.pth")
plugin.check(folder, local)
mmpvt.restore_environment()
plugin.check(folder, local)
"""


def run(code: str, *args: object) -> None:
    """Runs it in a process, beside the stand-in plugin."""
    env = environment(lean=False)
    env["PYTHONPATH"] = f"{Path(__file__).parent}:{env['PYTHONPATH']}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, args)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_importing_changes_nothing_and_setting_up_is_undone(tmp_path: Path):
    run(IMPORTS, tmp_path / "a.pth")


def test_changes_wait_for_the_packages_they_change():
    run(FINDERS)


@pytest.mark.parametrize(("order", "scheme"), [("first", "own"), ("second", "local")])
def test_another_plugin_works_beside_it(order: str, scheme: str, tmp_path: Path):
    run(BESIDE, tmp_path, order, scheme)


def test_a_loader_that_was_registered_since_stays():
    def load(filename: str, map_location: str | None = None) -> dict:
        return {}

    before = CheckpointLoader._schemes["http://"]
    CheckpointLoader.register_scheme("http://", load, force=True)
    try:
        mmpvt.restore_environment()
        assert CheckpointLoader._schemes["http://"] is load
        assert "mmpvt" not in CheckpointLoader._schemes[""].__module__
        mmpvt.setup_environment()
        assert CheckpointLoader._schemes["http://"] is load
    finally:
        CheckpointLoader.register_scheme("http://", before, force=True)


class Own:
    pass


class OwnToo:
    pass


def test_safe_globals_of_others_are_kept():
    add, get = torch.serialization.add_safe_globals, torch.serialization.get_safe_globals
    clear = torch.serialization.clear_safe_globals
    before = get()
    try:
        add([Own])
        with weights_only_globals([Own, set, (len, "builtins.len")]):
            assert unpickler._get_allowed_globals().get("builtins.set", set) is set
            add([OwnToo])  # in another thread, say
            assert {f"{g.__module__}.{g.__qualname__}" for g in get()} >= {"builtins.len"}
        assert set(get()) == {*before, Own, OwnToo}
        with pytest.raises(RuntimeError), weights_only_globals([set]):
            raise RuntimeError
        assert set(get()) == {*before, Own, OwnToo}
    finally:
        clear()
        add(before)
