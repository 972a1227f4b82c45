"""The training loops, each on its own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper

from mmpvt.engine.loops import EpochLoop


@pytest.mark.parametrize(("length", "last"), [(2, 28), (8, 40), (12, 48)])
def test_gradients_accumulated_with_other_batches(length: int, last: int):
    """Three of five epochs are done, of eight batches each."""
    layer = torch.nn.Linear(1, 1)
    wrapper = OptimWrapper(torch.optim.SGD(layer.parameters(), 0.1), accumulative_counts=3)
    wrapper.initialize_count_status(layer, 24, 5 * length)
    loop = object.__new__(EpochLoop)
    loop._runner = SimpleNamespace(model=layer, optim_wrapper=wrapper)
    vars(loop).update(_max_epochs=5, _max_iters=5 * length, _epoch=3, _iter=24, _done=0)
    loop.dataloader = [None] * length
    loop._count_iterations()
    assert loop.max_iters == last
    factors = []
    while wrapper._inner_count < last:
        factors.append(1 / float(wrapper.scale_loss(torch.ones(()))))
        wrapper._inner_count += 1
    assert wrapper.should_update()
    assert factors == pytest.approx([3] * (len(factors) - last % 3) + [last % 3] * (last % 3))
