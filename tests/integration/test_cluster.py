"""Several machines: two agents of torchrun's on loopback, and SLURM's variables by a stand-in."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from helpers import ROOT, environment, free_port, kill_groups
from mmpvt import UserError
from mmpvt.checkpoint import load_checkpoint
from mmpvt.engine.launch import translate_slurm

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="gloo, where there is no GPU")

SRUN = """#!/usr/bin/env bash
# Stands in for SLURM's: takes its options off, and starts two tasks.
echo "srun $*"
while [[ $1 == --* ]]; do shift; done
export SLURM_NTASKS=2 SLURM_JOB_ID={job} SLURM_JOB_NODELIST='node[1-2]'
SLURM_PROCID=0 SLURM_LOCALID=0 "$@" & first=$!
SLURM_PROCID=1 SLURM_LOCALID=1 "$@" & second=$!
trap 'kill -TERM $first $second' TERM
wait $first; code=$?
wait $second && exit $code
"""
SCONTROL = '#!/usr/bin/env bash\n[ "$*" = "show hostnames node[1-2]" ] && echo 127.0.0.1\n'


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a shell script of tools/; what it starts ends with the test."""
    started: list[subprocess.Popen] = []

    def run(script: object, *args: object, **variables: str) -> subprocess.Popen:
        env = {**environment(), "PYTHON": sys.executable, **variables}
        for name in ("MASTER_ADDR", "NNODES", "PORT", "SLURM_JOB_ID"):
            if name not in variables:
                env.pop(name, None)
        process = subprocess.Popen(
            ["bash", str(ROOT / "tools" / str(script)), *map(str, args)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    kill_groups(started)


def ended(*processes: subprocess.Popen) -> list[str]:
    """What they printed, once all have ended well."""
    texts = [process.communicate(timeout=280)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), texts
    return texts


@pytest.mark.full
def test_two_machines(tmp_path: Path, shapes: Path, tiny_config: Path, start):
    """Each trains on its share; the learning rate follows the batch of all."""
    variables = dict(NNODES="2", MASTER_ADDR="127.0.0.1", PORT=str(free_port()))
    work_dir = tmp_path / "work"
    args = ("--data-root", shapes, "--work-dir", work_dir)
    options = ("--seed", 0, "--auto-scale-lr", "--cfg-options", "train_cfg.max_epochs=1")
    texts = ended(
        *(start("dist_train.sh", tiny_config, 1, *args, *options, **variables) for _ in range(2))
    )
    first = max(texts, key=len)
    assert "batch size of 16 and the current batch size is 4" in first
    assert "Epoch(train) [1][2/2]" in first, "eight images, two of each process at a time"
    assert (work_dir / "epoch_1.pth").is_file()
    rate = load_checkpoint(work_dir / "epoch_1.pth")["optimizer"]["param_groups"][0]["initial_lr"]
    configured = re.search(r"^optim_wrapper.*?lr=([\d.e-]+)", first, re.M | re.S)
    assert rate == pytest.approx(float(configured[1]) * 4 / 16)


@pytest.mark.full
def test_two_machines_test(tmp_path: Path, shapes: Path, tiny_config: Path, trained: Path, start):
    variables = dict(NNODES="2", MASTER_ADDR="127.0.0.1", PORT=str(free_port()))
    args = (tiny_config, trained / "epoch_2.pth", 1, "--data-root", shapes)
    processes = [
        start("dist_test.sh", *args, "--work-dir", tmp_path, **variables) for _ in range(2)
    ]
    assert any("coco/bbox_mAP" in text for text in ended(*processes))


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """Variables with which srun and scontrol are found: stand-ins."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, content in dict(srun=SRUN, scontrol=SCONTROL).items():
        (folder / name).write_text(content.replace("{job}", str(free_port())))
        (folder / name).chmod(0o755)
    return dict(PATH=f"{folder}:{os.environ['PATH']}")


@pytest.mark.full
def test_slurm(tmp_path: Path, shapes: Path, tiny_config: Path, slurm: dict, start):
    work_dir = tmp_path / "work"
    args = ("--data-root", shapes, "--work-dir", work_dir, "--seed", 0)
    options = ("--auto-scale-lr", "--cfg-options", "train_cfg.max_epochs=1")
    (text,) = ended(
        start("slurm_train.sh", tiny_config, *args, *options, **slurm, SRUN_ARGS="--partition=a")
    )
    assert text.startswith("srun --job-name=mmpvt --nodes=1 --ntasks-per-node=8 --gres=gpu:8")
    assert "--partition=a --kill-on-bad-exit=1" in text
    assert "batch size of 16 and the current batch size is 4" in text
    assert "Epoch(train) [1][2/2]" in text
    assert (work_dir / "epoch_1.pth").is_file()


@pytest.mark.full
def test_sbatch(tmp_path: Path, shapes: Path, tiny_config: Path, slurm: dict, start):
    """Within a job srun has the job's resources, and the script is a copy; SIGTERM saves."""
    copy = shutil.copy(ROOT / "tools" / "slurm_train.sh", tmp_path / "slurm_script")
    args = ("--data-root", shapes, "--work-dir", tmp_path / "work")
    options = ("--cfg-options", "train_cfg.max_epochs=500", "train_cfg.val_interval=500")
    process = start(
        copy, tiny_config, *args, *options, **slurm, SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(ROOT)
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(r"Epoch\(train\) +\[2\]", line):
            process.send_signal(signal.SIGTERM)
            break
    text = "".join([*lines, process.communicate(timeout=120)[0]])
    assert lines[0].startswith("srun --kill-on-bad-exit=1")
    assert "stopped by SIGTERM after iteration" in text and "interrupted.pth" in text


def test_mistakes(tmp_path: Path, start):
    def said(*args: object, **variables: str) -> str:
        process = start(*args, **variables)
        text = process.communicate(timeout=60)[0]
        assert process.returncode == 2 and len(text.splitlines()) == 1, text
        return text

    assert said("dist_train.sh", "a.py").startswith("usage: ")
    assert said("dist_test.sh", "a.py", "b.pth").startswith("usage: ")
    assert said("slurm_train.sh").startswith("usage: ")
    assert "GPUS is the number of this machine's" in said("dist_train.sh", "a.py", "--resume")
    assert "needs MASTER_ADDR" in said("dist_train.sh", "a.py", 8, NNODES="2")
    assert "there is no srun" in said("slurm_train.sh", "a.py", PATH="/usr/bin:/bin")
    copy = shutil.copy(ROOT / "tools" / "slurm_train.sh", tmp_path / "slurm_script")
    assert "call sbatch in the checkout" in said(copy, "a.py", SLURM_SUBMIT_DIR=str(tmp_path))


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch, slurm: dict) -> pytest.MonkeyPatch:
    """Those of the third of four tasks, the first of the second node."""
    told = dict(PROCID="2", NTASKS="4", LOCALID="0", JOB_ID="123456", JOB_NODELIST="node[1-2]")
    for name, value in told.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "to be put back")
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", slurm["PATH"])
    return monkeypatch


def test_variables(variables: pytest.MonkeyPatch):
    translate_slurm()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    assert [os.environ[name] for name in names] == ["2", "4", "0", "127.0.0.1", "23456"]
    variables.setenv("MASTER_PORT", "29500")
    translate_slurm()
    assert os.environ["MASTER_PORT"] == "29500"


def test_variables_that_are_missing(variables: pytest.MonkeyPatch):
    variables.setenv("SLURM_JOB_NODELIST", "another")
    with pytest.raises(UserError, match="set MASTER_ADDR to its name"):
        translate_slurm()
    variables.delenv("SLURM_NTASKS")
    with pytest.raises(UserError, match="SLURM_NTASKS isn't set: start the processes with srun"):
        translate_slurm()
