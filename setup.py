"""Packaging: what the wheel needs and carries."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
# what OpenMMLab packages carry under .mim, and what our tools read beside it
MIM = ("configs", "tools", "model-index.yml", "docs/published_results.json")

NOT_IN_WHEEL = ("__pycache__", "benchmark*", "dev", "make_model_zoo.py", "sweep_swap.py")


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


def version() -> str:
    scope: dict = {}
    exec((ROOT / "mmpvt" / "version.py").read_text(), scope)
    return scope["__version__"]


setup(
    name="mmpvt",
    version=version(),
    description="Pyramid Vision Transformers under any MMDetection or MMSegmentation model",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["mmpvt", "mmpvt.*"]),
    package_data={"mmpvt.reproduction.page": ["*.html", "*.css", "*.js"]},
    # Beside a wheel's data lies its purelib, whose files go to site-packages, where .pth files are
    # read. Also in an editable install these are copies: once the checkout is gone, Python still
    # starts without complaint
    data_files=[("../purelib", ["startup/mmpvt.pth", "startup/mmpvt_startup.py"])],
    distclass=WithDataFiles,
    cmdclass={"build_py": BuildWithConfigs},
    python_requires=">=3.10",
    # mmcv is left out: mmcv-lite and mmcv both provide it, and a machine has room for one.
    install_requires=[
        "torch>=2.4",  # torch.serialization.add_safe_globals
        "mmengine>=0.10.7,<1.0",
        "mmdet>=3.3,<4",
        "mmsegmentation>=1.2.2,<2",
        "numpy",
        "opencv-python",
        "msgspec>=0.18",  # reads annotation files and checks what they hold
        "requests",  # downloads
        "urllib3>=2",  # retries; counts the bytes that requests receives
        "ftfy",  # mmsegmentation imports it and regex, and declares neither
        "regex",
        "setuptools<82",  # MMEngine resolves mmdet:: through pkg_resources before we can help
    ],
    extras_require={
        "lite": ["mmcv-lite>=2.0.0,<2.2"],
        "full": ["mmcv>=2.0.0,<2.2"],
        "tensorboard": ["tensorboard"],
        "safetensors": ["safetensors"],
        "evaluation": ["faster-coco-eval"],
        "export": ["onnx", "onnxscript", "onnxruntime", "pillow"],
        "app": ["gradio"],
    },
)
