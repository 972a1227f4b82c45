"""docs/own_data.ipynb, run from its first cell to its last."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from helpers import ROOT, environment


def test_runs(tmp_path: Path):
    notebook = json.loads((ROOT / "docs" / "own_data.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    # Without nbclient, which needs all of Jupyter's kernel: the cells are plain Python.
    ended = subprocess.run(
        [sys.executable, "-"],
        input="\n\n".join(cells),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**environment(), "TMPDIR": str(tmp_path)},
        timeout=240,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "YOLO, 24 images" in ended.stdout and "6 classes: circle" in ended.stdout
    (work,) = tmp_path.glob("own_data_*")
    assert (work / "run" / "report" / "index.html").is_file()
