"""A test's process: its result, its progress and its error come as JSON, not from its log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from helpers import ROOT, environment
from mmpvt.engine import launch
from mmpvt.errors import ConfigError, DatasetError, UserError
from mmpvt.reproduction import evaluation_child, evaluation_process
from mmpvt.reproduction.checkpoints import Checkpoint
from mmpvt.reproduction.evaluation_loop import _Entry
from mmpvt.reproduction.evaluation_process import EvaluationError, run_evaluation
from mmpvt.reproduction.reproduction_hook import versions

MISTAKE = """
from mmpvt.engine.cli import user_errors
from mmpvt.errors import DatasetError
with user_errors():
    raise DatasetError("no annotations", where="a.json", setting="data_root", instead=("seed", 3))
"""
TRACEBACK = """
print("RuntimeError: only printed")
raise KeyError("a", "second")
"""
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
SUCCESS = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--work-dir") + 1])
(folder / "progress.json").write_text(json.dumps(dict(batch=3, batches=9, eta=75)))
time.sleep(1)
(folder / "collected.json").write_text(json.dumps(sys.argv[3:]))
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs a script in the place of ``tools/test.py``."""
    monkeypatch.setattr(evaluation_process, "POLL_INTERVAL", 0.1)
    config = tmp_path / "config.py"
    config.write_text("model = dict()\ncustom_imports = dict(imports=['json'])\n")

    def run(script: str, *arguments: str) -> tuple[dict, list[str]]:
        tool, said = tmp_path / "tool.py", []
        tool.write_text(script)
        found = run_evaluation(
            tool=tool,
            config=Config.fromfile(config),
            checkpoint=tmp_path / "model.pth",
            arguments=arguments,
            folder=tmp_path / "work",
            max_images=3,
            environment=environment(),
            report=said.append,
        )
        return found, said

    return run


def test_result_and_progress(run, tmp_path: Path):
    found, said = run(SUCCESS, "--launcher", "none")
    assert found == ["--work-dir", str(tmp_path / "work"), "--launcher", "none"][-len(found) :]
    assert said == ["batch 3 of 9, ETA 0:01:15"]
    config = Config.fromfile(tmp_path / "work" / "config_0.py")
    assert config.custom_imports.imports == ["json", evaluation_process.HOOK_MODULE]
    hook = config.default_hooks.reproduction
    assert hook.type == "mmpvt.ReproductionHook" and hook.parent == os.getpid()


def test_an_error_keeps_its_fields(run, tmp_path: Path):
    with pytest.raises(EvaluationError) as caught:
        run(MISTAKE)
    error = caught.value
    assert (error.what, error.where, error.setting) == ("no annotations", "a.json", "data_root")
    assert tuple(error.instead) == ("seed", 3)
    log = (tmp_path / "work" / "log_0.txt").read_text()
    assert log == "error: --data-root: no annotations: pass --seed 3\n"


def test_other_ends(run, tmp_path: Path):
    with pytest.raises(EvaluationError, match=r"^KeyError: \('a', 'second'\)$"):
        run(TRACEBACK)
    with pytest.raises(EvaluationError, match="ended by SIGKILL, as a machine out of memory does"):
        run(KILLED)
    with pytest.raises(EvaluationError, match=r"ended with code 3 and without a message: see .*"):
        run("raise SystemExit(3)")


def test_the_process_that_only_lost_another_is_not_blamed(tmp_path: Path):
    errors = (dict(what="lost it", lost_another=True), dict(what="x" * 999), dict(what="second"))
    for rank, error in enumerate(errors):
        (tmp_path / f"error_{rank}.json").write_text(json.dumps(error))
    assert str(evaluation_process._failure(1, tmp_path)) == "x" * 300


def test_a_lost_process_is_told_as_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(launch, "is_distributed", lambda: True)
    file = tmp_path / "error.json"
    evaluation_child.write_error(file, RuntimeError("[gloo] Connection closed by peer"))
    error = json.loads(file.read_bytes())
    assert error["lost_another"] and error["what"].startswith("process 0 of 1 has lost another")
    assert error["hint"].startswith("resume from")
    evaluation_child.write_error(file, RuntimeError("no such kernel"))
    error = json.loads(file.read_bytes())
    assert error == dict(what="RuntimeError: no such kernel", lost_another=False)


def test_versions_are_text_on_an_amd_gpu_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "MI300X")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert versions()["CUDA"] == "ROCm 6.4"  # a record with null is not read again


@pytest.mark.parametrize("setting", ["coco", None])
def test_the_data_folder_is_called_as_here(setting: str | None):
    def record(error: UserError) -> str:
        entry = _Entry(Checkpoint("a", Path("a.pth")), {}, data_setting=setting)
        entry.fail(error)
        return entry.record["error"]

    told = record(ConfigError("there is no folder", setting="data_root"))
    assert told == ("coco: there is no folder" if setting else "there is no folder")
    told = record(DatasetError("no data", hint="get it", instead=("data_root", None)))
    assert told == ("no data: get it, or pass coco" if setting else "no data: get it")


def test_training_does_not_import_the_report():
    code = (
        "import sys, mmpvt; from mmpvt.registry import HOOKS; HOOKS.get('mmpvt.InterruptHook'); "
        "assert not [name for name in sys.modules if name.startswith('mmpvt.reproduction')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=environment(), cwd=ROOT)
