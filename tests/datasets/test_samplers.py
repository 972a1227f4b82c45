"""Which samples make up a batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from mmengine.dataset import BaseDataset, Compose, ConcatDataset, RepeatDataset
from torch.utils.data import Sampler

from mmpvt.datasets.samplers import FaultTolerantDataset, ResumableBatchSampler


class GlobalSampler(Sampler):
    """Draws from NumPy's generator, as MMDetection's GroupMultiSourceSampler does."""

    seed = 5

    def __init__(self) -> None:
        pass

    def __iter__(self) -> Iterator[int]:
        while True:
            yield int(np.random.randint(10**9))  # noqa: NPY002


def test_a_sampler_that_draws_from_the_global_generator():
    def numbers(start: int, seed: int) -> list[int]:
        sampler = ResumableBatchSampler(GlobalSampler(), batch_size=2)
        sampler.start_at(0, start)
        batches = []
        np.random.seed(seed)  # noqa: NPY002
        for keys in itertools.islice(sampler, 6 - start):
            np.random.rand()  # noqa: NPY002  as a transform in this process would
            batches.append([key.sample for key in keys])
        return batches

    assert numbers(0, seed=1)[4:] == numbers(4, seed=2)


def test_a_pipeline_that_is_switched_within_wrappers():
    """As RTMDet's hook does for the last epochs."""
    parts = [BaseDataset(lazy_init=True) for _ in range(2)]
    repeated = RepeatDataset(parts[0], times=2, lazy_init=True)
    for wrapper in (repeated, ConcatDataset(parts, lazy_init=True)):
        dataset = FaultTolerantDataset(wrapper)
        dataset.pipeline = switched = Compose([])
        assert parts[0].pipeline is switched
        dataset.new = 1
        assert wrapper.new == 1
    assert parts[1].pipeline is switched
