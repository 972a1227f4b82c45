"""The ``mmpvt`` command: its commands, mistakes, listings, and what it says of a broken stack."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmcv.transforms import Resize
from mmengine.registry import MODELS, TRANSFORMS
from torch.utils.data import DataLoader

from annotated import yolo
from helpers import ROOT, environment
from mmpvt import cli
from mmpvt.datasets.download.catalog import FILES, detector_of
from mmpvt.engine.choices import AMP_DTYPES
from mmpvt.engine.cli import user_errors
from mmpvt.engine.config import load_config, read_config
from mmpvt.engine.zoo import config_folder, read_zoo
from mmpvt.errors import ConfigError
from mmpvt.models import kernels
from mmpvt.models.archs import VARIANTS
from mmpvt.utils.constants import DOWNLOADS

NAME = "retinanet_pvt_s_fpn_1x_coco"
HELP = """
import sys
from mmpvt import cli
from mmpvt.cli import main
for command in ("", *cli.COMMANDS):
    try:
        main([*filter(None, [command]), "--help"])
    except SystemExit as end:
        assert not end.code
main(["list", "atss"])
print(*sys.modules, file=sys.stderr)
"""
SMALL = ("--train", "1", "--val", "1", "--size", "64", "64")
WITHOUT = (
    "import sys; sys.modules[{module!r}] = None; from mmpvt_command import main; sys.exit(main())"
)


def run_python(code: str, *args: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ((), "error: no command is given: mmpvt --help lists them\n"),
        (("trian", "config.py"), "error: there is no command trian: did you mean train?\n"),
        (
            ("predict", "config.py", ""),
            "error: an argument is empty (after config.py): is a variable of the shell not set?\n",
        ),
        (
            ("train", "config.py", "--data="),
            "error: an argument is empty (--data=): is a variable of the shell not set?\n",
        ),
        (("\x1b[2J",), "error: there is no command \\x1b[2J: mmpvt --help lists them\n"),
    ],
)
def test_mistaken_commands(arguments: tuple, sentence: str, capsys: pytest.CaptureFixture):
    assert cli.main(arguments) == 2
    assert capsys.readouterr() == ("", sentence)


def test_a_tool_with_an_empty_argument(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(sys, "argv", ["train.py", ""])
    with pytest.raises(SystemExit) as ended:
        cli.run_tool("train")
    assert ended.value.code == 2 and "argument is empty (the first)" in capsys.readouterr().err


def test_tools_have_the_commands_options(capsys: pytest.CaptureFixture):
    """``mmpvt NAME --help`` and ``tools/NAME.py --help`` are the same, and each command has one."""
    tools = {
        tool.stem
        for tool in (ROOT / "tools").glob("*.py")
        if not tool.stem.startswith(("benchmark", "make_model_zoo", "sweep_"))
    }
    modules = {name: cli.MODULES.get(name, name.replace("-", "_")) for name in cli.COMMANDS}
    assert tools == set(modules.values()) - {"list_configs", "env", "completion"}
    for name, module in modules.items():
        command = importlib.import_module(f"mmpvt.cli.{module}")
        alone = argparse.ArgumentParser(prog=f"mmpvt {name}", description=cli._summary(command))
        command.add_arguments(alone)
        if name != "run-onnx":
            with pytest.raises(SystemExit, match="0"):
                cli.main([name, "--help"])
            assert capsys.readouterr().out == alone.format_help()
        if module in tools - {"run_onnx"}:
            text = (ROOT / "tools" / f"{module}.py").read_text()
            assert f'run_tool("{name}")' in text


def test_a_command_runs_with_its_own_options(tmp_path: Path, capsys: pytest.CaptureFixture):
    """One that passes all of them on, too."""
    root = str(tmp_path / "shapes")
    assert cli.main(["make_shapes", root, *SMALL]) == 0
    assert (tmp_path / "shapes" / "val2017").is_dir() and root in capsys.readouterr().out


def test_help_is_fast():
    """What takes seconds to import isn't imported by it."""
    ended = run_python(HELP)
    assert ended.returncode == 0, ended.stderr
    for name in set(cli.COMMANDS) - {"run-onnx"}:
        assert f"usage: mmpvt {name}" in ended.stdout
    assert not {"torch", "mmcv", "mmdet", "mmseg"} & set(ended.stderr.split())


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, cli.SPINS),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "passive"}, "None"),
    ],
)
def test_idle_threads_leave_their_cores(variables: dict[str, str], expected: str):
    """Soon, which is set before PyTorch is imported, unless the user says how long they wait."""
    code = "import os; from mmpvt.cli import main; main(['list', 'atss'])"
    code += "; print(os.environ.get('GOMP_SPINCOUNT'))"
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment() | variables, capture_output=True, text=True
    )
    assert ended.stdout.split()[-1] == expected, ended.stderr


