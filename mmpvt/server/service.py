"""The routes, and what is counted of their requests."""

from __future__ import annotations

import asyncio
import itertools
import sys
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import torch
from fastapi import FastAPI
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmpvt.errors import UserError
from mmpvt.inference.predictor import Predictor
from mmpvt.server.answers import FORMATS, JSON, LABEL_MAP, Answers
from mmpvt.server.batching import Batcher
from mmpvt.server.bodies import BINARY, FORM, receive_image, wait_for_disconnect
from mmpvt.utils.constants import SCORE
from mmpvt.utils.processors import usable_processors
from mmpvt.version import __version__

THREADS = min(4, usable_processors())  # that decode and prepare; as many encode
RETRY = {"Retry-After": "1"}  # seconds
CLIENT_GONE = 499  # as nginx counts a request whose client didn't wait; it is sent to nobody
BATCHES = (1, 2, 4, 8, 16, 32, 64)
PREDICT = "/predict"
OPTIONS = frozenset(("format", "score"))  # of a URL
BODY = {"type": "string", "format": "binary"}
DESCRIBED = {  # of OpenAPI
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": BODY},
            BINARY: {"schema": BODY},
            FORM: {"schema": {"type": "object", "properties": {"image": BODY}}},
        },
    },
    "parameters": [
        {
            "name": "format",
            "in": "query",
            "description": "JSON, the prediction drawn, or a segmenter's label map as PNG",
            "schema": {"type": "string", "enum": list(FORMATS), "default": JSON},
        },
        {
            "name": "score",
            "in": "query",
            "description": "instances below are left out",
            "schema": {"type": "number", "minimum": 0, "maximum": 1},
        },
    ],
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}, "image/jpeg": {}, "image/png": {}}},
    400: {"description": "an option or a form that can't be used"},
    408: {"description": "the image took too long to arrive"},
    413: {"description": "too large a body"},
    415: {"description": "a body that is neither an image nor a form"},
    422: {"description": "an image that can't be used"},
    503: {"description": "the queue is full, or the model isn't loaded: see Retry-After"},
    504: {"description": "there was no answer in time"},
    507: {"description": "no memory for this image"},
}


@dataclass(frozen=True)
class ServerOptions:
    """How requests are answered.

    Attributes:
        score: instances below aren't drawn. Default: 0.3.
        batch_size: images at a time, at most: only images of one prepared size share a batch.
            Default: 8.
        max_delay: seconds that an image waits for others of its size. Default: 0.005.
        queue: requests at a time, from their first byte to their answer; others are refused.
            Default: 64.
        max_bytes: of an image file. Default: 25 MiB.
        timeout: seconds in which an image has to arrive, and then in which it has to be answered.
            Default: 30.
    """

    score: float = SCORE
    batch_size: int = 8
    max_delay: float = 0.005
    queue: int = 64
    max_bytes: int = 25 << 20
    timeout: float = 30.0


