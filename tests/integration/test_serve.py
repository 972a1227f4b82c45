"""The server: its numbers, its limits, what it does with more than it can do, and how it stops."""

from __future__ import annotations

import asyncio
import base64
import http.client
import io
import json
import logging
import re
import signal
import socket
import sys
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import gated_detector
from helpers import ROOT, Ended, Started

for package in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
    pytest.importorskip(package)
httpx = pytest.importorskip("httpx")

MAX_BYTES, MAX_PIXELS = 2_000_000, 500_000
QUEUE = 6
JPEG = {"Content-Type": "image/jpeg"}
GATED = """
_base_ = "{base}"
custom_imports = dict(imports=["gated_detector"])
model = dict(type="GatedRetinaNet")
"""


class Server:
    """The tool's process, and how it is asked.

    Args:
        args (tuple): of ``serve.py``.
        folder (Path): for its output and its temporary folder.
        copied (bool): of :class:`Started`. Default: True.
        variables (str): of its environment.
    """

    def __init__(self, *args: object, folder: Path, copied: bool = True, **variables: str) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        variables.update(TMPDIR=str(folder), PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
        given = (*args, "--port", self.port, "--device", "cpu")
        self.process = Started("serve.py", given, folder / "out.txt", variables, copied)
        self.process.wait_for(lambda: "ready: http" in self.process.text, pause=0.05)
        self.url = f"http://127.0.0.1:{self.port}"

    def predict(self, content: bytes = b"", query: str = "", **options: object) -> httpx.Response:
        """Asks for a prediction on an image, or on what httpx's other options hold."""
        if content:
            options = {"content": content, "headers": JPEG, **options}
        return httpx.post(f"{self.url}/predict{query}", timeout=60, **options)

    def metrics(self) -> dict[str, float]:
        """The numbers at /metrics, by name and labels."""
        lines = httpx.get(f"{self.url}/metrics").text.splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def codes(self) -> Counter:
        """How many requests were answered by which code."""
        found = (
            (re.fullmatch(r'mmpvt_requests_total\{code="(\d+)"\}', name), value)
            for name, value in self.metrics().items()
        )
        return Counter({int(match[1]): int(value) for match, value in found if match})

    def wait_for(self, name: str, value: float) -> None:
        """Waits until one of the metrics has a value."""
        self.process.wait_for(lambda: self.metrics().get(name) == value, 60, pause=0.01)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Stops it, and looks at what it leaves."""
        try:
            if kind is None:
                self.process.signal(signal.SIGTERM)
                assert self.process.wait(60) == 0, self.process.text
                left = list(self.folder.glob("mmpvt_serve_*"))
                assert not left, "the temporary folder is left"
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def sure(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """A detector's checkpoint, surer than two epochs make it."""
    checkpoint = torch.load(trained / "epoch_2.pth", weights_only=False)  # our own, just written
    checkpoint["state_dict"]["bbox_head.retina_cls.bias"] += 4
    path = tmp_path_factory.mktemp("sure") / "sure.pth"
    torch.save(checkpoint, path)
    return path


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: Path, sure: Path
) -> Iterator[Server]:
    """A detector's, with low limits; in a process of its own, as OpenCV reads its limit once."""
    folder = tmp_path_factory.mktemp("server")
    limits = ("--max-bytes", MAX_BYTES, "--max-pixels", MAX_PIXELS, "--timeout", 8, "--queue", 32)
    with Server(tiny_config, sure, *limits, folder=folder, copied=False) as server:
        yield server
    assert "Traceback" not in server.process.text


class GatedServer(Server):
    """One whose model predicts while the gate is open."""

    def __init__(self, config: Path, sure: Path, folder: Path, *args: object) -> None:
        self.gate = folder / "gate"
        self.gate.touch()
        gated = folder / "gated.py"
        gated.write_text(GATED.format(base=config))
        limits = ("--batch", 4, "--queue", QUEUE)
        super().__init__(gated, sure, *limits, *args, folder=folder, GATE=str(self.gate))


@pytest.fixture(scope="module")
def gated(
    tmp_path_factory: pytest.TempPathFactory, tiny_config: Path, sure: Path
) -> Iterator[GatedServer]:
    with GatedServer(tiny_config, sure, tmp_path_factory.mktemp("gated")) as server:
        yield server
        server.gate.touch()


def an_image(height: int = 64, width: int = 64, seed: int = 0, suffix: str = ".png") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


