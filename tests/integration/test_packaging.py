"""What a wheel carries, and what runs where it is installed, in a folder without the checkout."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import mmdet
import mmseg
import pytest

from helpers import ROOT, environment, save_untrained
from mmpvt.datasets.shapes import CLASSES

PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
MMDET_TOOLS = Path(mmdet.__file__).parent / ".mim" / "tools"
MMSEG_TOOLS = Path(mmseg.__file__).parent / ".mim" / "tools"
MODULES = "import sys; print(*sorted(sys.modules))"
HELP_OF_ALL = """
import runpy, sys, traceback
from pathlib import Path
for tool in sorted(Path(sys.argv[1]).glob("*.py")):
    sys.argv, sys.path[0] = [str(tool), "--help"], str(tool.parent)
    try:
        runpy.run_path(str(tool), run_name="__main__")
    except SystemExit as end:
        assert not end.code, f"{tool.name} ended with {end.code}"
    print("started:", tool.name)
"""
PLAIN_API = """
import sys
from mmdet.apis import inference_detector, init_detector
model = init_detector(*sys.argv[1:3], device="cpu")
print(type(model.backbone).__module__, len(inference_detector(model, sys.argv[3]).pred_instances))
"""


@dataclass
class Installed:
    """An environment of its own over this one's packages, without this one's mmpvt."""

    root: Path

    @property
    def python(self) -> str:
        return str(self.root / "bin" / "python")

    @property
    def packages(self) -> Path:
        """Its site-packages."""
        (folder,) = (self.root / "lib").glob("python*/site-packages")
        return folder

    @property
    def mim(self) -> Path:
        """Where the configs and tools lie."""
        return self.packages / "mmpvt" / ".mim"

    def pip(self, *args: object) -> None:
        subprocess.run([*PIP, "--python", self.python, *map(str, args)], check=True, timeout=300)

    def run(self, *args: object, cwd: Path, **variables: str) -> str:
        """What a process of its Python prints, made sure to end well."""
        done = self.start(*args, cwd=cwd, **variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, *args: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess:
        env = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
        return subprocess.run(
            [self.python, *map(str, args)],
            env={**env, **variables},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def config(self, folder: Path, like: Path) -> Path:
        """A checkout's small config on its installed base."""
        path = folder / like.name
        path.write_text(like.read_text().replace(str(ROOT), str(self.mim)))
        return path


