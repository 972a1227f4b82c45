"""Which images share a batch, and what becomes of those that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from mmpvt.server.batching import MAX_UNENCODED, Batcher

SMALL, LARGE = (3, 32, 32), (3, 32, 64)


class Model:
    """Gives back what an image holds, once it may; and notes its batches."""

    def __init__(self) -> None:
        self.batches: list[list[object]] = []
        self.may_run = threading.Event()
        self.may_run.set()

    def __call__(self, images: list[dict]) -> list:
        assert len({image["inputs"].shape for image in images}) == 1
        self.batches.append([image["name"] for image in images])
        assert self.may_run.wait(30)
        if any(image["name"] == "bad" for image in images):
            raise RuntimeError("a bad image")
        return [image["name"] for image in images]


def image(name: object, shape: tuple[int, ...] = SMALL) -> dict:
    return dict(inputs=torch.empty(shape, dtype=torch.uint8), name=name)


def run(
    test: Callable[[Batcher, Model], Coroutine], size: int = 4, max_delay: float = 0.05, **more
) -> None:
    """Runs a test with a batcher in an event loop of its own."""

    async def main() -> None:
        model = Model()
        with ThreadPoolExecutor(2) as encoders:
            batcher = Batcher(model, encoders, size=size, max_delay=max_delay, **more)
            try:
                await asyncio.wait_for(test(batcher, model), 60)
            finally:
                model.may_run.set()
                batcher.close()

    asyncio.run(main())


def asked(batcher: Batcher, *images: dict, pixels: int = 1) -> list[asyncio.Task]:
    return [asyncio.create_task(batcher.predict(one, pixels, str)) for one in images]


def test_images_of_one_size_share_a_batch():
    async def test(batcher: Batcher, model: Model) -> None:
        first = asked(batcher, image(0), image("a", LARGE), *map(image, range(1, 6)))
        assert await asyncio.gather(*first) == ["0", "a", "1", "2", "3", "4", "5"]
        assert model.batches == [[0, 1, 2, 3], ["a"], [4, 5]]
        loop = asyncio.get_running_loop()
        start = loop.time()
        await asyncio.gather(*asked(batcher, image(6)))
        assert loop.time() - start >= 0.05, "an image waits for others"

    run(test)


def test_a_full_batch_does_not_wait():
    async def test(batcher: Batcher, model: Model) -> None:
        await asyncio.gather(*asked(batcher, *map(image, range(8))))
        assert model.batches == [[0, 1, 2, 3], [4, 5, 6, 7]]

    run(test, max_delay=1000)


def test_large_images_share_a_batch_up_to_their_pixels():
    async def test(batcher: Batcher, model: Model) -> None:
        await asyncio.gather(*asked(batcher, *map(image, range(3)), pixels=40))
        await asyncio.gather(*asked(batcher, image(3), pixels=400))
        assert model.batches == [[0, 1], [2], [3]]

    run(test, max_pixels=100)


def test_what_nobody_waits_for_is_not_predicted_on():
    async def test(batcher: Batcher, model: Model) -> None:
        model.may_run.clear()
        running = asked(batcher, *map(image, range(4)))
        while not model.batches:
            await asyncio.sleep(0.001)
        waiting = asked(batcher, *map(image, range(4, 8)))
        await asyncio.sleep(0.01)
        assert batcher.queued == 4
        for task in (running[0], waiting[1], waiting[2]):
            task.cancel()
        await asyncio.sleep(0.01)
        assert batcher.queued == 2
        model.may_run.set()
        assert await asyncio.gather(*running[1:]) == ["1", "2", "3"]
        assert await asyncio.gather(waiting[0], waiting[3]) == ["4", "7"]
        assert model.batches == [[0, 1, 2, 3], [4, 7]] and not batcher.queued

    run(test)


def test_an_error_is_of_one_image():
    async def test(batcher: Batcher, model: Model) -> None:
        tasks = asked(batcher, image(0), image("bad"), image(2))
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert answers[::2] == ["0", "2"]
        with pytest.raises(RuntimeError, match="a bad image"):
            raise answers[1]
        assert model.batches == [[0, "bad", 2], [0], ["bad"], [2]]
        with pytest.raises(ZeroDivisionError):
            await batcher.predict(image(3), 1, lambda _: 1 / 0)
        assert await asyncio.gather(*asked(batcher, image(4))) == ["4"]

    run(test)


def test_the_model_waits_for_the_encoders():
    """Predictions with their masks don't pile up."""

    async def test(batcher: Batcher, model: Model) -> None:
        may_encode = threading.Event()

        def encode(sample: object) -> object:
            assert may_encode.wait(30)
            return sample

        tasks = [asyncio.create_task(batcher.predict(image(i), 1, encode)) for i in range(20)]
        await asyncio.sleep(0.3)
        assert sum(map(len, model.batches)) <= (MAX_UNENCODED + 1) * 2
        may_encode.set()
        assert await asyncio.gather(*tasks) == list(range(20))

    run(test, size=2)
