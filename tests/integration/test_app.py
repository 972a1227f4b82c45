"""The page, tried in a browser; and its server, tried by someone who means no good."""

from __future__ import annotations

import http.client
import importlib.util
import io
import json
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import mmpvt
from helpers import Started, wait_until
from mmpvt.app import trial as trials
from mmpvt.app.guard import MAX_UPLOAD

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PATIENCE = 120_000  # milliseconds: the machine may be busy

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="gradio is not installed"
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def app(
    tmp_path_factory: pytest.TempPathFactory, trained: Path, tiny_config: Path
) -> Iterator[tuple[Started, int, Path]]:
    """The tool's process, its port, and where its temporary folder lies."""
    folder = tmp_path_factory.mktemp("app")
    port = free_port()
    checkpoint = torch.load(trained / "epoch_2.pth", weights_only=False)  # our own, just written
    checkpoint["state_dict"]["bbox_head.retina_cls.bias"] += 4  # surer than two epochs make it
    torch.save(checkpoint, folder / "sure.pth")
    args = (tiny_config, folder / "sure.pth", "--port", port)
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
    data = [dict(path=path, meta={"_type": "gradio.FileData"}), 0.3]
    body = json.dumps(dict(data=data)).encode()
    kind = {"Content-Type": "application/json"}
    status, answer, _ = ask(port, "POST", "/gradio_api/call/predict", body, **kind)
    assert status == 200, answer
    event = json.loads(answer)["event_id"]
    return ask(port, "GET", f"/gradio_api/call/predict/{event}")[1].decode()


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


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, app: tuple) -> Iterator:
    """The page, loaded; nothing in it may come from elsewhere."""
    _, port, _ = app
    page = browser.new_page(viewport=dict(width=1320, height=900))
    page.set_default_timeout(PATIENCE)
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


def test_careless_options(trained: Path, tiny_config: Path, call_tool):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        args = (tiny_config, trained / "epoch_2.pth")
        sentence = call_tool("app.py", *args, "--port", port).one_sentence()
        free = re.fullmatch(rf"error: --port {port} is taken: pass --port (\d+), .*", sentence)
        assert free and int(free[1]) != port
    for wrong, expected in (
        (("--port", 99999), "a port is a number from 1 to 65535"),
        (("--host", "203.0.113.7", "--port", 7999), "is no address of this machine"),
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
