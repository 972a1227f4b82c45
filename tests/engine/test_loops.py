"""The training loops, each on its own."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from torch.utils.data import DataLoader

from mmpvt.engine.loops import EpochLoop
from mmpvt.errors import ConfigError


def test_classes_that_files_alone_name():
    """As OpenImages' data sets read them."""
    dataset = type("Files", (list,), dict(metainfo=dict(classes=("a", "b"))))([0])
    model = dict(bbox_head=dict(type="RetinaHead", num_classes=4))
    runner = SimpleNamespace(cfg=Config(dict(model=model)), visualizer=SimpleNamespace())
    loader = DataLoader(dataset)
    loader.batch_sampler.on_bad_data = "stop"
    with pytest.raises(ConfigError, match="is for 4 classes, the data set has 2"):
        EpochLoop(runner, loader, max_epochs=1)
    dataset.metainfo = [dataset.metainfo, dict(classes=("a", "c"))]  # MMDetection's of joined ones
    EpochLoop(runner, loader, max_epochs=1)


@pytest.mark.parametrize(("images", "said"), [(24, False), (20, True)])
def test_resumed_with_other_images(images: int, said: bool, caplog: pytest.LogCaptureFixture):
    loop = object.__new__(EpochLoop)
    hub = MessageHub("other images")
    loop._runner = SimpleNamespace(message_hub=hub, iter=0, logger=logging.getLogger())
    sampler = SimpleNamespace(seed=1, batch_size=4)
    loop.dataloader = SimpleNamespace(dataset=range(24), batch_sampler=sampler)
    loop._store_position(2)
    loop.dataloader.dataset = range(images)
    assert loop._batches_done(otherwise=0) == 2
    assert ("has 20 images, and had 24" in caplog.text) is said


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