class Service:
    """Answers requests with a model's predictions, once it has one.

    Args:
        options (ServerOptions): how.
        folder (Path): for the images of the requests under way.

    Attributes:
        app (ASGIApp): what a server calls.
        stopping (bool): whether new requests are refused.
    """

    def __init__(self, options: ServerOptions, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.stopping = False
        cv2.setNumThreads(0)  # several images are decoded and resized at once, and the model runs
        self._under_way = 0
        self._numbers = itertools.count()
        self._answers: Answers | None = None
        self._batcher: Batcher | None = None
        self._prepares = ThreadPoolExecutor(THREADS, "prepare")
        self._encodes = ThreadPoolExecutor(THREADS, "encode")
        self._metrics = _Metrics(
            lambda: self._batcher.queued if self._batcher else 0, lambda: self._under_way
        )
        self.app = self._metrics.counting(self._routes())

    def start(self, predictor: Predictor) -> None:
        """Answers with this model from now on."""
        self._answers = Answers(predictor, self.options.score)
        self._batcher = Batcher(
            predictor.predict,
            self._encodes,
            size=self.options.batch_size,
            max_delay=self.options.max_delay,
            max_pixels=predictor.pipeline.max_pixels,
            on_batch=self._metrics.batches.observe,
        )

    def close(self) -> None:
        """Ends the threads; nobody may be waiting for an answer any more."""
        for executor in (self._prepares, self._batcher, self._encodes):
            if isinstance(executor, Batcher):
                executor.close()
            elif executor is not None:
                executor.shutdown(cancel_futures=True)

    def _routes(self) -> FastAPI:
        # its pages of documentation are loaded from elsewhere
        app = FastAPI(
            title="mmpvt",
            version=__version__,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,  # curl follows none, and shows an empty answer
        )
        app.post(PREDICT, openapi_extra=DESCRIBED, responses=RESPONSES)(self.predict)
        app.get("/health")(self.health)
        app.get("/metrics")(self.metrics)
        app.get("/")(self.describe)

        @app.exception_handler(HTTPException)
        async def refuse(request: Request, error: HTTPException) -> Response:
            return JSONResponse({"error": error.detail}, error.status_code, error.headers)

        @app.exception_handler(Exception)
        async def fail(request: Request, error: Exception) -> Response:
            said = "the server failed on this request: its console says why"
            return JSONResponse({"error": said}, 500)

        return app

    async def health(self) -> Response:
        """Whether images are predicted on: 503 while the model loads, and when the server stops."""
        state = "stopping" if self.stopping else "ready" if self._batcher else "loading"
        return JSONResponse({"status": state}, 200 if state == "ready" else 503)

    async def metrics(self) -> Response:
        """Counts, times and memory, for Prometheus."""
        return Response(generate_latest(self._metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def describe(self) -> Response:
        """The model: its config's name, what it gives, and its classes' ids and names."""
        answers, _ = self._ready()
        name = Path(str(answers.predictor.config.filename)).stem
        return JSONResponse(
            {
                "model": name,
                "gives": answers.task,
                "categories": answers.categories,
                "max_bytes": self.options.max_bytes,
                "max_pixels": answers.predictor.pipeline.max_pixels,
            }
        )

    async def predict(self, request: Request) -> Response:
        """Predicts on an image."""
        answers, batcher = self._ready()
        if self._under_way >= self.options.queue:
            raise HTTPException(503, f"{self.options.queue} images are waiting: try later", RETRY)
        self._under_way += 1
        path = self.folder / str(next(self._numbers))
        try:
            form, score = _query(request, answers)
            with path.open("wb") as file:
                await receive_image(request, file, self.options.max_bytes, self.options.timeout)
            answer = self._answer(answers, batcher, path, form, score)
            return await self._unless_gone(request, answer)
        except ClientDisconnect:
            return Response(status_code=CLIENT_GONE)
        finally:
            self._under_way -= 1
            with suppress(OSError):  # on Windows, while a thread still reads it
                path.unlink()

    def _ready(self) -> tuple[Answers, Batcher]:
        if self.stopping:
            raise HTTPException(503, "the server is stopping", RETRY)
        if self._answers is None or self._batcher is None:
            raise HTTPException(503, "the model is loading", RETRY)
        return self._answers, self._batcher

    async def _unless_gone(
        self, request: Request, answer: Coroutine[Any, Any, Response]
    ) -> Response:
        """The answer, unless its time is over or nobody waits for it any more, which cancels it."""
        answering = asyncio.create_task(answer)
        leaving = asyncio.create_task(wait_for_disconnect(request))
        timeout = self.options.timeout
        try:
            await asyncio.wait(
                (answering, leaving), timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if answering.done():
                return answering.result()
            if leaving.done():
                raise ClientDisconnect
            raise HTTPException(504, f"there was no answer within {timeout:g} s")
        finally:
            answering.cancel()
            leaving.cancel()

    async def _answer(
        self, answers: Answers, batcher: Batcher, path: Path, form: str, score: float | None
    ) -> Response:
        loop = asyncio.get_running_loop()
        try:
            data, pixels = await loop.run_in_executor(self._prepares, answers.prepare, path)
            content, kind = await batcher.predict(
                data, pixels, lambda sample: answers.encode(sample, path, form, score)
            )
        except Exception as error:
            raise _refusal(error) from error
        return Response(content, media_type=kind)


class _Metrics:
    """What is counted."""

    def __init__(self, queue: Callable[[], int], under_way: Callable[[], int]) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "mmpvt_requests", "Requests for a prediction, answered", ["code"], registry=registry
        )
        self.seconds = Histogram(
            "mmpvt_request_seconds", "From a request's head to its answer", registry=registry
        )
        self.batches = Histogram(
            "mmpvt_batch_images", "Images in a batch", buckets=BATCHES, registry=registry
        )
        for name, said, count in (
            ("mmpvt_queue_images", "Images that wait for the model", queue),
            ("mmpvt_requests_in_flight", "Requests under way", under_way),
        ):
            Gauge(name, said, registry=registry).set_function(count)

    def counting(self, app: ASGIApp) -> ASGIApp:
        """The app, whose requests for predictions are counted by what they are answered."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"] != PREDICT:
                await app(scope, receive, send)
                return
            code, start = CLIENT_GONE, asyncio.get_running_loop().time()

            async def noting(message: Message) -> None:
                nonlocal code
                code = message.get("status", code)
                await send(message)

            try:
                await app(scope, receive, noting)
            finally:
                self.requests.labels(str(code)).inc()
                self.seconds.observe(asyncio.get_running_loop().time() - start)

        return counted


def _query(request: Request, answers: Answers) -> tuple[str, float | None]:
    """The format and the lowest score that a request's URL asks for."""
    names = [name for name, _ in request.query_params.multi_items()]
    if not OPTIONS.issuperset(names) or len(set(names)) < len(names):
        raise HTTPException(400, "the URL's options are format and score, each once")
    form, score = request.query_params.get("format", JSON), request.query_params.get("score")
    if form not in FORMATS:
        raise HTTPException(400, f"format is one of {', '.join(FORMATS)}")
    if form == LABEL_MAP and answers.task != LABEL_MAP:
        raise HTTPException(400, "the model gives no label maps")
    try:
        lowest = None if score is None else float(score)
    except ValueError:
        lowest = -1
    if lowest is not None and not 0 <= lowest <= 1:
        raise HTTPException(400, "score is a number from 0 to 1")
    return form, lowest


def _refusal(error: Exception) -> HTTPException:
    """What a client is told of an image that can't be answered."""
    if _is_memory(error):
        return HTTPException(507, "there is no memory for an image of this size")
    if isinstance(error, UserError):
        return HTTPException(422, str(error))
    traceback.print_exception(error, file=sys.stderr)
    return HTTPException(500, "the model failed on this image: the server's console says why")


def _is_memory(error: BaseException | None) -> bool:
    """Whether an error is for want of memory; the CPU's allocator has no type of its own."""
    return error is not None and (
        isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
        or "DefaultCPUAllocator" in str(error)
        or _is_memory(error.__cause__)
    )
