"""Steps on a loss or gradient of NaN or Inf are not taken."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.optim import OptimWrapper as MMEngineOptimWrapper
from mmengine.optim import OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from mmpvt import UserError
from mmpvt.engine.hooks.divergence import MAX_SKIPPED, DivergenceHook, OptimWrapper

NAN = float("nan")


def watched(on_nan: str, **kwargs) -> tuple[SimpleNamespace, DivergenceHook]:
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    wrapper = OPTIM_WRAPPERS.build(dict(type="mmpvt.OptimWrapper", optimizer=optimizer, **kwargs))
    runner = SimpleNamespace(
        model=model, optim_wrapper=wrapper, iter=0, logger=logging.getLogger("divergence")
    )
    hook = DivergenceHook(on_nan)
    hook.before_train(runner)
    return runner, hook


def train(runner: SimpleNamespace, hook: DivergenceHook, *factors: float) -> None:
    for factor in factors:
        hook.before_train_iter(runner, runner.iter)
        output = runner.model(torch.randn(4, 2))
        runner.optim_wrapper.update_params((output * factor).square().mean())
        runner.iter += 1


def state(runner: SimpleNamespace) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in runner.model.state_dict().values()]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_skip():
    runner, hook = watched("skip")
    train(runner, hook, 1.0)
    before = state(runner)
    train(runner, hook, NAN, float("inf"))
    assert same(before, state(runner)) and hook.skipped == 2
    train(runner, hook, 1.0)
    assert not same(before, state(runner)) and hook.skipped == 2
    steps = runner.optim_wrapper.state_dict()["state"].values()
    assert {int(state["step"]) for state in steps} == {2}
    with pytest.raises(UserError, match="is not finite at iteration 24"):
        train(runner, hook, *[NAN] * (MAX_SKIPPED + 1))


def test_stop():
    runner, hook = watched("stop")
    before = [p.clone() for p in runner.model.parameters()]
    with pytest.raises(UserError, match="the loss is not finite at iteration 1") as caught:
        train(runner, hook, NAN)
    assert caught.value.instead == ("on_nan", "skip")
    assert same(before, list(runner.model.parameters()))


@pytest.mark.parametrize(
    ("finite", "said"),
    [(False, r"the loss .*\(images b\.png\)"), (True, r"a gradient .*\(images a\.png, b\.png\)")],
)
def test_images_of_the_process_at_fault(finite: bool, said: str, monkeypatch: pytest.MonkeyPatch):
    """Its gradients are those of all processes."""
    runner, hook = watched("stop")
    gather = "mmpvt.engine.hooks.divergence.all_gather_object"
    monkeypatch.setattr(gather, lambda own: [own, (finite, ["b.png"])])
    sample = DetDataSample(metainfo=dict(img_path="a.png"))
    hook.before_train_iter(runner, 0, dict(data_samples=[sample]))
    next(runner.model.parameters()).register_hook(lambda gradient: gradient * NAN)
    with pytest.raises(UserError, match=said):
        runner.optim_wrapper.update_params(runner.model(torch.randn(4, 2)).mean())


def test_accumulated_gradients():
    """One bad batch of several spoils the step that they make up together, and no other."""
    runner, hook = watched("skip", accumulative_counts=2)
    before = state(runner)
    train(runner, hook, NAN, 1.0)
    assert same(before, state(runner)) and hook.skipped == 1
    train(runner, hook, 1.0, 1.0)
    assert not same(before, state(runner)) and hook.skipped == 1


def test_nothing_of_others_is_changed(caplog: pytest.LogCaptureFixture):
    runner, _ = watched("stop")
    assert not {"step", "update_params"} & set(vars(runner.optim_wrapper))
    optimizer = torch.optim.SGD(runner.model.parameters(), lr=0.1)
    for other in (MMEngineOptimWrapper(optimizer), OptimWrapperDict(a=OptimWrapper(optimizer))):
        runner.optim_wrapper = other
        before = dict(vars(other))
        DivergenceHook().before_train(runner)
        assert vars(other) == before
        assert f"{type(other).__name__} are not checked" in caplog.text


def test_without_the_hook():
    """A wrapper of the config steps as MMEngine's does."""
    runner, _ = watched("stop")
    runner.optim_wrapper.guard = None
    before = state(runner)
    runner.optim_wrapper.update_params(runner.model(torch.randn(4, 2)).square().mean())
    assert not same(before, state(runner))


def test_branches_of_semi_supervised_training():
    runner, hook = watched("stop")
    one, other = (DetDataSample(metainfo=dict(img_path=name)) for name in ("a.png", "b.png"))
    samples = {"sup": [one, None], "unsup_teacher": [None, other]}
    hook.before_train_iter(runner, 0, dict(data_samples=samples))
    runner.optim_wrapper.guard = hook
    with pytest.raises(UserError, match=r"images a\.png, b\.png"):
        runner.optim_wrapper.update_params(runner.model(torch.randn(4, 2)).mean() * NAN)
