"""The page, tried in a browser; and its server, tried by someone who means no good."""

from __future__ import annotations

import http.client
import importlib.util
import io
import json
import os
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData
from PIL import Image

import mmpvt
from helpers import Started, free_port, wait_until
from mmpvt.app import trial as trials
from mmpvt.app.storage import QUOTA

pytest.importorskip("gradio")

from mmpvt.app.guard import MAX_UPLOAD, host_names

TIMEOUT = 120_000  # milliseconds: the machine may be busy


@pytest.fixture(scope="module")
def app(
    tmp_path_factory: pytest.TempPathFactory, trained: Path, tiny_config: Path
) -> Iterator[tuple[Started, int, Path]]:
    """The tool's process, its port, and where its temporary folder lies."""
    folder = tmp_path_factory.mktemp("app")
    port = free_port()
    checkpoint = torch.load(trained / "epoch_2.pth", weights_only=False)  # our own, just written
    checkpoint["state_dict"]["bbox_head.retina_cls.bias"] += 4  # surer than two epochs make it
    meta = checkpoint["meta"]["dataset_meta"]
    meta["classes"] = tuple(f"{name}, a shape of a long name" for name in meta["classes"])
    torch.save(checkpoint, folder / "sure.pth")
    args = (tiny_config, folder / "sure.pth", "--port", port, "--allow-host", "Page.Example")
    variables = dict(TMPDIR=str(folder), GRADIO_SHARE="True", GRADIO_ALLOWED_PATHS="/")
    process = Started("app.py", args, folder / "out.txt", variables, copied=False)
    process.wait_for(lambda: "ready: http" in process.text, pause=0.2)
    yield process, port, folder
    process.signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not list(folder.glob("mmpvt_app_*")), "the temporary folder is left"


def ask(port: int, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def upload(port: int, content: bytes, name: str = "a.jpg") -> tuple[int, bytes]:
    head = f'--b\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + b"\r\n--b--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    status, answer, _ = ask(port, "POST", "/gradio_api/upload", body, **kind)
    return status, answer


def predict(port: int, path: str) -> str:
    """What the API says of a file: its stream of events."""
    return called(port, "predict", [dict(path=path, meta={"_type": "gradio.FileData"}), 0.3])


def called(port: int, name: str, data: list) -> str:
    """What the API's function answers: its stream of events."""
    body = json.dumps(dict(data=data)).encode()
    kind = {"Content-Type": "application/json"}
    status, answer, _ = ask(port, "POST", f"/gradio_api/call/{name}", body, **kind)
    assert status == 200, answer
    event = json.loads(answer)["event_id"]
    return ask(port, "GET", f"/gradio_api/call/{name}/{event}")[1].decode()


def an_image(size: tuple[int, int] = (64, 64)) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    return cv2.imencode(".png", pixels)[1].tobytes()


def test_files_elsewhere_are_not_given(app: tuple, tmp_path: Path):
    _, port, folder = app
    secret = folder / "secret.txt"
    secret.write_text("precious")
    for path in ("/etc/passwd", secret, "mmpvt/__init__.py", f"{folder}/x/../secret.txt"):
        for prefix in ("file=", "file/", "file=%2e/"):
            status, answer, _ = ask(port, "GET", f"/gradio_api/{prefix}{path}")
            assert status in (403, 404) and b"precious" not in answer and b"root:" not in answer
    for path in ("/etc/passwd", str(secret)):
        said = predict(port, path)
        assert "event: error" in said and "precious" not in said and "root:" not in said


def test_nothing_is_fetched(app: tuple):
    """Neither by the server for someone who names an address, nor by the page."""
    _, port, _ = app
    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))
        elsewhere.listen()
        elsewhere.settimeout(0.5)
        address = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/a.jpg"
        for path in (f"file={address}", f"proxy={address}"):
            assert ask(port, "GET", f"/gradio_api/{path}")[0] == 404
        assert "event: error" in predict(port, address)
        with pytest.raises(TimeoutError):
            elsewhere.accept()
    status, page, headers = ask(port, "GET", "/")
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]
    assert not re.search(rb'<(script|link)[^>]+(src|href)="https?://(?!127)', page)


