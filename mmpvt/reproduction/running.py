"""One checkpoint's test, as a process of its own.

It is ``tools/test.py`` itself, with a hook more. A process of its own is what frees all memory,
and what a crash, or an error that leaves a GPU's context unusable, can't reach beyond.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mmpvt.engine.launch import LOST, VARIABLES, is_first_process
from mmpvt.errors import UserError
from mmpvt.utils.atomic import atomic_write

PROGRESS = re.compile(r"(?:Epoch|Iter)\(test\)\s*\[\s*(\d+)/(\d+)\]\s*eta: (\S+)")
ERROR = re.compile(
    r"^(?:\[rank\d+\]: )?(error: .+|(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt)\b.*)", re.M
)
DEFAULT_PORT = 29500  # MMEngine's
LONGEST = 300  # characters of an error
CONFIG = """\
_base_ = {base!a}
default_hooks = dict(
    reproduction=dict(
        type="mmpvt.ReproductionHook", out={out!a}, pictures={pictures}, parent={parent}
    )
)
"""


@dataclass(frozen=True)
class Job:
    """A test to run.

    Attributes:
        config: file of the model's config.
        checkpoint: file.
        data_root: the folder the data lie in; None for the config's own.
        folder: for logs and what the test writes.
        pictures: of the gallery, at most.
        options: further arguments of ``tools/test.py``.
    """

    config: Path
    checkpoint: Path
    data_root: str | None
    folder: Path
    pictures: int
    options: Sequence[str] = ()


class TestFailed(RuntimeError):
    """A test ended without a result; the message says why in a sentence."""

    __test__ = False  # pytest takes the name for a test's


def run(
    job: Job, tool: Path, environment: Mapping[str, str], tell: Callable[[str], None]
) -> dict | None:
    """Tests a checkpoint.

    Args:
        job (Job): what to test.
        tool (Path): ``tools/test.py``.
        environment (Mapping[str, str]): the process'.
        tell (Callable[[str], None]): takes a line on how far it is, now and then.

    Returns:
        dict | None: what :class:`~mmpvt.reproduction.collecting.ReproductionHook` wrote;
        None on all processes but the first.

    Raises:
        TestFailed: it ended without a result.
    """
    folder = job.folder.absolute()
    rank = next((environment[name] for name in VARIABLES.values() if name in environment), "0")
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "collected.json"
    config = folder / f"config_{rank}.py"
    text = CONFIG.format(  # in ASCII, whatever a path holds
        base=str(job.config.absolute()), out=str(out), pictures=job.pictures, parent=os.getpid()
    )
    atomic_write(config, text.encode())
    if is_first_process():
        out.unlink(missing_ok=True)
    command = [sys.executable, str(tool), str(config), str(job.checkpoint.absolute())]
    command += ["--work-dir", str(folder), *job.options]
    if job.data_root is not None:
        command += ["--data-root", job.data_root]
    log = folder / f"log_{rank}.txt"
    code = _follow(command, environment, log, tell)
    if not is_first_process():
        return None
    if code or not out.is_file():
        raise TestFailed(_reason(code, folder))
    return json.loads(out.read_bytes())


def _follow(
    command: list[str], environment: Mapping[str, str], log: Path, tell: Callable[[str], None]
) -> int:
    """Runs a command to its end, all that it prints kept in a file; its exit code."""
    log.unlink(missing_ok=True)  # another link to it keeps its content
    with (
        log.open("x", encoding="utf-8") as file,
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        ) as process,
    ):
        try:
            for line in process.stdout:
                file.write(line)
                file.flush()
                if found := PROGRESS.search(line):
                    tell("batch {} of {}, ETA {}".format(*found.groups()))
        except BaseException:
            process.terminate()
            raise
        return process.wait()


def _reason(code: int, folder: Path) -> str:
    """Why a test ended, by the logs of its processes: none of them that only lost another."""
    said = [
        match
        for log in sorted(folder.glob("log_*.txt"))
        for match in ERROR.findall(log.read_text(encoding="utf-8"))[-1:]
    ]
    own = [sentence for sentence in said if not LOST.search(sentence)] or said
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (", as a machine out of memory does" if code == -9 else "")
    if not own:
        return f"ended with code {code} and without a message: see {folder / 'log_0.txt'}"
    return own[0].removeprefix("error: ").strip()[:LONGEST]


def check_device(device: str | None) -> None:
    """Checks what ``--device`` names.

    Raises:
        UserError: it is no device, or this machine has none of that kind.
    """
    if device and not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise UserError(f"--device takes cpu, cuda or cuda:1, not {device}")
    if device and device != "cpu" and not torch.cuda.is_available():
        raise UserError(f"--device {device}: PyTorch finds no GPU on this machine")


def environment_of(number: int, launcher: str, device: str | None) -> dict[str, str]:
    """This process' environment, for a test started from it.

    Under a launcher, each process starts one, and they join at a port of their own.

    Args:
        number (int): of the test, from 0, the same on all processes.
        launcher (str): what started this process; ``'none'`` if it is alone.
        device (str | None): ``'cpu'``, ``'cuda'`` or ``'cuda:1'``; None for what there is.

    Returns:
        dict[str, str]: of variables.
    """
    variables = dict(os.environ, PYTHONUNBUFFERED="1", PYTHONIOENCODING="utf-8")
    if launcher != "none":
        port = int(variables.get("MASTER_PORT", DEFAULT_PORT))
        variables["MASTER_PORT"] = str(port + 1 + number)
        variables["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # of torchrun, at the old port
    if device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""
    elif device and ":" in device:
        variables["CUDA_VISIBLE_DEVICES"] = device.partition(":")[2]
    return variables
