"""Pieces run on several threads as they would on one."""

from __future__ import annotations

import multiprocessing
import threading

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mmpvt.models import kernels, parallel

WAIT = 60  # seconds: only a broken pool takes that long


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def names(pieces: int) -> set[str]:
    """Of the threads that run pieces."""
    found = set()
    parallel.for_each(lambda piece: found.add(threading.current_thread().name), range(pieces))
    return found


def test_results_come_in_order():
    second, seen = threading.Event(), []

    def run(piece: int) -> int:
        if piece == 0:  # ends after the next one
            assert second.wait(WAIT)
        if piece == 1:
            second.set()
        return piece**2

    parallel.for_each(run, range(7), lambda piece, result: seen.append((piece, result)))
    assert seen == [(i, i**2) for i in range(7)]


def test_threads_have_one_thread_each_and_others_what_they_had():
    inside, outside = [], []
    parallel._pools.clear()
    parallel.for_each(lambda piece: inside.append(torch.get_num_threads()), range(8))
    assert inside == [1] * 8
    new = threading.Thread(target=lambda: outside.append(torch.get_num_threads()))
    new.start()
    new.join()
    assert torch.get_num_threads() == 2 and outside == [2]


def test_which_thread_runs(monkeypatch: pytest.MonkeyPatch):
    assert all(name.startswith("mmpvt") for name in names(4))
    here = {threading.current_thread().name}
    assert names(3) == here  # too few
    with FlopCounterMode(display=False):
        assert names(4) == here
    with torch.profiler.profile():
        assert names(4) == here
    torch.set_num_threads(1)
    assert names(4) == here
    torch.set_num_threads(2)
    monkeypatch.setattr(parallel, "USE_THREADS", False)
    assert names(4) == here


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_modes_are_the_callers(mode):
    seen = set()
    with mode():
        expected = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        parallel.for_each(
            lambda piece: seen.add((torch.is_grad_enabled(), torch.is_inference_mode_enabled())),
            range(4),
        )
    assert seen == {expected}


def test_an_error_of_a_piece_is_raised():
    def run(piece: int) -> None:
        if piece == 2:
            raise ValueError("piece 2")

    with pytest.raises(ValueError, match="piece 2"):
        parallel.for_each(run, range(8))
    assert len(names(8)) >= 1  # the threads are still there


def test_a_forked_process_has_threads_of_its_own():
    names(4)
    context = multiprocessing.get_context("fork")
    with context.Pool(1) as pool:
        found = pool.apply_async(names, (4,)).get(WAIT)
    assert found and all(name.startswith("mmpvt") for name in found)


def test_flops_are_all_counted(monkeypatch: pytest.MonkeyPatch):
    """A counter sees what its own thread runs; PyTorch's has no formula for its attention kernel of
    CPUs, which processors with AMX run."""
    monkeypatch.setattr(kernels, "USE_ONEDNN", True)
    q, k = torch.rand(1, 2, 4096, 16), torch.rand(1, 2, 512, 16)
    with FlopCounterMode(display=False) as counter:
        kernels.attention(q, k, k)
    assert counter.get_total_flops() == 2 * 2 * (2 * 4096 * 512 * 16)
