"""Functions that the tests share."""

from __future__ import annotations

import faulthandler
import gc
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.utils import ManagerMixin

from mmpvt.models import PyramidVisionTransformer, PyramidVisionTransformerV2
from mmpvt.models.backbone import PyramidBackbone

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
DATA = Path(__file__).parent / "data"
LEAN = Path(__file__).parent / "lean"  # packages that processes go without, as they take long
SWAP_FAMILIES = (DATA / "swap_families.txt").read_text().split()  # a shipped config of each


def need(path: Path) -> Path:
    """The path, or the test is skipped where the shared folder isn't there."""
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    return path


def free_port() -> int:
    """A port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def kill_groups(processes: Sequence[subprocess.Popen]) -> None:
    """Ends processes, each of a session of its own, and what they started."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


def build_backbone(name: str, **kwargs) -> PyramidBackbone:
    """A backbone by its published name: ``pvt_small``, ``pvt_v2_b2_li``."""
    if name.startswith("pvt_v2_"):
        return PyramidVisionTransformerV2(name.removeprefix("pvt_v2_"), **kwargs)
    return PyramidVisionTransformer(name.removeprefix("pvt_"), **kwargs)


def golden_weight(key: str, shape: Sequence[int]) -> np.ndarray:
    """The float64 weight that the golden arrays were computed with: seeded by its name's crc32."""
    w = np.asarray(np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape))
    if key.endswith("weight") and len(shape) == 1:
        return 1.0 + 0.1 * w
    if key.endswith("bias") or "pos_embed" in key or key == "cls_token":
        return 0.1 * w
    return w / np.sqrt(np.prod(shape[1:]))


def golden_image(height: int, width: int) -> np.ndarray:
    """The float64 images that they were computed on, (2, 3, height, width)."""
    return np.random.default_rng(height * 10007 + width).standard_normal((2, 3, height, width))


def relative(ours: torch.Tensor | np.ndarray, theirs: torch.Tensor | np.ndarray) -> float:
    """Norm of the difference over norm."""
    ours, theirs = (np.asarray(torch.as_tensor(x).detach()) for x in (ours, theirs))
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def assert_equal(ours: object, theirs: object, where: str = "") -> None:
    """Bit for bit, through dicts and lists."""
    assert type(ours) is type(theirs), where
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), where
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), where
        for key in ours:
            assert_equal(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs), where
        for i, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_equal(*pair, f"{where}.{i}")
    else:
        assert ours == theirs, where


def randomised(model: torch.nn.Module) -> torch.nn.Module:
    """Random biases and norms too: fresh ones are constant, which would hide a mix-up.

    Its norms of patch embedding and attention have another epsilon than the published code's.
    """
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.LayerNorm) and ("embedding" in name or "attention" in name):
            module.eps = 1e-5
    return model.eval().double()


@dataclass
class Ended:
    """How a tool ended."""

    code: int
    out: str
    err: str

    def one_sentence(self) -> str:
        """The error it printed, made sure to be one line, without a traceback, with code 2."""
        assert self.code == 2, self.out + self.err
        assert "Traceback" not in self.out + self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert self.err.rstrip().endswith(lines[0]), self.err
        return lines[0]


