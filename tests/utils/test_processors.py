"""As many threads as a process' control groups can keep busy."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import run_onnx

from helpers import environment
from mmpvt.cli import share_processors
from mmpvt.utils import processors

V1 = "4:memory:/\n3:cpu,cpuacct:{}\n1:name=systemd:/\n"
V2 = "0::{}\n"
QUOTA, PERIOD = "cpu/{}cpu.cfs_quota_us", "cpu/{}cpu.cfs_period_us"


@pytest.mark.parametrize(
    ("own", "files", "expected"),
    [
        (None, {}, 8),  # not Linux
        (V2.format("/"), {}, 8),
        (V2.format("/"), {"cpu.max": "max 100000"}, 8),
        (V2.format("/"), {"cpu.max": "250000 100000"}, 3),
        (V2.format("/"), {"cpu.max": "10000 100000"}, 1),
        (V2.format("/"), {"cpu.max": "6400000 100000"}, 8),
        (V2.format("/"), {"cpu.max": "nonsense"}, 8),
        (V2.format("/a/b"), {"a/cpu.max": "200000 100000", "a/b/cpu.max": "max 100000"}, 2),
        (V2.format("/a/b"), {"a/cpu.max": "max 100000", "a/b/cpu.max": "400000 100000"}, 4),
        (V2.format("/docker/1"), {"cpu.max": "300000 100000"}, 3),  # which isn't there
        (V2.format("/../.."), {"cpu.max": "300000 100000"}, 3),
        (V1.format("/"), {QUOTA.format(""): "-1", PERIOD.format(""): "100000"}, 8),
        (V1.format("/"), {QUOTA.format(""): "150000\n", PERIOD.format(""): "50000\n"}, 3),
        (V1.format("/a"), {QUOTA.format("a/"): "50000", PERIOD.format("a/"): "50000"}, 1),
        (V1.format("/a"), {QUOTA.format(""): "200000", PERIOD.format(""): "100000"}, 2),
        (V1.format("/"), {"cpu.max": "100000 100000"}, 8),
        (V2.format("/\udcff"), {"\udcff/cpu.max": "200000 100000"}, 2),  # no UTF-8
    ],
)
def test_limits_of_groups(
    own: str | None,
    files: dict[str, str],
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    if own is not None:
        (tmp_path / "own").write_text(own, errors="surrogateescape")
    for name, text in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for module in (processors, run_onnx):
        monkeypatch.setattr(module, "OWN_GROUPS", tmp_path / "own")
        monkeypatch.setattr(module, "GROUPS", tmp_path / "groups")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert processors.usable_processors() == expected
    assert run_onnx.granted_processors() == (expected if expected < 8 else None)


def test_threads_of_an_exported_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """What is granted, unless a number is asked for."""
    asked = []

    def runtime(path: Path, threads: int | None) -> None:
        asked.append(threads)
        raise ValueError

    monkeypatch.setitem(run_onnx.RUNTIMES, "onnxruntime", runtime)
    monkeypatch.setattr(run_onnx, "granted_processors", lambda: 3)
    (tmp_path / "model.onnx").touch()
    for threads in (None, 5):
        with pytest.raises(run_onnx.UserError):
            run_onnx.Model(tmp_path / "model.onnx", threads)
    assert asked == [3, 5]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "2"),
        ({"OMP_NUM_THREADS": "5"}, "5"),
        ({"RANK": "0"}, None),  # processes that share the limit
        ({"SLURM_PROCID": "0"}, None),
    ],
)
def test_threads(variables: dict, expected: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mmpvt.cli.affine_processors", lambda: 8)
    monkeypatch.setattr("mmpvt.cli.usable_processors", lambda: 8)
    unlimited = dict(variables)
    share_processors(unlimited)
    assert unlimited.get("OMP_NUM_THREADS") == variables.get("OMP_NUM_THREADS")
    monkeypatch.setattr("mmpvt.cli.usable_processors", lambda: 2)
    share_processors(variables)
    assert variables.get("OMP_NUM_THREADS") == expected


@pytest.fixture
def limited_group() -> Iterator[Path]:
    """A control group that may use one processor's time."""
    root = processors.GROUPS
    is_first = (root / "cpu").is_dir()
    group = (root / "cpu" if is_first else root) / f"mmpvt_test_{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("no control group can be made here")
    try:
        if is_first:
            (group / "cpu.cfs_quota_us").write_text("100000")
        elif (group / "cpu.max").exists():
            (group / "cpu.max").write_text("100000 100000")
        else:
            pytest.skip("control groups don't limit processors here")
        yield group
    finally:
        group.rmdir()


def test_a_limited_process(limited_group: Path):
    """PyTorch starts one thread where a group grants one processor's time."""
    if processors.affine_processors() == 1:
        pytest.skip("there is one processor")
    code = (
        "import os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n"
        "from mmpvt.cli import main; sys.exit(main(['env']))"
    )
    variables = environment()
    del variables["OMP_NUM_THREADS"]
    ended = subprocess.run(
        [sys.executable, "-c", code, str(limited_group / "cgroup.procs")],
        env=variables,
        capture_output=True,
        text=True,
    )
    assert "PyTorch's 1, on 1 usable cores" in ended.stdout, ended.stdout + ended.stderr