def make_environment(root: Path) -> Installed:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root], check=True, timeout=120)
    made = Installed(root)
    # a path's own .pth files are not read, so this environment's mmpvt isn't found
    (made.packages / "base.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return made


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, to build in."""
    unused = (".git", ".venv", "data", "work_dirs", "tests", "__pycache__", "build", "*.egg-info")
    target = tmp_path_factory.mktemp("packaging") / "source"
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*unused, ".mim"), symlinks=True)
    return target


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the source distribution, as ``python -m build`` does."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    command = [sys.executable, "-c", build, folder]
    subprocess.run(command, cwd=source, check=True, timeout=300, stdout=subprocess.DEVNULL)
    (sdist,) = folder.glob("mmpvt-*.tar.gz")
    command = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, sdist]
    subprocess.run(command, check=True, timeout=300)
    (path,) = folder.glob("mmpvt-*.whl")
    return path


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    made = make_environment(tmp_path_factory.mktemp("installed") / "env")
    made.pip("install", "--no-deps", "--ignore-installed", wheel)
    return made


def users_tools() -> list[Path]:
    """The tools but for those that benchmark and write the documentation's tables."""
    developers = ("benchmark", "make_model_zoo", "sweep_")
    return [t for t in (ROOT / "tools").glob("*.py") if not t.name.startswith(developers)]


def test_wheel_carries_what_is_read(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        model_index = archive.read("mmpvt/.mim/model-index.yml").decode()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith("/METADATA"))
    for file in (*(ROOT / "configs").rglob("*.py"), *users_tools()):
        assert f"mmpvt/.mim/{file.relative_to(ROOT)}" in names
    assert not any(re.search(r"\.mim/tools/(dev|bench|sweep|make_model)", name) for name in names)
    for file in (ROOT / "mmpvt").rglob("*"):
        if file.is_file() and not {"__pycache__", ".mim"} & set(file.parts):
            assert str(file.relative_to(ROOT)) in names
    assert "mmpvt/.mim/docs/published_results.json" in names
    assert not any(name.startswith("tests/") for name in names)
    assert "retinanet_pvt_s_fpn_1x_coco" in model_index
    assert "mmpvt/py.typed" in names
    assert "mmpvt_command.py" in names
    for line in ("License-Expression: Apache-2.0", "Requires-Dist: torch>=2.4"):
        assert f"\n{line}\n" in metadata
    extras = {"lite", "full", "onedl", "evaluation", "export", "app", "safetensors", "tensorboard"}
    assert extras < set(re.findall("^Provides-Extra: (.+)$", metadata, re.MULTILINE))


def test_every_tool_starts(installed: Installed, tmp_path: Path):
    tools = {tool.name for tool in users_tools()}
    out = installed.run("-c", HELP_OF_ALL, installed.mim / "tools", cwd=tmp_path)
    assert set(re.findall(r"^started: (\S+)$", out, re.MULTILINE)) == tools
    args = ("--checkpoints", tmp_path, "--out", tmp_path / "report")
    ended = installed.start(installed.mim / "tools" / "reproduce.py", *args, cwd=tmp_path)
    assert ended.returncode == 2
    assert "no file under" in ended.stderr, "beyond the published results"


def test_the_command(installed: Installed, tmp_path: Path):
    """In a folder without the checkout, configs go by their names."""
    command = installed.root / "bin" / "mmpvt"
    args = ("swap", "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", "--arch", "b0")
    assert "wrote b0.py" in installed.run(command, *args, "--out", "b0.py", cwd=tmp_path)
    listed = installed.run(command, "list", "retinanet_pvt_s", cwd=tmp_path)
    assert "retinanet_pvt_s_fpn_1x_coco " in listed
    ended = installed.start(command, "trian", cwd=tmp_path)
    assert ended.returncode == 2 and "did you mean train?" in ended.stderr


@pytest.mark.full
def test_the_chain_from_data_to_report(installed: Installed, tiny_config: Path, tmp_path: Path):
    def run(tool: str, *args: object) -> str:
        return installed.run(installed.mim / "tools" / tool, *args, cwd=tmp_path)

    config = installed.config(tmp_path, tiny_config).name
    run("make_shapes.py", "data/shapes", "--train", 8, "--val", 4, "--size", 64, 64)
    run("train.py", config, "--work-dir", "work", "--seed", 0)
    checkpoint = "work/epoch_2.pth"
    assert "coco/bbox_mAP" in run("test.py", config, checkpoint, "--work-dir", "tested")
    run("predict.py", config, checkpoint, "data/shapes/val2017", "--out", "results")
    assert len(json.loads((tmp_path / "results" / "predictions.json").read_text()))
    run("export.py", config, checkpoint, "--out", "model.onnx")
    run("run_onnx.py", "model.onnx", "data/shapes/val2017", "--out", "onnx")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / checkpoint).rename(tmp_path / "checkpoints" / "tiny.pth")
    run("reproduce.py", *("--checkpoints", "checkpoints", "--map", f"tiny={config}"), "--out", "r")
    (record,) = json.loads((tmp_path / "r" / "results.json").read_text())["models"]
    assert record["status"] == "tested" and record["images"] == 4
    assert (tmp_path / "r" / "index.html").is_file()


