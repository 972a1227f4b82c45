"""Batches of the images that wait for the model.

LitServe and Ray Serve batch whatever is waiting, of any size, and hand it to processes of their
own, to which every image is copied. Here images of one prepared size alone share a batch, as
padding would change their numbers, and one that nobody waits for any more leaves the queue.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mmengine.structures import BaseDataElement

MAX_UNENCODED = 2  # batches' worth of predictions, masks and all, that may wait to be encoded

Encode = Callable[[BaseDataElement], Any]


@dataclass(eq=False)
class _Waiting:
    """An image that waits for the model; its future gets that of its encoded prediction."""

    data: dict  # prepared
    pixels: int  # of the image as it came
    encode: Encode
    since: float
    future: asyncio.Future

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data["inputs"].shape)


class Batcher:
    """Runs the model in one thread, on one batch after the other. It belongs to one event loop.

    Args:
        predict (Callable): takes a list of prepared images and gives their predictions.
        encoders (Executor): encodes predictions.
        size (int): images at a time, at most.
        max_delay (float): seconds that an image waits for others of its size.
        max_pixels (int): of a batch's images as they came, together: masks and label maps are of
            that size. One image may have more.
        on_batch (Callable): is told how many images a batch has.
    """

    def __init__(
        self,
        predict: Callable[[list[dict]], Sequence[BaseDataElement]],
        encoders: Executor,
        *,
        size: int,
        max_delay: float,
        max_pixels: float = math.inf,
        on_batch: Callable[[int], object] = lambda count: None,
    ) -> None:
        self._model, self._encoders = predict, encoders
        self._size, self._max_delay, self._max_pixels = size, max_delay, max_pixels
        self._on_batch = on_batch
        self._waiting: list[_Waiting] = []  # the first has waited for longest
        self._arrived = asyncio.Event()
        self._encoding: set[asyncio.Future] = set()
        self._thread = ThreadPoolExecutor(1, "model")
        self._running: asyncio.Task | None = None

    @property
    def queued(self) -> int:
        """How many images wait for the model."""
        return len(self._waiting)

    async def predict(self, data: dict, pixels: int, encode: Encode) -> Any:
        """What ``encode`` makes of an image's prediction; cancelled, the image isn't predicted on.

        Args:
            data (dict): the image, prepared.
            pixels (int): how many the image has.
            encode (Callable): takes the prediction, in a thread.

        Raises:
            Exception: the model's on this image, or the encoder's.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(data, pixels, encode, loop.time(), loop.create_future())
        self._waiting.append(waiting)
        self._arrived.set()
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        try:
            encoded = await waiting.future
        finally:
            with suppress(ValueError):  # it is in a batch already
                self._waiting.remove(waiting)
        return await encoded

    def close(self) -> None:
        """Ends the model's thread after the batch that it is at."""
        self._thread.shutdown(cancel_futures=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := await self._next():
            self._on_batch(len(batch))
            images = [one.data for one in batch]
            outcomes = await loop.run_in_executor(self._thread, self._predict, images)
            for one, outcome in zip(batch, outcomes, strict=True):
                if one.future.done():
                    continue  # nobody waits for it any more
                if isinstance(outcome, Exception):
                    one.future.set_exception(outcome)
                    continue
                encoded = loop.run_in_executor(self._encoders, one.encode, outcome)
                self._encoding.add(encoded)
                encoded.add_done_callback(self._encoding.discard)
                one.future.set_result(encoded)
            del batch, images, outcomes
            while len(self._encoding) > MAX_UNENCODED * self._size:
                await asyncio.wait(self._encoding, return_when=asyncio.FIRST_COMPLETED)

    async def _next(self) -> list[_Waiting]:
        """The batch of the image that has waited for longest, once it is full or due; none if
        there are no images."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            first, pixels = self._waiting[0], 0
            batch: list[_Waiting] = []
            for one in self._waiting:
                if one.shape != first.shape:
                    continue
                pixels += one.pixels
                if len(batch) == self._size or (batch and pixels > self._max_pixels):
                    break
                batch.append(one)
            rest = first.since + self._max_delay - loop.time()
            if len(batch) == self._size or rest <= 0:
                for one in batch:
                    self._waiting.remove(one)
                return batch
            self._arrived.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), rest)
        return []

    def _predict(self, images: list[dict]) -> list[BaseDataElement | Exception]:
        """Each image's prediction, or what the model raises on it."""
        try:
            return list(self._model(images))
        except Exception as error:
            failure = error
        if len(images) == 1:
            return [failure]
        del failure  # its traceback holds the batch's tensors
        return [outcome for image in images for outcome in self._predict([image])]
