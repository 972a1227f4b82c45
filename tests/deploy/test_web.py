"""The page that runs exported files, in a real browser that reaches nothing but its own server."""

from __future__ import annotations

import base64
import functools
import io
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from helpers import ROOT, wait_until
from onnx_files import detections, save
from small_models import picture

PAGE = ROOT / "examples" / "web"
UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONN", "ENETUNREACH", "TIMEDOUT", "ERR_SOCKET")
NAMES = ["<img src=x onerror=alert(1)>", "cat\u202e", *map(str, range(2, 160))]
SHOWN = [name.replace("\u202e", "\ufffd") for name in NAMES]
PALETTE = [[label, 255 - label, 7 * label % 256] for label in range(len(NAMES))]
DROP = """([data, name]) => {
    const files = new DataTransfer();
    files.items.add(new File([Uint8Array.from(atob(data), (c) => c.charCodeAt(0))], name));
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true }));
}"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page with onnxruntime-web, made as its guide says."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm on this machine")
    folder = tmp_path_factory.mktemp("web") / "page"
    shutil.copytree(PAGE, folder, ignore=shutil.ignore_patterns("node_modules", "ort"))
    options = ("--no-audit", "--no-fund", "--fetch-retries=1")
    for command in ([npm, "ci", *options], [npm, "run", "build"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        if done.returncode and any(sign in done.stderr for sign in UNREACHABLE):
            pytest.skip("the npm registry can't be reached")
        assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """Its URL, of a server that knows nothing but files."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args) -> None:
            pass

        def copyfile(self, source, outputfile) -> None:
            try:
                super().copyfile(source, outputfile)
            except ConnectionError:  # the page ended a worker that was loading it
                self.close_connection = True

    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def page(browser, server: str) -> Iterator:
    """The page; what goes wrong in it, or asks for anything elsewhere, fails the test."""
    context = browser.new_context(viewport=dict(width=1280, height=900))
    wrong, asked = [], []
    context.route(lambda url: not url.startswith(server), lambda route: route.abort())
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.set_default_timeout(120_000)  # the machine may be busy
    page.on("console", lambda said: wrong.append(said.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    page.goto(server)
    yield page
    assert not wrong
    assert {url.removeprefix("blob:")[: len(server)] for url in asked} == {server}
    context.close()


def wait(page) -> None:
    page.locator("#progress").wait_for(state="hidden")


def choose(page, model: Path | None = None, image: Path | None = None) -> str:
    """Chooses files; returns the error that the page then shows."""
    for name, path in (("Model", model), ("Image", image)):
        if path:
            page.get_by_label(name, exact=True).set_input_files(path)
    wait(page)
    return page.inner_text("#error") if page.locator("#error").is_visible() else ""


def drop(page, path: Path) -> None:
    page.evaluate(DROP, [base64.b64encode(path.read_bytes()).decode(), path.name])


def rows(page) -> list[list[str]]:
    table = page.locator("#results tbody tr").all_inner_texts()
    return [[cell.strip() for cell in row.split("\t")] for row in table]


def drawn(page) -> np.ndarray:
    """What the canvas shows, once all is drawn: uint8, (height, width, 3)."""
    shown = """new Promise((give) => requestAnimationFrame(() => requestAnimationFrame(
        () => give(document.getElementById("canvas").toDataURL().split(",")[1]))))"""
    return np.array(Image.open(io.BytesIO(base64.b64decode(page.evaluate(shown)))).convert("RGB"))


def png(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def with_names(source: Path, target: Path) -> Path:
    """An exported file with classes of names that would be code on a careless page."""
    model = onnx.load(source)
    kept = {prop.key: prop.value for prop in model.metadata_props}
    told = {"classes": NAMES, "category_ids": list(range(len(NAMES))), "palette": PALETTE}
    del model.metadata_props[:]
    helper.set_model_props(model, kept | {key: json.dumps(value) for key, value in told.items()})
    onnx.save(model, target)
    return target


def test_boxes(page, server: str, exported: Callable, tmp_path: Path):
    """They are onnxruntime's; nothing can be sent elsewhere; the keyboard is enough."""
    model = with_names(exported("retinanet", "v2", (96, 128)).path, tmp_path / "model.onnx")
    pixels = picture(120, 160)
    session = onnxruntime.InferenceSession(model)
    boxes, scores, labels = session.run(None, {"image": pixels})
    with page.context.expect_event("request", lambda asked: asked.url.endswith(".wasm")):
        drop(page, model)  # the context sees a worker's requests, too
    drop(page, png(tmp_path / "drawn.png", pixels))
    wait(page)
    assert "drawn.png, 160x120 pixels" in page.inner_text("#status")
    page.get_by_role("slider", name="Score, at least").fill("0.5")
    found = rows(page)
    assert len(found) == (scores >= 0.5).sum() > 5
    shown = np.array([[float(x) for x in row[2].split(", ")] for row in found])
    assert np.abs(shown - boxes[: len(found)]).max() < 0.1
    np.testing.assert_allclose([float(row[1]) for row in found], scores[: len(found)], atol=1e-3)
    assert [row[0] for row in found] == [SHOWN[label] for label in labels[: len(found)]]

    page.get_by_role("slider", name="Score, at least").focus()
    page.keyboard.press("End")
    assert "0 objects" in page.inner_text("#results")
    page.keyboard.press("Home")
    for key in ("Tab", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    assert page.locator("tbody tr").nth(2).locator("button:focus").count() == 1

    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))
        elsewhere.listen()
        elsewhere.settimeout(0.3)
        url = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/"
        attempt = f"fetch('{url}', {{mode: 'no-cors'}}).then(() => 'sent', () => 'refused')"
        assert page.workers[0].evaluate(attempt) == "refused"
        with pytest.raises(TimeoutError):
            elsewhere.accept()
    page.set_viewport_size(dict(width=360, height=740))
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_label_map(page, exported: Callable, tmp_path: Path):
    model = with_names(exported("fpn", "v2", (64, 96)).path, tmp_path / "model.onnx")
    pixels = picture(100, 140)
    (label_map,) = onnxruntime.InferenceSession(model).run(None, {"image": pixels})
    assert not choose(page, model, png(tmp_path / "drawn.png", pixels))
    labels, counts = np.unique(label_map, return_counts=True)
    shares = {
        SHOWN[label]: f"{100 * count / label_map.size:.2f}%"
        for label, count in zip(labels, counts, strict=True)
    }
    assert len(shares) > 3
    assert dict(rows(page)) == shares
    page.get_by_role("slider", name="Opacity").fill("100")
    canvas = drawn(page)
    assert canvas.shape == (300, 420, 3)  # small images are shown three times as large
    expected = np.array(PALETTE)[label_map].repeat(3, 0).repeat(3, 1)
    assert (canvas == expected).all(-1).mean() > 0.99


def test_masks_and_classes(page, tmp_path: Path):
    image = png(tmp_path / "image.png", np.full((30, 40, 3), 255, np.uint8))
    masks = save(tmp_path / "masks.onnx", kind="instance segmentation")
    assert not choose(page, masks, image)
    assert [row[:2] for row in rows(page)] == [["cat", "0.900"], ["dog", "0.600"]]
    page.get_by_role("slider", name="Opacity").fill("100")
    canvas = drawn(page)
    assert canvas[60, 36].tolist() == [220, 20, 60]
    assert canvas[60, 100].tolist() == [255] * 3  # beside the masks

    scores = dict(scores=np.array([0.25, 0.75], np.float32))
    classifier = save(tmp_path / "classifier.onnx", scores, kind="classification")
    assert not choose(page, classifier)
    assert rows(page) == [["dog", "0.750"], ["cat", "0.250"]]
    assert "image.png, 40x30 pixels: dog" in page.inner_text("#status")


def test_long_names(page, tmp_path: Path):
    """They are cut before their scores."""
    image = png(tmp_path / "narrow.png", np.full((30, 40, 3), 255, np.uint8))
    seen = []
    for score in (0.61, 0.39):
        outputs = {**detections(), "scores": np.array([score, 0.1], np.float32)}
        del outputs["masks"]
        facts = dict(classes=["w" * 50] * 2, category_ids=[1, 2])
        assert not choose(page, save(tmp_path / f"{score}.onnx", outputs, **facts), image)
        seen.append(drawn(page))
    assert (seen[0] != seen[1]).any()


def test_pixels(page, tmp_path: Path):
    """Images are decoded as OpenCV does: turned, colours as they are in the file."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x112] = 6  # a quarter turn
    Image.fromarray(noise).save(tmp_path / "translucent.png")
    Image.fromarray(picture(20, 30)).save(tmp_path / "turned.jpg", exif=turned, quality=95)
    cv2.imwrite(str(tmp_path / "deep.png"), noise[..., :3].astype(np.uint16) * 257)
    Image.fromarray(noise[..., 0]).save(tmp_path / "grey.png")
    Image.fromarray(picture(20, 30)).save(tmp_path / "turned.png", exif=turned)
    read = """async ([data, isTurned]) => {
        const { decode, pixelsOf } = await import(`${document.baseURI}image.js`);
        const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
        const bitmap = await decode(new Blob([bytes]), isTurned);
        return [bitmap.height, bitmap.width, ...pixelsOf(bitmap, 3)];
    }"""
    ignoring = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    for path, flag in product(sorted(tmp_path.iterdir()), (cv2.IMREAD_COLOR, ignoring)):
        data = base64.b64encode(path.read_bytes()).decode()
        height, width, *values = page.evaluate(read, [data, flag != ignoring])
        seen = np.array(values, np.int32).reshape(height, width, 3)
        theirs = cv2.imread(str(path), flag)[..., ::-1].astype(np.int32)
        assert seen.shape == theirs.shape, path.name
        # decoders of JPEG may differ by a level
        assert np.abs(seen - theirs).max() <= (path.suffix == ".jpg"), path.name


def test_files_that_are_no_models_or_images(page, tmp_path: Path):
    """Each is told in a sentence, and the next good ones run."""
    image = png(tmp_path / "good.png", picture(30, 40))
    whole = save(tmp_path / "whole.onnx", kind="instance segmentation").read_bytes()
    wrong = {
        "random": (np.random.default_rng(0).bytes(5000), "no ONNX file"),
        "cut": (whole[: len(whole) // 2], "another kind of model|no ONNX file"),
        "endless": (b"\x72\xff\xff\xff\xff\xff\xff\xff\xff\x7f" + whole, "no ONNX file"),
        "graph": (whole.replace(b"Constant", b"Unknown1"), "onnxruntime-web can't load it"),
        "empty": (b"", "another kind of model"),
        "picture": (image.read_bytes(), "no ONNX file"),
    }
    for name, (content, said) in wrong.items():
        (tmp_path / f"{name}.onnx").write_bytes(content)
        error = choose(page, tmp_path / f"{name}.onnx", image)
        assert any(part in error for part in said.split("|")), (name, error)
        assert error.startswith(f"{name}.onnx: ") and error.count("\n") == 0
    several = tmp_path / "several.onnx"
    for meta, said in (
        (dict(task=None), "another kind of model"),
        (dict(task="constructor"), "another kind of model"),
        (dict(form="batch"), "takes batches"),
        (dict(classes="[" * 100_000), "no list of classes"),
        (dict(classes=["cat"]), "gives label 1, and it has 1 classes"),
        (dict(palette=[[1, 2, 300]]), "no list of palette"),
        (dict(inputs=(("image", TensorProto.FLOAT, 3),)), "another kind of model"),
    ):
        assert said in choose(page, save(several, **meta), image), meta
    one, nan = np.zeros((1, 4), np.float32), np.full((1, 4), np.nan, np.float32)
    score, label = np.ones(1, np.float32), np.zeros(1, np.int64)
    for boxes, scores, labels, said in (
        (nan, score, label, "NaN or Inf"),
        (one, np.ones(2, np.float32), label, "output boxes is float32 of 1x4 values"),
        (one, score, label - 1, "gives label -1"),
    ):
        outputs = dict(boxes=boxes, scores=scores, labels=labels)
        assert said in choose(page, save(several, outputs), image)
    assert not choose(page, save(several), image)
    (tmp_path / "text.png").write_bytes(b"no image" * 100)
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    for name in ("text.png", "cut.jpg"):
        assert choose(page, image=tmp_path / name) == f"{name}: it can't be decoded as an image."
        assert not page.locator("#canvas").is_visible()  # the one before would be taken for it
    assert not choose(page, image=image)
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((30, 40, 3), 40_000, np.uint16))
    assert not choose(page, image=tmp_path / "deep.png")
    said = "deep.png: it has more than 8 bits a channel, and the model takes bytes."
    assert choose(page, save(several, bits=8)) == said
    exif = Image.Exif()
    for orientation, told in ((1, ""), (6, "EXIF tag turns it")):  # upright; a quarter turn
        exif[0x112] = orientation
        Image.new("RGB", (41, 31)).save(tmp_path / "a.webp", exif=exif)
        error = choose(page, save(several), tmp_path / "a.webp")
        assert told in error and bool(told) == bool(error), orientation
    assert not choose(page, save(several, orientation="ignored"), tmp_path / "a.webp")
    assert not choose(page, image=image)
    assert len(rows(page)) == 2


def test_metadata_of_damaged_files(page, tmp_path: Path):
    """Whatever the bytes, reading ends: with metadata, or with a sentence."""
    good = base64.b64encode(save(tmp_path / "good.onnx").read_bytes()).decode()
    damage = """async ([data, draws]) => {
        const { describeModel, UserError } = await import(`${document.baseURI}model_file.js`);
        const good = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
        const counts = { read: 0, refused: 0 };
        for (const [at, value, end] of draws) {
            const bytes = good.slice(0, end % 3 ? good.length : end % good.length);
            for (let i = 0; i < at.length; i++) bytes[at[i] % good.length] = value[i];
            try {
                describeModel(bytes);
                counts.read++;
            } catch (error) {
                if (!(error instanceof UserError)) throw error;
                counts.refused++;
            }
        }
        return counts;
    }"""
    rng = np.random.default_rng(0)
    draws = [
        [rng.integers(0, 1 << 20, n).tolist(), rng.integers(0, 256, n).tolist(), int(n * 97)]
        for n in rng.integers(1, 20, 3000)
    ]
    counts = page.evaluate(damage, [good, draws])
    assert min(counts.values()) > 100, counts


def test_while_a_model_runs(page, tmp_path: Path):
    """A second image waits for its turn, Stop ends what runs, a second model replaces the first."""
    first, second = (png(tmp_path / f"{n}.png", picture(30, 40)) for n in ("first", "second"))
    endless = save_endless(tmp_path / "endless.onnx")
    page.get_by_label("Model", exact=True).set_input_files(endless)
    page.get_by_label("Image", exact=True).set_input_files(first)
    wait_until(page, lambda: page.inner_text("#status") == "Running the model …")
    drop(page, second)
    wait_until(page, lambda: "this one is next" in page.inner_text("#status"))
    page.get_by_role("button", name="Stop").click()
    wait_until(page, lambda: page.inner_text("#status") == "Running the model …")
    page.get_by_role("button", name="Stop").click()
    wait(page)
    assert page.inner_text("#status") == "Stopped."
    drop(page, first)
    wait_until(page, lambda: page.inner_text("#status") == "Running the model …")
    drop(page, save(tmp_path / "quick.onnx"))
    wait(page)
    assert "first.png, 40x30 pixels: 2 objects" in page.inner_text("#status")


def save_endless(path: Path) -> Path:
    """Writes a classifier that never comes to an end."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes"]),
            helper.make_node("Add", ["old", "old"], ["new"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("old", TensorProto.FLOAT, [2]),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("new", TensorProto.FLOAT, [2]),
        ],
    )
    start = {"times": np.array(1 << 62), "true": np.array(True), "start": np.ones(2, np.float32)}
    model = onnx.load(save(path, dict(scores=start["start"]), kind="classification"))
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in start.items())
    model.graph.node[0].CopyFrom(helper.make_node("Loop", [*start], ["scores"], body=body))
    onnx.save(model, path)
    return path


def test_a_model_beside_the_page(browser, server: str, folder: Path, tmp_path: Path):
    save(folder / "beside.onnx")
    page = browser.new_page()
    page.goto(f"{server}?model=beside.onnx")
    wait(page)
    assert page.inner_text("#model-name") == "beside.onnx"
    assert not choose(page, image=png(tmp_path / "image.png", picture(30, 40)))
    assert len(rows(page)) == 2
    page.goto(f"{server}?model=https://example.org/model.onnx")
    assert page.inner_text("#error") == "?model= takes a file beside this page."
    page.goto(f"{server}?model=missing.onnx")
    wait(page)
    assert page.inner_text("#error") == "missing.onnx: the server has no such file."
    page.close()


def test_without_onnxruntime(browser, tmp_path: Path):
    """The page says what to run; from the disk, where browsers load no modules, it says how."""
    page = browser.new_page()
    page.goto((PAGE / "index.html").as_uri())
    assert "python3 -m http.server" in page.inner_text("#not-started")
    assert not page.locator("#page").is_visible()
    page.close()
