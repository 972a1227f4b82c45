"""What ``pyproject.toml`` can't declare: the ``.mim`` folder and the start-up file."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# what OpenMMLab packages carry under .mim, and what our tools read beside it
MIM = ("configs", "tools", "model-index.yml", "docs/published_results.json")
NOT_IN_WHEEL = ("__pycache__", "benchmark*", "dev", "make_model_zoo.py", "sweep_*.py")


class BuildWithConfigs(build_py):
    """Lays configs and tools under ``mmpvt/.mim``: copied into a wheel, linked in a checkout."""

    def run(self) -> None:
        super().run()
        mim = ROOT / "mmpvt" / ".mim" if self.editable_mode else Path(self.build_lib, "mmpvt/.mim")
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name in MIM:
            source, target = ROOT / name, mim / name
            target.parent.mkdir(exist_ok=True)
            if self.editable_mode:
                target.symlink_to(os.path.relpath(source, target.parent))
            elif source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns(*NOT_IN_WHEEL))
            else:
                shutil.copy(source, target)


class WithDataFiles(Distribution):
    """Takes ``data_files`` along in editable installs: ``editable_wheel`` asks for ``has_data``,
    which setuptools (81) doesn't define."""

    has_data = Distribution.has_data_files


setup(
    # Beside a wheel's data lies its purelib, whose files go to site-packages, where .pth files are
    # read. Also in an editable install these are copies: once the checkout is gone, Python still
    # starts without complaint
    data_files=[("../purelib", ["startup/mmpvt.pth", "startup/mmpvt_startup.py"])],
    distclass=WithDataFiles,
    cmdclass={"build_py": BuildWithConfigs},
)