def test_configs_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where there is no checkout; unknown names get close ones."""
    monkeypatch.chdir(tmp_path)
    config = load_config(NAME)
    assert config.work_dir == f"work_dirs/{NAME}"
    assert config.model == read_config(str(ROOT / "configs" / f"{NAME}.py")).model
    assert read_config("retinanet_pvt_t_fpn_memorise16_coco").model  # its name once
    with pytest.raises(ConfigError, match=f"no config at retinanet_pvt_s_1x: did you mean.*{NAME}"):
        read_config("retinanet_pvt_s_1x")
    with pytest.raises(ConfigError, match="no config at zzzzzz: mmpvt list names those there are"):
        read_config("zzzzzz")


def test_list(capsys: pytest.CaptureFixture):
    assert cli.main(["list", "v2_B2", "retina", "coco"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "config"
    assert [line.split()[0] for line in lines[1:3]] == [
        "retinanet_pvt_v2_b2_li_fpn_1x_coco",
        "retinanet_pvt_v2_b2_fpn_1x_coco",
    ]
    assert "box AP 44.6 on COCO val2017" in lines[2] and lines[2].endswith("published")
    assert not lines[3]
    with pytest.raises(SystemExit, match="2"):
        cli.main(["list", "resnet"])
    assert capsys.readouterr().err == "error: no config's name holds resnet\n"


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "mmpvt", "list"],
        [str(ROOT / "tools" / "convert_dataset.py"), "data", "out", "--to", "coco"],
    ],
    ids=["mmpvt", "tool"],
)
def test_a_reader_that_ends(command: list[str], tmp_path: Path):
    """As in ``mmpvt list | head -1``."""
    (tmp_path / "data").mkdir()
    yolo(tmp_path / "data")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env=environment(),
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(writer)
    assert done.returncode == 141
    assert "Error" not in done.stderr  # older versions of PyTorch warn there


def test_without_a_standard_output(monkeypatch: pytest.MonkeyPatch):
    """As Python has it of a process that was started with it closed."""
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["list", "retinanet"]) == 0
    with pytest.raises(SystemExit) as ended:
        cli.main(["convert-dataset", "nowhere", "out", "--to", "coco"])
    assert ended.value.code == 2


@pytest.mark.parametrize("kind", ["own", "inner"])
def test_errors_that_are_not_of_the_config(kind: str):
    """A bug in a class of the user's, or in what it builds, keeps its traceback."""

    class Own:
        def __init__(self) -> None:
            if kind == "own":
                {}["weights"]
            DataLoader([0], batch_sampler=[0], batch_size=2)

    def build() -> None:
        with user_errors():
            MODELS.build(dict(type=Own))

    with pytest.raises((KeyError, ValueError)):
        build()