def without_names(answer: dict) -> list[dict]:
    """An answer's instances as the lines of ``predict.py`` have them."""
    return [{key: one[key] for key in one if key != "class"} for one in answer["instances"]]


def test_numbers_are_those_of_predict(
    server: Server,
    sure: Path,
    shapes: Path,
    tiny_config: Path,
    tmp_path: Path,
    call_tool: Callable[..., Ended],
):
    """To the last digit, and pictures to the last byte; however the image is sent."""
    folder = shapes / "val2017"
    ended = call_tool("predict.py", tiny_config, sure, folder, "--out", tmp_path, "--device", "cpu")
    assert ended.code == 0, ended.err
    names = {
        one["id"]: one["name"] for one in json.loads((tmp_path / "categories.json").read_text())
    }
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    for line in lines:
        content = (folder / line["file_name"]).read_bytes()
        response = server.predict(content)
        assert (
            response.status_code == 200 and response.headers["content-type"] == "application/json"
        )
        answer = response.json()
        assert without_names(answer) == line["instances"] and len(line["instances"]) == 100
        assert all(one["class"] == names[one["category_id"]] for one in answer["instances"])
        sent = server.predict(files=dict(image=("../../etc/passwd", content)))
        assert sent.json() == answer
        picture = server.predict(content, "?format=picture")
        assert picture.headers["content-type"] == "image/jpeg"
        assert picture.content == (tmp_path / "pictures" / line["file_name"]).read_bytes()
    score = lines[-1]["instances"][10]["score"]
    few = server.predict(content, f"?score={score}").json()["instances"]
    assert few == [one for one in answer["instances"] if one["score"] >= score] and len(few) < 100
    said = httpx.get(server.url).json()
    assert said["gives"] == "instances" and said["categories"][0]["name"] in names.values()
    assert httpx.get(f"{server.url}/openapi.json").json()["paths"]["/predict"]["post"]
    assert httpx.get(f"{server.url}/docs").status_code == 404


def test_a_segmenter(
    untrained_segmenter: tuple[Path, Path],
    shapes: Path,
    tmp_path: Path,
    call_tool: Callable[..., Ended],
):
    image = shapes / "val2017" / "000000000001.jpg"
    ended = call_tool("predict.py", *untrained_segmenter, image, "--out", tmp_path / "out")
    assert ended.code == 0, ended.err
    expected = (tmp_path / "out" / "label_maps" / "000000000001.png").read_bytes()
    with Server(*untrained_segmenter, folder=tmp_path) as server:
        answer = server.predict(image.read_bytes()).json()
        assert answer.keys() == {"label_map"} and base64.b64decode(answer["label_map"]) == expected
        response = server.predict(image.read_bytes(), "?format=label_map")
        assert response.content == expected and response.headers["content-type"] == "image/png"


def bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", an_image())
    return file.getvalue()


def deep_form(levels: int = 200) -> bytes:
    """Forms in a form's file."""
    body = an_image()
    for name in (*map(str, range(levels)), "b"):
        head = f'--{name}\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n'
        body = head.encode() + body + f"\r\n--{name}--\r\n".encode()
    return body