def wait_until(page, condition: Callable[[], object], timeout: float = 120) -> None:
    """Waits until something holds of a browser's page, which changes in its own time."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, page.inner_text("body")[:2000]
        page.wait_for_timeout(50)


class Started:
    """A tool in a copy of this process, the leader of a process group of its own.

    A copy saves the imports. CUDA can't be copied: where there is a GPU, it is a new process.

    Args:
        tool (str): ``train.py``, say.
        args (tuple): its arguments.
        output (Path): the file that takes what it prints.
        variables (dict[str, str]): set in its environment.
        copied (bool): a copy of this process, whose memory is partly this one's. Default: True.
        errors (Path | None): takes what it prints to stderr. Default: ``output`` does, too.
    """

    def __init__(
        self,
        tool: str,
        args: tuple,
        output: Path,
        variables: dict[str, str],
        copied: bool = True,
        errors: Path | None = None,
    ) -> None:
        self.output = output
        self.code: int | None = None
        if torch.cuda.is_available() or not copied:
            self.pid = _spawn_tool(tool, args, output, variables, errors)
            return
        self.pid = os.fork()
        if not self.pid:
            gc.freeze()  # collecting would copy all of the tests' memory
            os.environ.update(variables)
            os._exit(_run_tool(tool, args, output, errors))

    @property
    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text() if self.output.exists() else ""

    def wait(self, timeout: float = 300) -> int:
        """The exit code, negative for a signal's number, once it has ended."""
        self.wait_for(lambda: not self.is_alive(), timeout)
        return self.code

    def wait_for(
        self, condition: Callable[[], object], timeout: float = 300, pause: float = 0.002
    ) -> None:
        """Waits until something holds; its end, before that, fails the test."""
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                self.signal(signal.SIGUSR1)  # all its processes print where they are
                time.sleep(2)
                raise AssertionError(f"nothing in {timeout} s: {self.text[-30000:]}")
            assert self.is_alive() or condition(), self.text[-3000:]
            time.sleep(pause)

    def is_alive(self) -> bool:
        """Whether it still runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is None

    def signal(self, number: int) -> None:
        """Sends a signal to it and its workers, as a terminal or a cluster does."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """Ends it and its workers at this very moment."""
        self.signal(signal.SIGKILL)
        if self.code is None:
            self.wait()


def _spawn_tool(
    tool: str, args: tuple, output: Path, variables: dict[str, str], errors: Path | None
) -> int:
    line = command(tool, *args)
    create = os.O_CREAT | os.O_WRONLY
    actions = [(os.POSIX_SPAWN_OPEN, 1, output, create, 0o600)]
    if errors:
        actions.append((os.POSIX_SPAWN_OPEN, 2, errors, create, 0o600))
    else:
        actions.append((os.POSIX_SPAWN_DUP2, 1, 2))
    env = {**environment(), **variables}
    return os.posix_spawn(line[0], line, env, file_actions=actions, setsid=True)


def _run_tool(tool: str, args: tuple, output: Path, errors: Path | None) -> int:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    for stream, path in ((1, output), (2, errors)):
        if path:
            with path.open("wb", buffering=0) as file:
                os.dup2(file.fileno(), stream)
    if not errors:
        os.dup2(1, 2)
    sys.stdout, sys.stderr = (os.fdopen(i, "w", buffering=1) for i in (1, 2))
    faulthandler.register(signal.SIGUSR1, sys.stderr)  # its own processes inherit it
    forget_runs()
    sys.argv = [tool, *map(str, args)]
    try:
        runpy.run_path(str(ROOT / "tools" / tool), run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def forget_runs() -> None:
    """Drops the scopes, loggers and visualizers of runs within this process.

    MMEngine finds them again by a name that ends in the second a run started: the next run within
    that second would log to a stream that is closed by now.
    """
    kinds = [ManagerMixin]
    for kind in kinds:
        kind._instance_dict.clear()
        kinds.extend(kind.__subclasses__())


def environment(lean: bool = True) -> dict[str, str]:
    """Of a tool run as a process: this checkout first, one thread."""
    path = f"{ROOT}{os.pathsep}{LEAN}" if lean else str(ROOT)
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def command(tool: str, *args: object) -> list[str]:
    """The command line of ``tools/TOOL``."""
    return [sys.executable, str(ROOT / "tools" / tool), *map(str, args)]


def save_untrained(config: Path, target: Path) -> Path:
    """A checkpoint of drawn weights, whose predictions differ from place to place."""
    settings = Config.fromfile(config)
    init_default_scope(settings.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(settings.model)
    model.init_weights()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    torch.save(dict(state_dict=model.state_dict()), target)
    return target
