"""Settings that change how fast a run is."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from mmengine.config import Config
from torch import nn

from helpers import ROOT
from mmpvt import UserError
from mmpvt.engine import settings, speed


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose PyTorch says that it has one."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)


def load() -> Config:
    return settings.load_config(str(ROOT / "configs/retinanet_pvt_l_fpn_1x_coco.py"))


def test_mixed_precision_is_spared_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys):
    config = load()
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    speed.spare_amp_without_gpu(config)
    assert config.optim_wrapper.type == "OptimWrapper" and "loss_scale" not in config.optim_wrapper
    assert "float32" in capsys.readouterr().out
    with pytest.raises(UserError, match="--amp needs a CUDA GPU"):
        speed.set_amp(config, "float16")


@pytest.mark.parametrize(("dtype", "loss_scale"), [("float16", "dynamic"), ("bfloat16", 1.0)])
def test_mixed_precision(dtype: str, loss_scale: str | float, gpu):
    config = load()
    speed.spare_amp_without_gpu(config)
    assert config.optim_wrapper.type == "AmpOptimWrapper"
    speed.set_amp(config, dtype)
    wrapper = config.optim_wrapper
    assert (wrapper.type, wrapper.dtype, wrapper.loss_scale) == (
        "AmpOptimWrapper",
        dtype,
        loss_scale,
    )


def test_optimizer_is_fused():
    config = load()
    speed.fuse_optimizer(config)
    assert config.optim_wrapper.optimizer.fused
    config.optim_wrapper.optimizer.fused = False
    speed.fuse_optimizer(config)
    assert not config.optim_wrapper.optimizer.fused
    config.optim_wrapper.optimizer = dict(type="Adadelta")
    speed.fuse_optimizer(config)
    assert "fused" not in config.optim_wrapper.optimizer


def test_only_backbones_are_compiled():
    student, teacher = (
        nn.ModuleDict(dict(backbone=nn.Identity(), neck=nn.Identity())) for _ in "ab"
    )
    model = nn.ModuleDict(dict(student=student, teacher=teacher))
    speed.CompileHook().before_train(SimpleNamespace(model=model))
    compiled = {name for name, module in model.named_modules() if module._compiled_call_impl}
    assert compiled == {"student.backbone", "teacher.backbone"}
