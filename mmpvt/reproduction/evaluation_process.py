"""A checkpoint's test in a process of its own.

It is ``tools/test.py`` itself, with one more hook. The process's end frees all memory, and neither
a crash nor an error that leaves a GPU's context unusable reaches beyond it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch
from mmengine.config import Config

from mmpvt.engine.launch import is_first_process
from mmpvt.errors import LaunchError, UserError
from mmpvt.reproduction import evaluation_child
from mmpvt.utils.atomic import atomic_write
from mmpvt.utils.constants import RANKS

DEFAULT_PORT = 29500  # MMEngine's
MAX_ERROR = 300  # characters
POLL_INTERVAL = 2.0  # seconds
HOOK_MODULE = "mmpvt.reproduction.reproduction_hook"


class EvaluationError(UserError):
    """A test ended without a result."""


def run_evaluation(
    tool: Path,
    config: Config,
    checkpoint: Path,
    arguments: Sequence[str],
    folder: Path,
    max_images: int,
    environment: Mapping[str, str],
    report: Callable[[str], None],
) -> dict | None:
    """Tests a checkpoint.

    Args:
        tool (Path): ``tools/test.py``.
        config (Config): the model's, as read from its file.
        checkpoint (Path): the file.
        arguments (Sequence[str]): more of the tool's.
        folder (Path): for logs and what the test writes.
        max_images (int): of the gallery.
        environment (Mapping[str, str]): the process's.
        report (Callable[[str], None]): takes a line on the progress, now and then.

    Returns:
        dict | None: what :class:`~.reproduction_hook.ReproductionHook` wrote; None on all
        processes but the first.

    Raises:
        EvaluationError: it ended without a result.
    """
    folder = folder.absolute()
    rank = next((environment[name] for name in RANKS.values() if name in environment), "0")
    folder.mkdir(parents=True, exist_ok=True)
    out, progress = folder / "collected.json", folder / "progress.json"
    error = folder / f"error_{rank}.json"
    for file in (error, out, progress) if is_first_process() else (error,):
        file.unlink(missing_ok=True)
    imports = (config.get("custom_imports") or {}).get("imports", [])
    imports = [*([imports] if isinstance(imports, str) else imports), HOOK_MODULE]
    hook = dict(out=str(out), progress=str(progress), max_images=max_images, parent=os.getpid())
    settings = dict(
        _base_=str(Path(config.filename).absolute()),
        custom_imports=dict(imports=imports),
        default_hooks=dict(reproduction=dict(type="mmpvt.ReproductionHook", **hook)),
    )
    file = folder / f"config_{rank}.py"
    lines = (f"{key} = {value!a}\n" for key, value in settings.items())
    atomic_write(file, "".join(lines).encode("ascii"))  # whatever a path holds
    command = [sys.executable, evaluation_child.__file__, str(error), str(tool), str(file)]
    command += [str(checkpoint.absolute()), "--work-dir", str(folder), *arguments]
    code = _run(command, environment, folder / f"log_{rank}.txt", progress, report)
    if not is_first_process():
        return None
    if code or not out.is_file():
        raise _failure(code, folder)
    return json.loads(out.read_bytes())


def _run(
    command: list[str],
    environment: Mapping[str, str],
    log: Path,
    progress: Path,
    report: Callable[[str], None],
) -> int:
    """Runs a command to its end, its output in a log file; its exit code."""
    log.unlink(missing_ok=True)  # another link to it keeps its content
    said = None
    with (
        log.open("xb") as file,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
        ) as process,
    ):
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(POLL_INTERVAL)
                with suppress(OSError):
                    now = json.loads(progress.read_bytes())
                    if is_first_process() and now != said:
                        eta = timedelta(seconds=now["eta"])
                        report(f"batch {now['batch']} of {now['batches']}, ETA {eta}")
                    said = now
        except BaseException:
            process.terminate()
            raise


def _failure(code: int, folder: Path) -> EvaluationError:
    """The error of the process that failed first: the others' is that they lost it."""
    if code < 0:
        name = signal.Signals(-code).name
        like = ", as a machine out of memory does" if -code == signal.SIGKILL else ""
        return EvaluationError(f"ended by {name}{like}")
    errors = [json.loads(file.read_bytes()) for file in sorted(folder.glob("error_*.json"))]
    if not errors:
        log = folder / "log_0.txt"
        return EvaluationError(f"ended with code {code} and without a message: see {log}")
    fields = min(errors, key=lambda error: error.pop("lost_another", False))
    fields["what"] = fields["what"][:MAX_ERROR]
    return EvaluationError(**fields)


def check_device(device: str | None) -> None:
    """Refuses what is no device, or a GPU where this machine has none."""
    if device and not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise LaunchError(f"{device} is none of cpu, cuda, cuda:1", setting="device")
    if device and device != "cpu" and not torch.cuda.is_available():
        raise LaunchError(f"{device}: PyTorch finds no GPU on this machine", setting="device")


def environment_of(number: int, launcher: str, device: str | None) -> dict[str, str]:
    """This process's environment, for test ``number``, from 0, started from it.

    Under a launcher, each process starts one, and they join at a port of their own.
    """
    variables = dict(os.environ, PYTHONUNBUFFERED="1", PYTHONIOENCODING="utf-8")
    if launcher != "none":
        port = int(variables.get("MASTER_PORT", DEFAULT_PORT))
        variables["MASTER_PORT"] = str(port + 1 + number)
        variables["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # torchrun's, at the old port
    if device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""
    elif device and ":" in device:
        variables["CUDA_VISIBLE_DEVICES"] = device.partition(":")[2]
    return variables