def test_hostile_bodies(server: Server):
    """Each gets one sentence, which names none of the server's files."""
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    unreadable = "the image can't be read as an image: the file is empty, truncated or of another"
    unknown = an_image(800, 800, suffix=".pam")  # to Pillow, which doesn't count its pixels
    part = b'--b\r\nContent-Disposition: form-data; name="a"%s\r\n\r\n'
    filename, alone = b'; filename="a"', "a form holds one file alone, as of curl -F image=@"
    for kind, body, code, said in (
        (JPEG, an_image(300, 300, suffix=".jpg")[:-2000], 422, unreadable),
        (JPEG, an_image()[:-30], 422, unreadable),
        (JPEG, b"", 422, unreadable),
        (JPEG, b"some text", 422, unreadable),
        (JPEG, b"/etc/passwd", 422, unreadable),
        (JPEG, b"http://127.0.0.1:1/a.jpg", 422, unreadable),
        (JPEG, archive(), 422, unreadable),
        (JPEG, unknown, 422, unreadable),
        (JPEG, bomb(), 422, "the image is refused as an image: Image size (900000000 pixels)"),
        (JPEG, bomb(800, 800), 422, "the image is too large an image: 800x800 pixels"),
        (JPEG, an_image(1, 64 * 300), 422, "1x19200 pixels, can't be resized"),
        (form, deep_form(), 422, unreadable),
        (form, b"", 400, alone),
        (form, b"no form", 400, "Invalid multipart data"),
        (form, part % b"" + b"x\r\n--b--\r\n", 400, alone),
        (form, part % filename + b"x\r\n" + part % b"" + b"x\r\n--b--\r\n", 400, alone),
        (form, 2 * (part % filename + b"x\r\n") + b"--b--\r\n", 400, "Too many files"),
        (form, part % filename + an_image(), 400, alone),
        ({"Content-Type": "multipart/form-data"}, b"x", 400, "boundary"),
        ({"Content-Type": "text/plain"}, an_image(), 415, "send an image as the body"),
        ({"Content-Type": "application/json"}, b"{}", 415, "send an image as the body"),
        ({}, an_image(), 415, "send an image as the body"),
    ):
        response = httpx.post(f"{server.url}/predict", content=body, headers=kind, timeout=60)
        answer = response.json()
        where = (kind, body[:60], response.status_code, answer)
        assert response.status_code == code and answer.keys() == {"error"}, where
        assert said in answer["error"] and "\n" not in answer["error"], where
        assert str(server.folder) not in answer["error"] and "/etc" not in answer["error"], where
    for query, said in (
        ("?format=gif", "format is one of json, picture, label_map"),
        ("?format=label_map", "the model gives no label maps"),
        *((f"?score={x}", "score is a number from 0 to 1") for x in ("nan", "2", "-1", "a", "")),
        *((f"?{x}", "format and score, each once") for x in ("scor=0.9", "score=0&score=1")),
    ):
        response = server.predict(an_image(), query)
        assert response.status_code == 400 and said in response.json()["error"]
    assert httpx.get(f"{server.url}/predict").status_code == 405
    for suffix in (".png", ".pam", ".tiff", ".webp"):
        assert server.predict(an_image(suffix=suffix)).status_code == 200
    (own,) = server.folder.glob("mmpvt_serve_*")
    assert not list(own.iterdir())


def begun(server: Server, *headers: str, body: bytes = b"") -> socket.socket:
    """A request whose body has not come to its end."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    lines = ("POST /predict HTTP/1.1", "Host: a", "Content-Type: image/png", *headers, "", "")
    connection.sendall("\r\n".join(lines).encode() + body)
    return connection


def test_bodies_that_are_too_large_or_slow(server: Server):
    """Bytes are counted as they come, whatever a request says of them, and none are kept."""
    content, before = an_image(), server.metrics()["process_resident_memory_bytes"]
    too_large = f"the image has more than the {MAX_BYTES} bytes that are taken"
    assert server.predict(bytes(MAX_BYTES + 1)).json() == dict(error=too_large)
    assert server.predict(files=dict(image=bytes(MAX_BYTES + 1))).json() == dict(error=too_large)
    with begun(server, f"Content-Length: {10**15}", "Expect: 100-continue") as connection:
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 413 ")

    def endless() -> Iterator[bytes]:
        for _ in range(400):
            yield bytes(1 << 20)

    response = server.predict(content=endless(), headers=JPEG)
    assert response.status_code == 413 and response.json() == dict(error=too_large)
    assert server.metrics()["process_resident_memory_bytes"] < before + (40 << 20)

    short = f"Content-Length: {len(content) - 10}"  # the rest is no request
    with begun(server, short, body=content) as connection:
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 422 ")
    connections = [
        begun(server, f"Content-Length: {len(content) + 10}", body=content),
        begun(server, "Transfer-Encoding: chunked", body=b"5\r\n12345\r\n"),
    ]
    for connection in connections:
        with connection:
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            assert answer.status == 408 and b"longer than 8 s to arrive" in answer.read()
    assert server.predict(content).status_code == 200


def test_clients_that_leave(server: Server):
    """In the middle of a body, and while they are waited on."""
    content, before = an_image(), server.codes()
    for i in range(20):
        connection = begun(server, f"Content-Length: {len(content)}", body=content[: 100 * i])
        connection.close()
    for _ in range(10):
        begun(server, f"Content-Length: {len(content)}", body=content).close()
    server.wait_for("mmpvt_requests_in_flight", 0)
    codes = server.codes() - before
    assert set(codes) <= {200, 499} and codes[499] >= 20 and sum(codes.values()) <= 30
    assert server.predict(content).status_code == 200


def test_batches(gated: GatedServer):
    """What comes while the model is busy is predicted on at once, and is what it is alone."""
    contents = [an_image(seed=seed) for seed in range(5)]
    alone = [gated.predict(content).json() for content in contents]
    before = gated.metrics()
    gated.gate.unlink()
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(gated.predict, contents[0])
        gated.process.wait_for(
            lambda: gated.metrics()["mmpvt_batch_images_count"] > before["mmpvt_batch_images_count"]
        )
        others = [pool.submit(gated.predict, content) for content in contents[1:]]
        gated.wait_for("mmpvt_queue_images", 4)
        gated.gate.touch()
        together = [future.result().json() for future in (first, *others)]
    after = gated.metrics()
    assert after["mmpvt_batch_images_count"] - before["mmpvt_batch_images_count"] == 2
    assert after["mmpvt_batch_images_sum"] - before["mmpvt_batch_images_sum"] == 5
    for one, batched in zip(alone, together, strict=True):
        for old, new in zip(one["instances"], batched["instances"], strict=True):
            assert old["category_id"] == new["category_id"]
            np.testing.assert_allclose(new["bbox"], old["bbox"], atol=1e-3)
            np.testing.assert_allclose(new["score"], old["score"], atol=1e-5)


def test_more_than_the_queue_holds(gated: GatedServer):
    """The rest is refused at once; who left the queue isn't predicted on."""
    content, before, images = an_image(), gated.codes(), gated.metrics()["mmpvt_batch_images_sum"]
    gated.gate.unlink()
    with ThreadPoolExecutor(QUEUE) as pool:
        first = pool.submit(gated.predict, content)
        gated.process.wait_for(lambda: gated.metrics()["mmpvt_batch_images_sum"] > images)
        waiting = [pool.submit(gated.predict, content) for _ in range(QUEUE - 3)]
        leaving = [begun(gated, f"Content-Length: {len(content)}", body=content) for _ in range(2)]
        gated.wait_for("mmpvt_queue_images", QUEUE - 1)
        for _ in range(10):  # answered while the model isn't
            response = gated.predict(content)
            assert response.status_code == 503 and response.headers["retry-after"] == "1"
        assert httpx.get(f"{gated.url}/health").json() == dict(status="ready")
        for connection in leaving:
            connection.close()
        gated.wait_for("mmpvt_queue_images", QUEUE - 3)
        gated.gate.touch()
        assert {future.result().status_code for future in (first, *waiting)} == {200}
    assert gated.codes() - before == Counter({200: QUEUE - 2, 503: 10, 499: 2})
    assert gated.metrics()["mmpvt_batch_images_sum"] - images == QUEUE - 2