@pytest.mark.parametrize("kind", [ImportError, RuntimeError])
def test_a_package_that_a_class_lacks(
    kind: type, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """As MMDetection's classes say it."""

    def __init__(self: Resize, scale: tuple) -> None:
        raise kind("albumentations is not installed")

    monkeypatch.setitem(globals(), "__name__", "mmdet.datasets")
    monkeypatch.setattr(Resize, "__init__", __init__)
    with pytest.raises(SystemExit) as ended, user_errors():
        TRANSFORMS.build(dict(type=Resize, scale=(1, 1)))
    assert ended.value.code == 2
    assert "can't be built: Resize: albumentations is not installed" in capsys.readouterr().err


def test_a_file_that_a_class_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A metric's annotations, say; a user's own class gets its traceback."""

    def __init__(self: Resize, scale: tuple) -> None:
        open("none.odgt")  # noqa: PTH123, SIM115  as MMDetection does

    monkeypatch.setattr(Resize, "__init__", __init__)
    with pytest.raises(FileNotFoundError), user_errors():
        TRANSFORMS.build(dict(type=Resize, scale=(2, 2)))
    monkeypatch.setitem(globals(), "__name__", "mmdet.datasets")
    with pytest.raises(SystemExit) as ended, user_errors():
        TRANSFORMS.build(dict(type=Resize, scale=(2, 2)))
    assert ended.value.code == 2
    assert "error: none.odgt can't be used (No such file" in capsys.readouterr().err


def test_other_pipes_that_break(monkeypatch: pytest.MonkeyPatch):
    """Their error isn't taken for that of a reader that has ended."""

    def run(_: argparse.Namespace) -> int:
        raise BrokenPipeError

    monkeypatch.setattr("mmpvt.cli.list_configs.run", run)
    with pytest.raises(BrokenPipeError):
        cli.main(["list"])


def test_the_zoo_has_every_config():
    entries = {entry.name: entry for entry in read_zoo()}
    assert entries.keys() == {path.stem for path in config_folder("mmpvt").glob("*.py")}
    assert tuple(FILES) == DOWNLOADS
    weights = {entry.weights for entry in entries.values()} - {None}
    classifiers = {f"{variant.full_name}_8xb128_in1k": variant.weights for variant in VARIANTS}
    detectors = {file.url for file in FILES["detectors"].values()}
    assert weights == detectors | set(classifiers.values())
    for name, entry in entries.items():
        published = detector_of(name)
        assert entry.weights == (published.url if published else classifiers.get(name))
    assert entries["mask_rcnn_pvt_t_fpn_1x_coco"].scores == {"box AP": 36.7, "mask AP": 35.1}


def test_env(capsys: pytest.CaptureFixture):
    assert cli.main(["env"]) == 0
    said = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines())
    assert said["import mmpvt"].strip() == "works"
    assert "mmcv-lite" in said["mmcv"] or "mmcv " in said["mmcv"]
    assert "roi_align" in said["operators"] or "mmcv's compiled" in said["operators"]
    assert said["devices"].strip().startswith("cpu")
    for dtype in (torch.float32, torch.bfloat16):
        assert f"{str(dtype)[6:]} by {kernels.describe(dtype)}" in said["products"]


def test_a_broken_stack():
    """``mmpvt env`` says all the same what is there, and other commands why, in a sentence."""
    ended = run_python(WITHOUT.format(module="mmengine"), "env")
    assert ended.returncode == 2 and not ended.stderr
    said = dict(line.split(":", 1) for line in ended.stdout.splitlines())
    assert "doesn't import: ModuleNotFoundError" in said["mmengine"]
    assert said["import mmpvt"].strip().startswith("fails: mmpvt needs mmengine, which isn't")
    assert said["devices"].strip().startswith("cpu")
    ended = run_python(WITHOUT.format(module="mmcv"), "list")
    assert ended.returncode == 2 and not ended.stdout
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: mmpvt needs mmcv, which isn't installed: pip install")


def test_completion(tmp_path: Path, capsys: pytest.CaptureFixture):
    """What bash offers at the places of a command, a choice and a config."""
    assert cli.main(["completion", "bash"]) == 0
    script = tmp_path / "mmpvt.bash"
    script.write_text(capsys.readouterr().out)

    def offered(*words: str) -> list[str]:
        code = (
            f"source {script}; COMP_WORDS=(mmpvt {' '.join(words)}); "
            f"COMP_CWORD={len(words)}; _shtab_mmpvt; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        )
        done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert offered("tr") == ["train"]
    assert offered("train", "--amp", "''") == list(AMP_DTYPES)
    assert f"{NAME}_640" in offered("train", "retinanet_pvt_s")
