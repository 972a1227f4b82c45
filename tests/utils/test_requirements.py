"""What is said where packages are missing, too old, or there twice."""

from __future__ import annotations

from importlib import metadata, util

import pytest

from mmpvt.errors import SetupError
from mmpvt.utils.requirements import check_requirements

UPSTREAM = {"mmengine", "mmcv-lite", "mmdet", "mmsegmentation"}
ONEDL = {"onedl-mmengine", "onedl-mmcv", "onedl-mmdetection", "onedl-mmsegmentation"}
MODULES = {"mmengine", "mmcv", "mmdet", "mmseg"}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch):
    """Has these distributions and modules be there, and no others."""

    def pretend(distributions: set[str], modules: set[str] = MODULES, torch: str = "2.13.0+cpu"):
        def version(name: str) -> str:
            if name == "torch":
                return torch
            if name in distributions:
                return "1.0"
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "version", version)
        monkeypatch.setattr(util, "find_spec", lambda name: name if name in modules else None)

    return pretend


@pytest.mark.parametrize("stack", [UPSTREAM, ONEDL, UPSTREAM | {"mmcv"}, set()])
@pytest.mark.parametrize("torch", ["2.4.0", "2.13.0+cpu", "3.0"])
def test_one_stack(install, stack: set[str], torch: str):
    install(stack, torch=torch)
    check_requirements()


def test_two_stacks(install):
    install(UPSTREAM | {"onedl-mmengine"})
    with pytest.raises(SetupError) as caught:
        check_requirements()
    said = str(caught.value)
    assert "mmengine and onedl-mmengine lie in the same folders" in said
    assert "pip uninstall -y mmengine mmcv-lite mmdet mmsegmentation onedl-mmengine && " in said


def test_an_old_torch(install):
    install(UPSTREAM, torch="2.1.2+cu118")
    with pytest.raises(SetupError, match=r"PyTorch 2.1.2\+cu118 is too old.*'torch>=2.4'"):
        check_requirements()


@pytest.mark.parametrize(("stack", "extra"), [({"mmengine"}, "lite"), ({"onedl-mmcv"}, "onedl")])
def test_what_is_missing(install, stack: set[str], extra: str):
    install(stack, {"mmengine", "mmcv"})
    with pytest.raises(ImportError, match=rf"needs mmdet and mmseg, .*mmpvt\[{extra}\]"):
        check_requirements()
