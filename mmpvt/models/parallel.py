"""Pieces of work on threads of their own, each piece on one thread.

A parallel region of PyTorch's (OpenMP) ends when its slowest thread does: beside another process
every operation waits for the thread that shares a core with it. Here an idle thread takes the next
piece from a queue, and nothing waits before the last one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode

USE_THREADS = True
PIECES_A_THREAD = 2  # at least: of fewer, the last ones leave threads idle

Piece = TypeVar("Piece")
Result = TypeVar("Result")

_pools: dict[int, ThreadPoolExecutor] = {}  # by the number of threads
_lock = threading.Lock()


def for_each(
    function: Callable[[Piece], Result],
    pieces: Sequence[Piece],
    collect: Callable[[Piece, Result], None] = lambda piece, result: None,
    draws: bool = False,
) -> None:
    """``function`` of each piece, on as many threads as PyTorch uses.

    On the calling thread where there are fewer pieces than it pays for, and where something
    watches what that thread does and no other (a profiler, a dispatch mode such as a FLOP counter).

    Args:
        function (Callable): of a piece.
        pieces (Sequence): what it is called with.
        collect (Callable): takes each piece and its result, one at a time in the order of the
            pieces, so that sums are the same each time. Default: nothing.
        draws (bool): whether the function draws random numbers, which it shall do in the order of
            the pieces: on the calling thread. Default: False.
    """
    threads = torch.get_num_threads()
    few = threads == 1 or len(pieces) < PIECES_A_THREAD * threads
    if few or draws or not USE_THREADS or _is_watched():
        for piece in pieces:
            collect(piece, function(piece))
        return
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    lock, turn = threading.Lock(), 0
    waiting: dict[int, Result] = {}

    def run(i: int) -> None:
        nonlocal turn
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):  # are a thread's own
            result = function(pieces[i])
            with lock:  # here, as the calling thread's sums would start OpenMP's threads
                waiting[i] = result
                while turn in waiting:
                    collect(pieces[turn], waiting.pop(turn))
                    turn += 1

    list(_pool(threads).map(run, range(len(pieces))))


def _is_watched() -> bool:
    profiled = torch.autograd._profiler_enabled()  # type: ignore[attr-defined]
    return profiled or _get_current_dispatch_mode() is not None


def _pool(threads: int) -> ThreadPoolExecutor:
    with _lock:
        if threads not in _pools:
            _pools[threads] = _start(threads)
        return _pools[threads]


def _start(threads: int) -> ThreadPoolExecutor:
    """Threads in which PyTorch uses one thread.

    ``torch.set_num_threads`` sets the calling thread's number, and what new threads begin with,
    which is put back.
    """
    barrier = threading.Barrier(threads)
    before: list[int] = []

    def begin() -> None:
        before.append(torch.get_num_threads())  # which also sets a new thread's number
        barrier.wait()
        torch.set_num_threads(1)

    pool = ThreadPoolExecutor(threads, "mmpvt", begin)
    for started in [pool.submit(barrier.wait) for _ in range(threads)]:
        started.result()
    last = threading.Thread(target=torch.set_num_threads, args=before[:1])
    last.start()
    last.join()
    return pool


def _forget() -> None:
    """A forked process has none of its parent's threads."""
    global _lock
    _lock = threading.Lock()
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