def test_routes_that_the_page_does_not_need(app: tuple):
    _, port, _ = app
    for path in (
        "/monitoring",
        "/gradio_api/vibe-code",
        "/gradio_api/deep_link",
        "/gradio_api/run-history/records",
        "/gradio_api/component_server",
        "/docs",
    ):
        assert ask(port, "GET", path)[0] == 404


def test_limits(app: tuple):
    """Bytes are counted as they come, pixels before they are decoded."""
    process, port, folder = app
    logged = len(process.text)
    status, _ = upload(port, bytes(MAX_UPLOAD + 1000))
    assert status == 413
    kind = {"Content-Type": "application/json"}
    assert ask(port, "POST", "/gradio_api/queue/join", bytes(MAX_UPLOAD + 2**21), **kind)[0] == 413
    assert ask(port, "POST", "/gradio_api/queue/join", endless(), **kind)[0] in (400, 413)
    file = io.BytesIO()
    Image.new("1", (9000, 9000)).save(file, "PNG")
    status, answer = upload(port, file.getvalue(), "large.png")
    assert status == 200
    said = predict(port, json.loads(answer)[0])
    assert "large.png is too large an image: 9000x9000 pixels" in said
    assert str(folder) not in said and "Traceback" not in process.text[logged:]


def endless() -> Iterator[bytes]:
    """A body whose length isn't told."""
    for _ in range(2 * MAX_UPLOAD >> 20):
        yield bytes(1 << 20)


def test_api(app: tuple):
    _, port, folder = app
    status, answer = upload(port, an_image())
    assert status == 200
    (path,) = json.loads(answer)
    assert Path(path).is_relative_to(next(folder.glob("mmpvt_app_*")))
    assert "event: complete" in predict(port, path)


LARGE = 24 << 20  # bytes: an upload that is taken


def kept(folder: Path) -> dict[Path, int]:
    """The files in the server's temporary folder, and their sizes."""
    (own,) = folder.glob("mmpvt_app_*")
    return {path: path.stat().st_size for path in own.rglob("*") if path.is_file()}


def begun(port: int, *headers: str, body: bytes = b"") -> socket.socket:
    """An upload whose body has not come to its end."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    lines = (
        "POST /gradio_api/upload HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Content-Type: multipart/form-data; boundary=b",
        *headers,
    )
    connection.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    return connection


@pytest.mark.parametrize("header", [f"Content-Length: {LARGE}", "Transfer-Encoding: chunked"])
def test_uploads_at_once_share_the_quota(app: tuple, header: str):
    """Room is kept for what is still to come; given back when it doesn't."""
    _, port, _ = app
    most = QUOTA // LARGE
    connections = [begun(port, header) for _ in range(most + 3)]
    try:
        answered = set()
        while len(answered) < 3:
            ready, _, _ = select.select(set(connections) - answered, (), (), 60)
            assert ready, f"{len(connections)} uploads of {LARGE} bytes are taken at once"
            answered.update(ready)
        for connection in answered:
            assert b" 507 " in connection.recv(1 << 16).splitlines()[0]
    finally:
        for connection in connections:
            connection.close()
    end = time.monotonic() + 30
    while upload(port, an_image())[0] != 200:
        assert time.monotonic() < end, "the room of uploads that were cut isn't given back"