def test_mmdetections_api(installed: Installed, shapes: Path, tiny_config: Path, tmp_path: Path):
    """It imports mmcv.ops before it reads ``custom_imports``."""
    config = installed.config(tmp_path, tiny_config)
    checkpoint = save_untrained(config, tmp_path / "untrained.pth")
    image = next((shapes / "val2017").iterdir())
    out = installed.run("-c", PLAIN_API, config, checkpoint, image, cwd=tmp_path)
    assert re.search(r"^mmpvt\.models\.pvt \d+$", out, re.MULTILINE)


@pytest.mark.full
def test_mmdetections_tools(installed: Installed, shapes: Path, tiny_config: Path, tmp_path: Path):
    """They import mmcv.ops before they read ``custom_imports``, or without any config."""
    config = installed.config(tmp_path, tiny_config)
    checkpoint = save_untrained(config, tmp_path / "untrained.pth")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shapes").symlink_to(shapes)
    tested = installed.run(
        *(MMDET_TOOLS / "test.py", config, checkpoint, "--work-dir", "tested"),
        *("--out", "results.pkl"),
        cwd=tmp_path,
    )
    assert re.search(r"coco/bbox_mAP: \d\.\d+", tested)
    matrix = MMDET_TOOLS / "analysis_tools" / "confusion_matrix.py"
    installed.run(matrix, config, "results.pkl", "matrix", cwd=tmp_path, MPLBACKEND="Agg")
    assert (tmp_path / "matrix" / "confusion_matrix.png").stat().st_size


@pytest.mark.full
def test_mmsegmentations_tools(
    installed: Installed, shapes: Path, tiny_segmenter: Path, tmp_path: Path
):
    config = installed.config(tmp_path, tiny_segmenter)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "shapes").symlink_to(shapes)
    installed.run(MMSEG_TOOLS / "train.py", config, "--work-dir", "work", cwd=tmp_path)
    out = installed.run(
        *(MMSEG_TOOLS / "test.py", config, "work/iter_4.pth", "--work-dir", "tested"), cwd=tmp_path
    )
    assert all(name in out for name in CLASSES) and "mIoU" in out


def test_an_interpreter_starts_as_before(installed: Installed, tmp_path: Path):
    """Of what is installed, one module of a few lines runs at every start."""
    bare = make_environment(tmp_path / "bare")
    before, after = (set(env.run("-c", MODULES, cwd=tmp_path).split()) for env in (bare, installed))
    assert after - before == {"mmpvt_startup"}


@pytest.mark.parametrize("extension", ["names = ['nms']\n", "raise ImportError('undefined')\n"])
def test_mmcvs_own_extension_comes_first(installed: Installed, tmp_path: Path, extension: str):
    """One that doesn't load is mmcv's to complain about, until mmpvt is imported."""
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv" / "__init__.py").touch()
    (tmp_path / "mmcv" / "_ext.py").write_text(extension)
    code = "import sys; import mmcv._ext; print(mmcv._ext.names, 'mmpvt' in sys.modules)"
    done = installed.start("-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    if done.returncode:
        assert done.stderr.rstrip().endswith("ImportError: undefined")
    else:
        assert done.stdout == "['nms'] False\n"


def test_an_editable_install(source: Path, tmp_path: Path):
    """As ``make`` installs: MMDetection's API runs, and pip takes all of it away again."""
    made = make_environment(tmp_path / "env")
    before = set(made.packages.iterdir())
    options = ("--no-deps", "--no-build-isolation", "--ignore-installed")
    made.pip("install", *options, "--editable", source)
    code = "import mmdet.apis, mmpvt; print(mmpvt.ops.uses_fallback(), mmpvt.__file__)"
    out = made.run("-c", code, cwd=tmp_path)
    assert out.split() == ["True", str(source / "mmpvt" / "__init__.py")]
    assert (source / "mmpvt" / ".mim" / "docs" / "published_results.json").is_file()
    made.pip("uninstall", "--yes", "mmpvt")
    assert set(made.packages.iterdir()) - {made.packages / "__pycache__"} == before
    made.run("-c", "pass", cwd=tmp_path)
