"""What a wheel carries."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from helpers import ROOT


def test_wheel_carries_configs_and_tools(tmp_path: Path):
    left_out = shutil.ignore_patterns(".git", ".venv", "data", "work_dirs", "tests", "__pycache__")
    source = shutil.copytree(ROOT, tmp_path / "source", ignore=left_out, symlinks=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "-w", tmp_path, source], check=True, timeout=120)
    (wheel,) = tmp_path.glob("mmpvt-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        model_index = archive.read("mmpvt/.mim/model-index.yml").decode()
    for folder, pattern in (("configs", "*.py"), ("tools", "*")):
        for file in (ROOT / folder).rglob(pattern):
            if file.is_file() and "__pycache__" not in file.parts:
                assert f"mmpvt/.mim/{file.relative_to(ROOT)}" in names
    page = "mmpvt/analysis/reproduction/page"
    assert {f"{page}/page.html", f"{page}/page.css", f"{page}/main.js"} <= names
    assert {"mmpvt/__init__.py", "mmpvt/models/pvt.py"} <= names
    assert not any(name.startswith("tests/") for name in names)
    assert "retinanet_pvt_s_fpn_1x_coco" in model_index