def test_errors_of_the_model(gated: GatedServer):
    """They are one image's, also of a batch; the server lives on."""
    good, fails, large = (
        an_image(height) for height in (64, gated_detector.FAILS, gated_detector.NO_MEMORY)
    )
    images = gated.metrics()["mmpvt_batch_images_sum"]
    gated.gate.unlink()
    with ThreadPoolExecutor(QUEUE) as pool:
        blocking = pool.submit(gated.predict, good)
        gated.process.wait_for(lambda: gated.metrics()["mmpvt_batch_images_sum"] > images)
        futures = [pool.submit(gated.predict, content) for content in (fails, good, large, good)]
        gated.wait_for("mmpvt_queue_images", 4)
        gated.gate.touch()
        answers = [future.result() for future in futures]
        assert blocking.result().status_code == 200
    assert [answer.status_code for answer in answers] == [500, 200, 507, 200]
    assert "the server's console says why" in answers[0].json()["error"]
    assert answers[2].json() == dict(error="there is no memory for an image of this size")
    assert gated.process.text.count("RuntimeError: this image is not to the model's taste") == 1
    assert gated.predict(good).status_code == 200


def test_deadline_and_graceful_stop(tiny_config: Path, sure: Path, tmp_path: Path):
    """What is in is answered, what comes is refused, and the code is 0."""
    with GatedServer(tiny_config, sure, tmp_path, "--timeout", 4) as server:
        content = an_image()
        server.gate.unlink()
        start = time.monotonic()
        response = server.predict(content)
        assert response.status_code == 504 and time.monotonic() - start >= 4
        assert response.json() == dict(error="there was no answer within 4 s")
        server.gate.touch()
        assert server.predict(content).status_code == 200
        server.gate.unlink()
        arriving = begun(server, f"Content-Length: {len(content)}", body=content[:100])
        with ThreadPoolExecutor(QUEUE) as pool, arriving, httpx.Client() as idle:
            assert idle.get(f"{server.url}/health").status_code == 200
            waiting = [pool.submit(server.predict, content) for _ in range(QUEUE - 1)]
            server.wait_for("mmpvt_requests_in_flight", QUEUE)
            server.process.signal(signal.SIGINT)
            server.process.wait_for(lambda: "stopping" in server.process.text)
            server.process.wait_for(lambda: not connects(server.port))
            with pytest.raises(httpx.TransportError):
                idle.get(f"{server.url}/health")
            arriving.sendall(content[100:])
            server.gate.touch()
            assert {future.result().status_code for future in waiting} == {200}
            assert arriving.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        assert server.process.wait(60) == 0, server.process.text
    assert "Traceback" not in server.process.text


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except OSError:
        return False
    return True