def test_quota(app: tuple):
    """403 MB are sent; what is old goes when there is need, what is new is not touched."""
    process, port, folder = app
    logged = len(process.text)
    (kept_path,) = json.loads(upload(port, an_image((65, 65)))[1])
    with ThreadPoolExecutor(4) as pool:
        contents = (bytes([i]) * LARGE for i in range(17))
        answers = list(pool.map(lambda content: upload(port, content), contents))
    assert {status for status, _ in answers} == {200, 507}
    refused = next(text for status, text in answers if status == 507)
    assert b"250 MB of files at most" in refused
    assert sum(kept(folder).values()) <= QUOTA and Path(kept_path).exists()

    for path in kept(folder):
        if path != Path(kept_path):
            os.utime(path, (0, 0))
    status, answer = upload(port, bytes([99]) * LARGE)
    assert status == 200, answer
    assert sum(kept(folder).values()) <= QUOTA and Path(kept_path).exists()
    assert "event: complete" in predict(port, kept_path)

    results = next(folder.glob("mmpvt_app_*")) / "results"  # they count as well
    results.mkdir()
    with (results / "many").open("wb") as file:
        file.truncate(QUOTA)
    kind = {"Content-Type": "application/json"}
    body = json.dumps(dict(data=[None, 0.3])).encode()
    assert ask(port, "POST", "/gradio_api/call/redraw", body, **kind)[0] == 507
    for path in kept(folder):
        os.utime(path, (0, 0))
    assert "event: complete" in called(port, "redraw", [None, 0.3])
    assert sum(kept(folder).values()) <= QUOTA
    assert "Traceback" not in process.text[logged:]


