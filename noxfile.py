"""The versions that mmpvt is tested with: ``nox --list``, ``nox -s py311-torch2.13``.

A session makes an environment, installs this checkout in it as a wheel, runs the fast part of the
suite and the chain of commands that ``tools/dev/compatibility.py`` lists, and has that tool record
what came out in docs/compatibility.md. PyTorch's CUDA builds take 6 GB each: ``NOX_REMOVE=1``
removes a session's environment after it.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["py311-torch2.13"]  # requirements/tested.txt
nox.options.stop_on_first_error = False

ROOT = Path(__file__).parent
UNUSED = {"ruff", "mypy", "import-linter", "deptry", "gradio", "playwright"}  # lint, the page
OPENMMLAB = {"mmengine", "mmcv-lite", "mmdet", "mmsegmentation"}
ONEDL = ("onedl-mmengine", "onedl-mmcv", "onedl-mmdetection", "onedl-mmsegmentation")
TORCHVISION = {"torchvision", "mmpretrain"}  # a release fits one PyTorch; mmpretrain needs it
TRANSFORMERS_4 = ("transformers>=4.57,<5", "huggingface_hub<1")

# A covering set, not the product: each Python, PyTorch, stack and optional package at least once.
# name: (Python, PyTorch, what replaces or joins requirements/, what is left out of it)
MATRIX: dict[str, tuple[str, str, tuple[str, ...], set[str]]] = {
    "py310-torch2.4": ("3.10", "2.4.1", TRANSFORMERS_4, TORCHVISION),
    "py310-torch2.13-onedl": ("3.10", "2.13.0", (*ONEDL, *TRANSFORMERS_4), OPENMMLAB),
    "py311-torch2.13": ("3.11", "2.13.0", (), set()),
    "py311-torch2.13-onedl": ("3.11", "2.13.0", ONEDL, OPENMMLAB),
    "py312-torch2.8-mmpretrain": (
        *("3.12", "2.8.0"),
        ("torchvision==0.23.0", "mmpretrain", *TRANSFORMERS_4),
        set(),
    ),
    "py312-torch2.14-torchvision": ("3.12", "2.14.1", ("torchvision==0.29.1", "timm"), set()),
    "py313-torch2.14": ("3.13", "2.14.1", (), {"transformers", *TORCHVISION}),
    "py313-torch2.14-onedl-torchvision": (
        *("3.13", "2.14.1"),
        (*ONEDL, "torchvision==0.29.1"),
        OPENMMLAB,
    ),
}


def pinned(without: set[str]) -> list[str]:
    """The lines of requirements/ but for PyTorch and ``without``."""
    lines = "\n".join(
        (ROOT / "requirements" / name).read_text() for name in ("tested.txt", "dev.txt")
    )
    known = re.findall(r"^([\w.-]+)(==.+?)(?:  #.*)?$", lines, re.MULTILINE)
    return [name + rest for name, rest in known if name not in {"torch", *without}]


def matrix_session(name: str) -> None:
    python, torch, others, without = MATRIX[name]

    @nox.session(name=name, python=python)
    def run(session: nox.Session) -> None:
        replaced = {re.split("[=<>]", other)[0] for other in others}
        requirements = Path(session.create_tmp()) / "requirements.txt"
        lines = [f"torch=={torch}", *others, *pinned(UNUSED | without | replaced)]
        requirements.write_text("\n".join(lines) + "\n")
        session.install("-r", str(requirements))
        session.install("--no-deps", "--no-build-isolation", str(ROOT))
        tool = ROOT / "tools" / "dev" / "compatibility.py"
        try:
            session.run("python", str(tool), name, *session.posargs, env={"OMP_NUM_THREADS": "1"})
        finally:
            if os.environ.get("NOX_REMOVE"):
                shutil.rmtree(session.virtualenv.location, ignore_errors=True)


for _name in MATRIX:
    matrix_session(_name)


@nox.session(python="3.11")
def wheel(session: nox.Session) -> None:
    """Builds the wheel and the source distribution, and checks their metadata."""
    session.install("build", "twine")
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(ROOT / "dist"), str(ROOT))
    session.run("twine", "check", "--strict", *map(str, (ROOT / "dist").iterdir()))