def test_mistakes(
    tiny_config: Path,
    sure: Path,
    untrained_segmenter: tuple[Path, Path],
    call_tool: Callable[..., Ended],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("OPENCV_IO_MAX_IMAGE_PIXELS", "")  # to be put back
    threads = set(threading.enumerate())
    closed = []
    handler = logging.NullHandler()
    monkeypatch.setattr(handler, "close", lambda: closed.append(handler))
    args = (tiny_config, sure, "--device", "cpu")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        sentence = call_tool("serve.py", *args, "--port", port).one_sentence()
        assert re.fullmatch(rf"error: --port: {port} is taken: pass --port \d+", sentence)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    args = (*args, "--port", port)
    for wrong, said in (
        (("--host", "203.0.113.7"), "is no address of this machine"),
        (("--device", "cuda:99"), "no device 'cuda:99'"),
        (("--batch", 0), "--batch 0: a number from 1 on"),
        (("--max-pixels", -1), "--max-pixels -1: a number from 1 on"),
        (("--max-pixels", 10**9), "--max-pixels 1000000000: 178956970 are decoded at most"),
        (("--timeout", 0), "--timeout 0.0: a number greater than 0"),
        (("--max-delay-ms", "nan"), "--max-delay-ms nan: a number from 0 on"),
        (("--score", 2), "--score 2.0: a score is a number from 0 to 1"),
    ):
        assert said in call_tool("serve.py", *args, *wrong).one_sentence()
    other = untrained_segmenter[1]
    sentence = call_tool("serve.py", tiny_config, other, "--port", port).one_sentence()
    assert "the checkpoint is another model's than the config's" in sentence
    assert not connects(port) and not closed
    assert not [thread for thread in set(threading.enumerate()) - threads if not thread.daemon]
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    sentence = call_tool("serve.py", *args).one_sentence()
    assert sentence.endswith("isn't installed: pip install 'mmpvt[serve]'")


async def overload(server: Server, content: bytes, clients: int, requests: int) -> tuple:
    """Counts of the answers' codes; the server's memory now and then, in bytes."""
    codes: Counter = Counter()
    memory: list[float] = []
    left = iter(range(requests))

    async def client() -> None:
        async with httpx.AsyncClient(timeout=60) as session:
            for _ in left:
                response = await session.post(
                    f"{server.url}/predict", content=content, headers=JPEG
                )
                codes[response.status_code] += 1
                assert response.json()

    async def watch() -> None:
        while True:
            found = await asyncio.to_thread(server.metrics)
            memory.append(found["process_resident_memory_bytes"])
            assert found["mmpvt_requests_in_flight"] <= QUEUE >= found["mmpvt_queue_images"]
            await asyncio.sleep(0.2)

    watching = asyncio.create_task(watch())
    await asyncio.gather(*(client() for _ in range(clients)))
    watching.cancel()
    return codes, memory


def check_overload(server: Server, requests: int, growth: float) -> None:
    """Four times as many clients as are let in; memory may grow by so many bytes."""
    before = server.codes()
    codes, memory = asyncio.run(overload(server, an_image(), 4 * QUEUE, requests))
    assert sum(codes.values()) == requests and set(codes) == {200, 503}, codes
    assert min(codes.values()) >= requests // 100, codes
    server.wait_for("mmpvt_requests_in_flight", 0)
    assert server.codes() - before == codes
    third = len(memory) // 3
    first, last = np.median(memory[:third]), np.median(memory[-third:])
    assert last - first < growth, (first, last)
    assert server.predict(an_image()).status_code == 200


def test_overload(gated: GatedServer):
    check_overload(gated, 400, 60 << 20)


@pytest.mark.full
def test_long_overload(gated: GatedServer):
    """Memory is flat between the first and the last third, while clients come and go."""
    check_overload(gated, 500, 60 << 20)  # its threads' first use of everything
    check_overload(gated, 20_000, 8 << 20)