def test_uploads_that_are_cut(app: tuple):
    """Nothing is left of them, nor of forms that gradio's parser fails on."""
    process, port, folder = app
    logged, before = len(process.text), kept(folder)
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n'
    for header, body in (
        (f"Content-Length: {LARGE}", head + bytes(2 << 20)),
        ("Transfer-Encoding: chunked", b"200000\r\n" + (head + bytes(2 << 20))[: 2 << 20]),
    ):
        for _ in range(QUOTA // LARGE + 1):
            connection = begun(port, header, body=body)
            time.sleep(0.05)
            connection.close()
    form = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s'
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    for query, body in (
        ("", form % (b"files", b'; filename="a.jpg"', b"no end")),
        ("", form % (b"others", b'; filename="a.jpg"', b"x\r\n--b--\r\n")),
        ("", form % (b"files", b"", b"no file\r\n--b--\r\n")),
        ("?upload_id=a", form % (b"files", b"", b"no file\r\n--b--\r\n")),
        ("?upload_id=a%0ab", form % (b"files", b'; filename="a.jpg"', b"x\r\n--b--\r\n")),
        ("", b"no form"),
    ):
        status, answer, _ = ask(port, "POST", f"/gradio_api/upload{query}", body, **kind)
        assert status in (200, 400) and (status == 400 or answer == b"[]"), (body, answer)
    assert ask(port, "POST", "/gradio_api/upload", b"x", **{"Content-Type": "multipart"})[0] == 400
    assert not kept(folder).keys() - before.keys()
    assert not process.text[logged:]


def test_other_websites_and_names(app: tuple):
    process, port, folder = app
    logged, before = len(process.text), kept(folder)
    own = f"127.0.0.1:{port}"
    kind = {"Content-Type": "application/json"}
    body = json.dumps(dict(data=[None, 0.3])).encode()
    for headers in (
        dict(Origin="http://evil.example"),
        dict(Origin="null"),
        dict(Origin=f"http://127.0.0.1:{port + 1}"),
        dict(Origin=f"http://localhost:{port}"),
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"},
        dict(Host=f"evil.example:{port}"),
        dict(Host=f"evil.example:{port}", Origin=f"http://evil.example:{port}"),
        dict(Host="127.0.0.1.evil.example"),
        dict(Host="203.0.113.7"),
        dict(Host="[::1"),
        dict(Host=""),
    ):
        for path in ("call/predict", "queue/join", "upload", "cancel"):
            status, text, _ = ask(port, "POST", f"/gradio_api/{path}", body, **kind, **headers)
            assert status == 403 and b"Traceback" not in text, (headers, path)
        if "Host" in headers:
            assert ask(port, "GET", "/", **headers)[0] == 403
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert ask(port, "GET", "/config", **foreign)[0] == 403
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert ask(port, "GET", "/", **link)[0] == 200
    for host in (own, f"localhost:{port}", "LOCALHOST", f"[::1]:{port}", "page.example"):
        headers = dict(Host=host, Origin=f"http://{host.lower()}")
        assert ask(port, "GET", "/config", **headers)[0] == 200
        assert ask(port, "POST", "/gradio_api/call/predict", body, **kind, **headers)[0] == 200
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
    assert ask(port, "GET", "/", **upgrade)[0] != 101
    assert kept(folder) == before
    assert "Traceback" not in process.text[logged:] and "ERROR" not in process.text[logged:]


def test_listening_at_all_addresses_answers_to_the_own_names_alone():
    own = socket.gethostname().lower()
    assert host_names("0.0.0.0") >= {own, "localhost"}
    assert own not in host_names("127.0.0.1")
    assert host_names("::", ["Page.Example"]) >= {own, "page.example"}


def join(**changes: object) -> bytes:
    body = dict(data=[None, 0.3], fn_index=0, session_hash="a", event_data=None, trigger_id=None)
    return json.dumps({**body, **changes}).encode()


def raw(name: str, value: str) -> bytes:
    """A request with a value that ``json`` wouldn't write."""
    return join(**{name: "HERE"}).replace(b'"HERE"', value.encode())


def test_forged_requests(app: tuple):
    """An answer, no traceback, and nothing on the console."""
    process, port, _ = app
    logged = len(process.text)
    kind = {"Content-Type": "application/json"}
    deep, file = "[" * 20_000 + "]" * 20_000, dict(path="/a", meta={"_type": "gradio.FileData"})
    numbers = ("NaN", "-Infinity", "1e400", "1" * 400, "-1", "99", "0.5", "true", '"0"', "[[0]]")
    joins = (
        *(raw("fn_index", value) for value in (*numbers, "1" + "0" * 30, "null", deep)),
        *(raw("trigger_id", value) for value in numbers if value != "99"),
        *(raw("data", value) for value in ("null", "{}", "[]", "[1]", "[null, 0.3, 1]", deep)),
        *(raw("data", f"[null, {x}]") for x in ("NaN", "1e400", '"a"', "[1]", "{}", deep)),
        *(raw("event_data", value) for value in ("[]", '"a"', '{"index": {}}', deep)),
        *(raw("session_hash", value) for value in ("null", "1", '"a b"', '""', '"a\\n"', deep)),
        join(data=[dict(file, path=["/a"]), 0.3]),
        join(data=[dict(file, path="a" * 5000), 0.3]),
        join(data=[dict(file, path="\ud800"), 0.3]),
        join(session_hash="a" * 100),
        b'{"data": [null, 0.3], "fn_index": 0}',
        *(b"", b"{", b"[]", b"null", b"\xff\xfe", b'"\\ud800"', deep.encode(), b"{" * 60_000),
    )
    for route, bodies in (
        ("queue/join", joins),
        ("call/predict", (b'{"data": [1]}', b'{"data": [null, NaN]}', deep.encode(), b"[]")),
        ("call/none", (b'{"data": [null, 0.3]}',)),
        ("run/predict", joins),
        ("api/predict", joins),
        ("cancel", (b"{}", b'{"session_hash": "a", "fn_index": 1e400, "event_id": "a"}')),
        ("reset", (b"{}", b'{"event_id": NaN}')),
    ):
        for body in bodies:
            status, text, _ = ask(port, "POST", f"/gradio_api/{route}", body, **kind)
            assert 400 <= status < 500, (route, body[:200], status)
            assert b"Traceback" not in text
    for path in ("/etc/passwd", "/a\0b", "", "relative"):
        assert "event: error" in predict(port, path)
    for score in (-1, 2, None):
        said = called(port, "redraw", [None, score])
        assert "event: error" in said
    assert not process.text[logged:]


@pytest.fixture
def page(browser, app: tuple) -> Iterator:
    """The page, loaded; nothing in it may come from elsewhere."""
    _, port, _ = app
    page = browser.new_page(viewport=dict(width=1320, height=900))
    page.set_default_timeout(TIMEOUT)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_selector(INPUT, state="attached")
    yield page
    assert all(re.match(rf"(http://127\.0\.0\.1:{port}/|data:|blob:)", url) for url in asked)
    page.close()


INPUT = "#file input[type=file]"


def listed(page) -> list[str]:
    """The boxes in the table."""
    return re.findall(r"\d+, \d+, \d+, \d+", page.inner_text("#found"))


def picture(page, where: str) -> np.ndarray:
    """An image of the page, RGB."""
    content = page.evaluate(
        "async (url) => Array.from(new Uint8Array(await (await fetch(url)).arrayBuffer()))",
        page.get_attribute(f"{where} img", "src"),
    )
    return cv2.imdecode(np.array(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def set_score(page, value: float) -> None:
    number = page.locator("#score input[type=number]")
    number.fill(str(value))
    number.press("Enter")


def test_image_boxes_slider_and_attention(page, shapes: Path):
    page.set_input_files(INPUT, shapes / "val2017" / "000000000001.jpg")
    page.wait_for_selector("#result img")
    wait_until(page, lambda: listed(page))
    for part in ("prepare", "model", "draw"):
        wait_until(page, lambda p=part: re.search(rf"{p} \d+ ms", page.inner_text("#times")))
    edges = [page.locator(part).bounding_box() for part in ("#found", "#found th:has-text('box')")]
    assert edges[1]["x"] + edges[1]["width"] <= edges[0]["x"] + edges[0]["width"] + 2
    many, drawn = len(listed(page)), picture(page, "#result")
    assert drawn.shape == (480, 480, 3) and drawn.std() > 10

    set_score(page, 0.99)
    wait_until(page, lambda: not listed(page))
    wait_until(page, lambda: (picture(page, "#result") != drawn).any())
    slider = page.locator("#score input[type=range]")
    slider.focus()
    slider.press("Home")  # to its left end
    wait_until(page, lambda: len(listed(page)) == many)

    page.locator("#result img").click()  # in the middle
    page.wait_for_selector("#attention img")
    heat = picture(page, "#attention").astype(int)
    for column in np.array_split(heat, 4, axis=1):
        ring = (column[..., 0] < 90) & (column[..., 1:] > 170).all(2)  # of the position's mark
        y, x = np.argwhere(ring).mean(0)
        assert abs(x - 210) < 12 and abs(y - (58 + 210)) < 12


def test_a_clip(page, app: tuple, tmp_path: Path, shapes: Path):
    """The browser plays it; another file gets a sentence, an image the picture again."""
    av = pytest.importorskip("av")
    process, _, folder = app
    with av.open(str(tmp_path / "clip.mp4"), "w", options=dict(movflags="faststart")) as file:
        stream = file.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 64, 64, "yuv420p"
        pictures = sorted((shapes / "val2017").iterdir())
        for i in range(20):
            image = cv2.resize(cv2.imread(str(pictures[i % 2])), (64, 64))
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")):
                file.mux(packet)
        for packet in stream.encode():
            file.mux(packet)
    logged = len(process.text)
    page.set_input_files(INPUT, tmp_path / "clip.mp4")
    page.wait_for_selector("#clip video", state="visible")
    ends = "document.querySelector('#clip video').duration"
    wait_until(page, lambda: 1.5 < (page.evaluate(ends) or 0) < 2.5)
    wait_until(page, lambda: "of 10 frames" in page.inner_text("#found"))
    assert page.locator("#found th:has-text('frames')").count()
    assert not page.is_visible("#result img") and "clip" in page.inner_text("#times")
    wait_until(page, lambda: page.evaluate("document.querySelector('#clip video').currentTime") > 0)
    set_score(page, 0.9)
    page.wait_for_selector("text=a clip keeps the score it was uploaded with")
    set_score(page, 0.3)
    page.locator("#file button[aria-label=Clear], #file button[title=Clear]").first.click()
    page.wait_for_selector(INPUT, state="attached")
    content = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) * 2 // 3])
    page.set_input_files(INPUT, tmp_path / "cut.mp4")
    page.wait_for_selector("text=s shorter than its file says")
    page.wait_for_selector("#clip video", state="visible")
    page.locator("#file button[aria-label=Clear], #file button[title=Clear]").first.click()
    page.wait_for_selector(INPUT, state="attached")
    (tmp_path / "text.mp4").write_text("no video")
    page.set_input_files(INPUT, tmp_path / "text.mp4")
    page.wait_for_selector("text=text.mp4 can't be read as a video")
    page.locator("#file button[aria-label=Clear], #file button[title=Clear]").first.click()
    page.wait_for_selector(INPUT, state="attached")
    page.set_input_files(INPUT, shapes / "val2017" / "000000000001.jpg")
    page.wait_for_selector("#result img")
    assert not page.is_visible("#clip video")
    wait_until(page, lambda: page.locator("#found th:has-text('box')").count() > 0)
    assert "Traceback" not in process.text[logged:] and str(folder) not in page.inner_text("body")


def test_clicks_without_a_position(page, app: tuple, shapes: Path):
    process, _, _ = app
    page.set_input_files(INPUT, shapes / "val2017" / "000000000001.jpg")
    page.wait_for_selector("#result img")
    logged = len(process.text)
    forged: list[object] = []

    def forge(route) -> None:
        asked = json.loads(route.request.post_data)
        if asked.get("event_data"):
            asked["event_data"]["index"] = forged[-1]
        route.continue_(post_data=json.dumps(asked))

    page.route("**/queue/join*", forge)
    message = page.locator("text=the click has no position in the picture")
    for index in (None, [None, None], [-1, 5], [5, 481], ["a", "b"], [5], 5, "5", [1e300, 1]):
        forged.append(index)
        page.locator("#result img").click()
        message.first.wait_for()
        page.locator("button.toast-close").first.click()
        wait_until(page, lambda: message.count() == 0)
    page.unroute("**/queue/join*")
    page.locator("#result img").click()  # the page goes on
    page.wait_for_selector("#attention img")
    assert not process.text[logged:]


def test_a_page_from_elsewhere(browser, app: tuple):
    """Another server's page on this machine sends what needs no permission of a browser's."""
    process, port, folder = app
    logged, before = len(process.text), kept(folder)
    api = f"http://127.0.0.1:{port}/gradio_api"
    script = f"""
        const form = new FormData();
        form.append("files", new Blob(["content"]), "a.jpg");
        const send = (route, body) =>
            fetch("{api}/" + route, {{method: "POST", mode: "no-cors", body: body}});
        const call = JSON.stringify({{data: [null, 0.3]}});
        Promise.all([send("upload", form), send("call/predict", call)])
            .then(() => document.title = "sent");
    """

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(f"<html><script>{script}</script></html>".encode())

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as elsewhere:
        threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
        page = browser.new_page()
        answers: dict[str, int] = {}
        page.on("response", lambda answer: answers.update({answer.url: answer.status}))
        for host in ("127.0.0.1", "localhost"):  # the same site, another one
            page.goto(f"http://{host}:{elsewhere.server_port}/")
            page.wait_for_function("document.title == 'sent'")
            for route in ("upload", "call/predict"):
                assert answers.pop(f"{api}/{route}") == 403
        page.close()
        elsewhere.shutdown()
    assert kept(folder) == before
    assert not process.text[logged:]


def test_text_file_named_as_an_image(page, app: tuple, tmp_path: Path, shapes: Path):
    fake = tmp_path / "fake.jpg"
    fake.write_text("no image")
    process, _, folder = app
    logged = len(process.text)
    page.set_input_files(INPUT, fake)
    page.wait_for_selector("text=fake.jpg can't be read as an image")
    shown = page.inner_text("body")
    assert "Traceback" not in shown + process.text[logged:]
    assert str(folder) not in shown
    page.locator("#file button[aria-label=Clear], #file button[title=Clear]").first.click()
    page.wait_for_selector(INPUT, state="attached")
    page.set_input_files(INPUT, shapes / "val2017" / "000000000002.jpg")  # the page goes on
    page.wait_for_selector("#result img")


def test_segmenter(untrained_segmenter: tuple[Path, Path], shapes: Path):
    """A label map is drawn, listed by its classes' shares, and its attention looked at."""
    predictor = mmpvt.Predictor(*untrained_segmenter, device="cpu")
    trial = trials.run(predictor, str(shapes / "val2017" / "000000000001.jpg"))
    assert trials.draw(predictor, trial, 0.3).shape == (480, 480, 3)
    shares = [float(share) for _, share in trials.rows(predictor, trial, 0.3)]
    assert len(shares) > 1 and 99 < sum(shares) < 101 and shares == sorted(shares, reverse=True)
    assert trials.attention(predictor, trial, [470, 20]).std() > 10


def test_long_images_are_made_smaller():
    assert trials.shrink(np.zeros((8, 4000, 3), np.uint8)).shape == (4, 2000, 3)
    assert trials.shrink(np.zeros((1, 9000, 3), np.uint8)).shape == (1, 2000, 3)
    image = np.zeros((300, 2000, 3), np.uint8)
    assert trials.shrink(image) is image


def test_boxes_are_in_the_pixels_of_the_file(tmp_path: Path):
    found = InstanceData(
        bboxes=torch.tensor([[10.0, 20, 500, 100]]), labels=torch.tensor([0]), scores=torch.ones(1)
    )
    predictor = SimpleNamespace(
        pipeline=SimpleNamespace(reader=None, prepare=lambda image, path: image),
        predict=lambda images: [BaseDataElement(pred_instances=found)],
        classes=["cat"],
    )
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((300, 4000, 3), np.uint8))
    trial = trials.run(predictor, str(tmp_path / "a.png"))
    assert trial.image.shape == (150, 2000, 3)  # made smaller
    assert trials.rows(predictor, trial, 0.3) == [["cat", "1.00", "20, 40, 1000, 200"]]


def test_class_names_of_a_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever the machine's encoding, and where they hold what separates lines elsewhere."""
    (tmp_path / "clip.jsonl").write_bytes('{"class":"犬\u2028","score":0.5}\n'.encode())
    made = SimpleNamespace(video=Path(), lines=tmp_path / "clip.jsonl", frames=1, missing=0.0)
    monkeypatch.setattr(trials, "predict_video", lambda *_: made)
    predictor = SimpleNamespace(classifies=True, classes=["犬\u2028"])
    clip = trials.run_clip(predictor, "clip.mp4", 0.3)
    assert clip.rows == [["犬\u2028", "0.50"]]
    made.lines.write_text('{"instances":[{"category_id":4,"score":0.5}]}\n')
    nameless = SimpleNamespace(classifies=False, finds_instances=True, classes=[])
    assert trials.run_clip(nameless, "clip.mp4", 0.3).rows == [["3", "0.50", "1 of 1 frames"]]


def test_careless_options(trained: Path, tiny_config: Path, call_tool):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        args = (tiny_config, trained / "epoch_2.pth")
        sentence = call_tool("app.py", *args, "--port", port).one_sentence()
        free = re.fullmatch(rf"error: --port: {port} is taken: pass --port (\d+)", sentence)
        assert free and int(free[1]) != port
    for wrong, expected in (
        (("--port", 99999), "a port is a number from 1 to 65535"),
        (("--host", "203.0.113.7", "--port", 7999), "is no address of this machine"),
        (("--allow-host", "http://a.org"), "pass the host name alone, as in example.org"),
    ):
        assert expected in call_tool("app.py", *args, *wrong).one_sentence()


def test_without_gradio(trained: Path, tiny_config: Path, call_tool, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "gradio" else find(name, *rest),
    )
    sentence = call_tool("app.py", tiny_config, trained / "epoch_2.pth").one_sentence()
    assert "needs gradio, which isn't installed: pip install 'mmpvt[app]'" in sentence
