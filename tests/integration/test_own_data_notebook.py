"""docs/own_data.ipynb, run from its first cell to its last."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from helpers import ROOT


def test_runs(
    tmp_path: Path, run_tool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Its tools run in copies of this process, which saves their imports."""

    run_program = subprocess.run

    def run(command: list, **options: object) -> subprocess.CompletedProcess:
        if command[0] != sys.executable:  # what a tool itself runs
            return run_program(command, **options)
        _, tool, *args = command
        assert tool.parent == ROOT / "tools"
        ended = run_tool(tool.name, *args)
        return subprocess.CompletedProcess(command, ended.code, ended.out, ended.err)

    notebook = json.loads((ROOT / "docs" / "own_data.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", run)
    # Without nbclient, which needs all of Jupyter's kernel: the cells are plain Python.
    exec(compile("\n\n".join(cells), "own_data.ipynb", "exec"), {"__name__": "__main__"})
    printed = capsys.readouterr().out
    assert "YOLO, 24 images" in printed and "6 classes: circle" in printed
    (work,) = tmp_path.glob("own_data_*")
    assert (work / "run" / "report" / "index.html").is_file()
