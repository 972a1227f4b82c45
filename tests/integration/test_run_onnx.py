"""tools/run_onnx.py on hostile models, odd files and folders that hold what is precious."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto
from PIL import Image, ImageDraw

from helpers import ROOT, Ended
from mmpvt.utils.constants import IMAGE_SUFFIXES
from onnx_files import TASKS, detections, save

SIZE = (40, 30)  # of the images that the constant masks and label maps fit


def run_onnx(*args: object, **variables: str) -> Ended:
    """The tool as a process; whatever it prints is decoded."""
    line = [sys.executable, str(ROOT / "tools" / "run_onnx.py"), *map(str, args)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run(line, env=env, capture_output=True, timeout=120, check=False)
    return Ended(done.returncode, *(s.decode(errors="replace") for s in (done.stdout, done.stderr)))


def photo(path: Path, size: tuple[int, int] = SIZE, kind: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shade = int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:1], "big")
    Image.new("RGB", size, (shade, 90, 160)).save(path, kind)
    return path


def contents(*folders: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes()
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "detector.onnx")


# --- nothing that it didn't write is overwritten


def test_the_photographs_own_folder_is_refused(detector: Path, tmp_path: Path):
    photos = tmp_path / "photos"
    photo(photos / "keep.jpg")
    photo(photos / "pictures" / "keep.jpg")
    (photos / "predictions.json").write_text("[]")
    before = contents(photos)
    ended = run_onnx(detector, photos, "--out", photos)
    assert "holds other files: name a new folder" in ended.one_sentence()
    assert contents(photos) == before


def test_a_second_run_replaces_the_first_ones_results_only(detector: Path, tmp_path: Path):
    photos, out = tmp_path / "photos", tmp_path / "photos" / "results"
    photo(photos / "a.jpg")
    photo(photos / "b.png")
    for score in (0, 0.7):
        ended = run_onnx(detector, photos, "--out", out, "--score", score)
        assert ended.code == 0 and "2 images" in ended.out, ended.err
    assert "skipped, as results of a run: 2 images" in ended.err
    # the score is of what is drawn, as predict.py's
    scores = [one["score"] for one in json.loads((out / "predictions.json").read_text())]
    assert scores == pytest.approx([0.9, 0.6] * 2)

    photo(photos / "c.jpg")
    photo(photos / "d.jpg")
    photo(out / "pictures" / "c.jpg")  # the user's
    os.link(out / "pictures" / "a.jpg", tmp_path / "kept.jpg")
    mine = contents(tmp_path)
    ended = run_onnx(detector, photos, "--out", out, "--score", 0)
    assert ended.code == 0, ended.err
    assert "c.jpg is no file of an earlier run, and isn't overwritten" in ended.err
    assert "skipped" in ended.out
    after = contents(tmp_path)
    assert {path for path in mine if mine[path] != after[path]} == {
        out / ".mmpvt-files",
        out / "predictions.json",
        out / "pictures" / "a.jpg",
        out / "pictures" / "b.jpg",
    }


def test_a_predictions_json_of_the_users_ends_the_run_before_it_begins(
    detector: Path, tmp_path: Path
):
    photo(tmp_path / "a.jpg")
    out = tmp_path / "out"
    assert run_onnx(detector, tmp_path / "a.jpg", "--out", out).code == 0
    (out / "predictions.json").write_text('["precious"]')
    before = contents(out)
    ended = run_onnx(detector, tmp_path / "a.jpg", "--out", out, "--score", 0.7)
    assert "predictions.json is no file of an earlier run" in ended.one_sentence()
    assert contents(out) == before


@pytest.mark.parametrize("kind", ["picture", "hard link", "folder", "list", "copy"])
def test_links_are_not_written_through(kind: str, detector: Path, tmp_path: Path):
    """Where a name in the folder of results leads to what the user keeps elsewhere."""
    precious, out = tmp_path / "precious", tmp_path / "out"
    photo(precious / "a.jpg")
    photo(tmp_path / "a.jpg")
    if kind == "list":
        (precious / "diary").write_text("Dear diary")
        out.mkdir()
        (out / ".mmpvt-files").symlink_to(precious / "diary")
    else:
        assert run_onnx(detector, tmp_path / "a.jpg", "--out", out).code == 0
        (out / "pictures" / "a.jpg").unlink()
    if kind == "picture":
        (out / "pictures" / "a.jpg").symlink_to(precious / "a.jpg")
    elif kind == "hard link":
        (out / "pictures" / "a.jpg").hardlink_to(precious / "a.jpg")
    elif kind == "folder":
        (out / "pictures").rmdir()
        (out / "pictures").symlink_to(precious)
    elif kind == "copy":  # as cp -al and backups make them
        (precious / ".mmpvt-files").hardlink_to(out / ".mmpvt-files")
    before = contents(precious)
    ended = run_onnx(detector, tmp_path / "a.jpg", "--out", out, "--score", 0.7)
    assert ended.code == (0 if kind == "copy" else 2) and "Traceback" not in ended.err, ended.err
    assert contents(precious) == before


def test_results_are_no_images(detector: Path, tmp_path: Path):
    photo(tmp_path / "photos" / "a.jpg")
    out = tmp_path / "photos" / "results"
    assert run_onnx(detector, tmp_path / "photos", "--out", out).code == 0
    for images in (out, out / "pictures" / "a.jpg"):
        ended = run_onnx(detector, images, "--out", tmp_path / "other")
        assert "but results of a run" in ended.one_sentence()
    photo(out / "new.jpg")  # what is put beside them is
    ended = run_onnx(detector, out, "--out", tmp_path / "other")
    assert ended.code == 0 and "1 image in" in ended.out


# --- one odd file doesn't end the run


def test_odd_files_are_skipped_or_used(detector: Path, tmp_path: Path):
    folder, out = tmp_path / "photos", tmp_path / "out"
    used = [
        photo(folder / "wide.png", (70_000, 32)),
        photo(folder / "²" / "².jpg"),
        photo(folder / f"{'9' * 250}.png"),
        photo(folder / f"{'x' * 251}.png"),
        photo(folder / "deep" / f"{'x' * 251}.png"),
        photo(folder / "7.jpg"),
        photo(folder / "deep" / "7.jpg"),
        photo(folder / "A.jpg"),
        photo(folder / "a.png"),
    ]
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "gone.jpg").symlink_to(folder / "nowhere")
    (folder / "circle").symlink_to(folder, target_is_directory=True)
    (folder / "zero.jpg").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.jpg")
    with (folder / "sparse.jpg").open("wb") as file:
        file.truncate(6 << 30)
    (folder / "ghost.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    suffixless = photo(folder / "z", kind="PNG").rename(tmp_path / ("z" * 255))
    ended = run_onnx(detector, folder, suffixless, "--out", out, "--score", 0)
    assert ended.code == 0, ended.err
    assert f"{len(used) + 1} images in {out}, 6 skipped" in ended.out
    for name, reason in (
        ("loop.jpg", "Too many levels of symbolic links"),
        ("gone.jpg", "No such file"),
        ("zero.jpg", "no regular file"),
        ("pipe.jpg", "no regular file"),
        ("sparse.jpg", "6442450944 bytes"),
        ("ghost.jpg", "it can't be read as an image"),
    ):
        (line,) = (line for line in ended.err.splitlines() if name in line)
        assert line.startswith("skipped: ") and reason in line
    pictures = {path.name for path in (out / "pictures").iterdir()}
    assert len(pictures) == len({name.casefold() for name in pictures}) == len(used) + 1
    assert "wide.png" in pictures
    ids = [record["image_id"] for record in json.loads((out / "predictions.json").read_text())]
    assert len(set(ids)) == len(used) + 1
    again = run_onnx(detector, folder / "pipe.jpg", "--out", out)
    assert "no image can be used, of 1" in again.one_sentence()


def test_folders_are_searched_as_predict_does(detector: Path, tmp_path: Path):
    """The same suffixes, and no hidden files, such as the ._photo.jpg that macOS writes."""
    folder = tmp_path / "photos"
    for name in ("._a.jpg", ".thumbnails/a.jpg"):
        photo(folder / name)
    for name in ("a.ppm", "a.pgm", "a.jp2", "a.jpe"):
        photo(folder / name)
    listed = runpy.run_path(str(ROOT / "tools" / "run_onnx.py"))["IMAGES"]
    assert set(listed) == IMAGE_SUFFIXES
    ended = run_onnx(detector, folder, "--out", tmp_path / "out")
    assert "4 images in" in ended.out and "skipped" not in ended.err + ended.out, ended.err


def test_an_image_named_twice_counts_once(tmp_path: Path):
    """As with predict.py: its objects would be there twice, and under another image_id."""
    paths = [photo(tmp_path / name) for name in ("a.jpg", "deep/b.jpg")]
    find_images = runpy.run_path(str(ROOT / "tools" / "run_onnx.py"))["find_images"]
    assert find_images([tmp_path, tmp_path / "deep", paths[0]]) == paths


def test_integers_of_32_bits(detector: Path, tmp_path: Path):
    """Their upper bits alone would make a black image."""
    image = Image.fromarray(np.full((30, 40), 200, np.int32))
    image.save(tmp_path / "a.tif")
    ended = run_onnx(detector, tmp_path / "a.tif", "--out", tmp_path / "out")
    assert "holds numbers of 32 bits" in ended.err and ended.code == 2


def test_values_that_end_elsewhere(detector: Path, tmp_path: Path):
    """Those of Netpbm files, of 12 bits, say: OpenCV takes them as they are, Pillow scales them."""
    (tmp_path / "photos").mkdir()
    for largest in (100, 255, 4095, 65535):
        path = tmp_path / "photos" / f"{largest}.ppm"
        path.write_bytes(b"P6 40 30 %d\n" % largest + bytes(40 * 30 * 3 * (1 + (largest > 255))))
    ended = run_onnx(detector, tmp_path / "photos", "--out", tmp_path / "out")
    assert "2 images in" in ended.out and "its values end at 4095: 255 or" in ended.err, ended


def test_a_jpeg_file_in_cmyk(tmp_path: Path):
    """OpenCV's bytes, not Pillow's."""
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 4), np.uint8)
    Image.fromarray(image, "CMYK").save(tmp_path / "a.jpg")
    read = runpy.run_path(str(ROOT / "tools" / "run_onnx.py"))["read_image"](tmp_path / "a.jpg")
    assert np.array_equal(read, cv2.imread(str(tmp_path / "a.jpg"))[..., ::-1])


def test_more_bits_than_the_model_takes(tmp_path: Path):
    """A model whose images are loaded unchanged isn't given the upper 8 bits; others are."""
    photo(tmp_path / "photos" / "bytes.png")
    deep = np.full((40, 50, 3), 40_000, np.uint16)
    for suffix in ("png", "tif", "ppm", "jp2"):
        cv2.imwrite(str(tmp_path / "photos" / f"rgb.{suffix}"), deep)
        cv2.imwrite(str(tmp_path / "photos" / f"bytes_{suffix}.{suffix}"), deep.astype(np.uint8))
    cv2.imwrite(str(tmp_path / "photos" / "grey.png"), deep[..., 0])
    model = save(tmp_path / "a.onnx", bits=8)
    ended = run_onnx(model, tmp_path / "photos", "--out", tmp_path / "a")
    assert ended.code == 0 and "5 images" in ended.out, ended
    assert ended.err.count("more than 8 bits a channel, and the model takes bytes") == 5
    ended = run_onnx(save(tmp_path / "b.onnx"), tmp_path / "photos", "--out", tmp_path / "b")
    assert "9 images" in ended.out and "rgb.jp2: it has more than 8 bits a col" in ended.err, ended


def test_images_of_one_name_in_several_folders(detector: Path, tmp_path: Path):
    """Which result is whose is said, and in the file."""
    paths = [photo(tmp_path / folder / "0007.jpg") for folder in ("a", "b")]
    out = tmp_path / "out"
    ended = run_onnx(detector, tmp_path / "a", tmp_path / "b", "--out", out)
    assert f"{paths[1]}: an image before has this name" in ended.err and "0007_2" in ended.err
    found = json.loads((out / "predictions.json").read_text())
    named = {(x["file_name"], x["image_id"]) for x in found}
    assert named == {(str(paths[0]), "0007"), (str(paths[1]), "0007_2")}


def test_a_model_of_images_that_are_not_turned(tmp_path: Path):
    exif = Image.Exif()
    exif[0x112] = 6  # a quarter turn
    Image.new("RGB", SIZE).save(tmp_path / "a.jpg", exif=exif)
    for orientation, size in ((None, SIZE[::-1]), ("ignored", SIZE)):
        out = tmp_path / f"{orientation}"
        run_onnx(
            save(tmp_path / "a.onnx", orientation=orientation), tmp_path / "a.jpg", "--out", out
        )
        with Image.open(out / "pictures" / "a.jpg") as picture:
            assert picture.size == size


@pytest.mark.parametrize(("channels", "flag"), [(3, 1), (4, cv2.IMREAD_UNCHANGED)])
def test_alpha_of_a_tiff_file(channels: int, flag: int, tmp_path: Path):
    """Its colours are those that OpenCV gives, which has multiplied them by it."""
    path = tmp_path / "a.tif"
    image = np.random.default_rng(0).integers(0, 256, (*SIZE, 4), np.uint8)
    Image.fromarray(image).save(path)
    read = runpy.run_path(str(ROOT / "tools" / "run_onnx.py"))["read_image"](path, channels)
    wanted = cv2.imread(str(path), flag)[..., [2, 1, 0, 3][:channels]]
    assert np.array_equal(read, wanted)


@pytest.mark.parametrize("kind", ["JPEG", "MPO"])  # of cameras, with a preview
def test_grey_of_a_jpeg_file(kind: str, tmp_path: Path):
    """Its luminance, without a way round by colours that are cut at 255."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8))
    several = dict(save_all=True, append_images=[image]) if kind == "MPO" else {}
    image.save(tmp_path / "a.jpg", kind, **several)
    read = runpy.run_path(str(ROOT / "tools" / "run_onnx.py"))["read_image"](tmp_path / "a.jpg", 1)
    assert np.array_equal(read[..., 0], cv2.imread(str(tmp_path / "a.jpg"), 0))


def test_colours_that_are_multiplied_by_the_alpha(tmp_path: Path):
    """Those of a TIFF file that says so are taken as they are stored, to a rounding."""
    rasterio = pytest.importorskip("rasterio")
    stored = np.random.default_rng(0).integers(0, 256, (4, *SIZE), np.uint8)
    stored[:3] = np.minimum(stored[:3], stored[3])
    height, width = SIZE
    settings = dict(width=width, height=height, count=4, dtype="uint8", driver="GTiff")
    path, alpha = tmp_path / "a.tif", dict(photometric="rgb", alpha="premultiplied")
    with rasterio.open(path, "w", **settings, **alpha) as file:
        file.write(stored)
    read = runpy.run_path(str(ROOT / "tools" / "run_onnx.py"))["read_image"](path)
    assert np.abs(read.astype(int) - cv2.imread(str(path))[..., ::-1]).max() <= 1


def test_names_of_other_encodings_and_terminals(tmp_path: Path):
    """In a locale that knows ASCII alone; escapes and new lines reach no terminal."""
    folder, out = tmp_path / "photos", tmp_path / "out"
    model = save(tmp_path / "m.onnx", classes=["cat\x1b[31m\n", "d\ud800o" + "g" * 10**6])
    names = [b"caf\xe9.png", b"\x1b[2Jred\n.png", "été.png".encode()]
    for name in names:
        photo(folder / os.fsdecode(name))
    (folder / os.fsdecode(b"bad\xe9\x1b[31m.jpg")).write_text("no image")
    (folder / os.fsdecode(b"bad\xe9")).mkdir()
    variables = dict(LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    ended = run_onnx(model, folder, "--out", out, **variables)
    assert ended.code == 0 and f"3 images in {out}, 1 skipped" in ended.out, ended.err
    assert "bad\\xe9\\x1b[31m.jpg" in ended.err
    assert "\x1b" not in ended.out + ended.err and (ended.out + ended.err).isascii()
    pictures = sorted(os.fsencode(path.name) for path in (out / "pictures").iterdir())
    assert pictures == sorted([b"caf%e9.jpg", b"%1b[2Jred%0a.jpg", b"%c3%a9t%c3%a9.jpg"])
    text = (out / "predictions.json").read_text()
    assert {record["image_id"] for record in json.loads(text)} == {
        "caf%e9",
        "%1b[2Jred%0a",
        "%c3%a9t%c3%a9",
    }
    for arguments in ((model, folder, "--\x1b[31m"), ("\x1b[31m.onnx", folder, "--out", out)):
        ended = run_onnx(*arguments)
        assert ended.code == 2 and "\x1b" not in ended.err and "Traceback" not in ended.err


# --- a hostile model ends in a sentence

BAD_META: dict[str, tuple[dict, str]] = {
    "no task": (dict(task=None), "is another kind of model"),
    "another task": (dict(task="telepathy"), "its outputs aren't those of its task"),
    "classes are missing": (dict(classes=None), "no list of names as classes"),
    "broken JSON": (dict(classes='["cat", "do'), "no list of names as classes"),
    "100,000 brackets": (dict(classes="[" * 100_000), "no list of names as classes"),
    "names are numbers": (dict(classes=[1, 2]), "no list of names as classes"),
    "names are a dict": (dict(classes={"0": "cat"}), "no list of names as classes"),
    "numbers are text": (dict(category_ids=["17", "18"]), "no list of integers as category_ids"),
    "numbers are NaN": (dict(category_ids="[NaN, NaN]"), "no list of integers as category_ids"),
    "numbers of 5,000 digits": (dict(category_ids=f"[{'9' * 5000}, 1]"), "no list of integers"),
    "numbers of 400 digits": (dict(category_ids=f"[{'9' * 400}, 1]"), "no list of integers"),
    "numbers are true": (dict(category_ids=[True, False]), "no list of integers"),
    "too few numbers": (dict(category_ids=[17]), "not as many category_ids as classes"),
    "colours are numbers": (dict(palette=[1, 2]), "no list of colours as palette"),
    "colours of four parts": (dict(palette=[[1, 2, 3, 4]]), "no list of colours as palette"),
    "colours beyond a byte": (dict(palette=[[1, 2, 10**30]]), "no list of colours as palette"),
    "palette is null": (dict(palette="null"), "no list of colours as palette"),
    "another task's outputs": (
        dict(task="semantic segmentation", outputs={"boxes": detections()["boxes"]}),
        "its outputs aren't those of its task",
    ),
    "missing outputs": (
        dict(outputs={"boxes": detections()["boxes"]}),
        "its outputs aren't those of its task",
    ),
    "an input of floats": (
        dict(inputs=(("image", TensorProto.FLOAT, 3),)),
        "is another kind of model",
    ),
    "an input of four dimensions": (
        dict(inputs=(("image", TensorProto.UINT8, 4),)),
        "is another kind of model",
    ),
    "two inputs": (
        dict(inputs=(("image", TensorProto.UINT8, 3), ("more", TensorProto.UINT8, 3))),
        "is another kind of model",
    ),
}


@pytest.mark.parametrize("harm", BAD_META)
def test_bad_metadata(harm: str, tmp_path: Path, call_tool: Callable):
    changes, sentence = BAD_META[harm]
    model = save(tmp_path / "m.onnx", **changes)
    photo(tmp_path / "a.png")
    ended = call_tool("run_onnx.py", model, tmp_path / "a.png", "--out", tmp_path / "out")
    assert sentence in ended.one_sentence()
    assert len(ended.err) < 500
    assert not (tmp_path / "out").exists()


NAN, INF = float("nan"), float("inf")
MAPS = "semantic segmentation"
BAD_OUTPUTS: dict[str, tuple[str, dict, str]] = {
    "boxes of NaN": ("boxes", np.full((2, 4), NAN, np.float32), "NaN or Inf"),
    "infinite boxes": ("boxes", np.float32([[0, 0, INF, INF]] * 2), "NaN or Inf"),
    "inverted boxes": ("boxes", np.float32([[9, 9, 1, 1]] * 2), "right or bottom is below"),
    "boxes of integers": ("boxes", np.ones((2, 4), np.int64), "boxes is of the wrong type"),
    "boxes of text": ("boxes", np.array([["a"] * 4] * 2, object), "boxes is of the wrong type"),
    "boxes of three": ("boxes", np.ones((2, 3), np.float32), "has shape (2, 3), not (2, 4)"),
    "a scalar": ("boxes", np.array(1, np.float32), "has shape (), not (0, 4)"),
    "scores of NaN": ("scores", np.float32([NAN, 1]), "NaN or Inf"),
    "too few scores": ("scores", np.float32([1]), "has shape (1,), not (2,)"),
    "labels beyond the classes": ("labels", np.array([0, 2]), "label 2, and it has 2 classes"),
    "labels below 0": ("labels", np.array([-1, 0]), "label -1, and it has 2 classes"),
    "huge labels": ("labels", np.array([0, 2**62]), "and it has 2 classes"),
    "masks of another size": ("masks", np.ones((2, 5, 5), bool), "has shape (2, 5, 5)"),
    "masks of numbers": ("masks", np.ones((2, 30, 40), np.float32), "masks is of the wrong type"),
    "a map of another size": ("label_map", np.ones((5, 5), np.uint8), "has shape (5, 5)"),
    "a map of channels": ("label_map", np.ones((30, 40, 3), np.uint8), "has shape (30, 40, 3)"),
    "a map of floats": ("label_map", np.ones((30, 40), np.float32), "of the wrong type"),
    "a map beyond the classes": ("label_map", np.full((30, 40), 2), "label 2, and it has 2"),
    "a map of huge values": ("label_map", np.full((30, 40), 2**40), "and it has 2 classes"),
    "a map below 0": ("label_map", np.full((30, 40), -5), "label -5, and it has 2 classes"),
}


@pytest.mark.parametrize("harm", BAD_OUTPUTS)
def test_bad_outputs(harm: str, tmp_path: Path, call_tool: Callable):
    name, array, reason = BAD_OUTPUTS[harm]
    task = MAPS if name == "label_map" else "instance segmentation"
    good = {**detections(), "label_map": np.ones((30, 40), np.uint8)}
    outputs = {key: array if key == name else good[key] for key in TASKS[task]}
    model = save(tmp_path / "m.onnx", outputs, task)
    photo(tmp_path / "a.png")
    ended = call_tool("run_onnx.py", model, tmp_path / "a.png", "--out", tmp_path / "out")
    assert reason in ended.err
    assert "no image can be used, of 1" in ended.one_sentence()
    assert not contents(tmp_path / "out" / "pictures")


def test_what_affects_one_image_skips_it_alone(tmp_path: Path):
    model = save(tmp_path / "m.onnx", kind="instance segmentation")
    photo(tmp_path / "photos" / "fits.png")
    photo(tmp_path / "photos" / "other.png", (50, 50))
    ended = run_onnx(model, tmp_path / "photos", "--out", tmp_path / "out")
    assert ended.code == 0 and "1 image in" in ended.out
    assert "other.png: the model's output masks has shape (2, 30, 40), not (2, 50, 50)" in ended.err
    assert len(json.loads((tmp_path / "out" / "predictions.json").read_text())) == 2


def test_huge_boxes_and_many_of_them(tmp_path: Path):
    big = np.finfo(np.float32).max
    outputs = dict(
        boxes=np.array([[-big, -big, big, big], [1e9, 1e9, 2e9, 2e9]], np.float32),
        scores=np.array([big, -big], np.float32),
        labels=np.array([0, 1], np.int32),
    )
    photo(tmp_path / "a.png")
    model = save(tmp_path / "m.onnx", outputs)
    ended = run_onnx(model, tmp_path / "a.png", "--out", tmp_path / "out", "--score", 0)
    assert ended.code == 0, ended.err
    many = 10_001
    outputs = dict(
        boxes=np.zeros((many, 4), np.float32),
        scores=np.ones(many, np.float32),
        labels=np.zeros(many, np.int64),
    )
    model = save(tmp_path / "many.onnx", outputs)
    ended = run_onnx(model, tmp_path / "a.png", "--out", tmp_path / "out")
    assert "10001 detections, and 10000 are the limit" in ended.err and ended.code == 2


def test_models_without_classes(tmp_path: Path):
    """As a checkpoint without names gives them: labels are counted, and limited all the same."""
    photo(tmp_path / "a.png")
    for number, (label, code) in enumerate(((65535, 0), (65536, 2))):
        outputs = dict(label_map=np.full((30, 40), label))
        bare = dict(classes=[], category_ids=[], palette=[])
        model = save(tmp_path / f"{number}.onnx", outputs, MAPS, **bare)
        ended = run_onnx(model, tmp_path / "a.png", "--out", tmp_path / f"out_{number}")
        assert ended.code == code and "Traceback" not in ended.err, ended.err
    assert np.array(Image.open(tmp_path / "out_0" / "label_maps" / "a.png")).max() == 65535


def test_classes_of_one_name(tmp_path: Path):
    """A crane has its own score, not that of ImageNet's other crane."""
    names = ["crane", "ring", "crane"]
    facts = dict(classes=names, category_ids=[1, 2, 3], palette=[[0, 0, 0]] * 3)
    outputs = dict(scores=np.array([0.25, 0.125, 0.625], np.float32))
    model = save(tmp_path / "model.onnx", outputs, "classification", **facts)
    assert run_onnx(model, photo(tmp_path / "a.png"), "--out", tmp_path / "out").code == 0
    (found,) = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert found["score"] == 0.625 and found["scores"] == {"crane": 0.625, "ring": 0.125}


def test_long_names(tmp_path: Path):
    """They are cut in pictures, before their scores; in results they are whole."""
    names = ["l" * 80 + "1", "l" * 80 + "2"]
    facts = dict(classes=names, category_ids=[1, 2], palette=[[9, 9, 9]] * 2)
    seen = []
    for score in (0.61, 0.39):
        outputs = dict(scores=np.array([score, 0.1], np.float32))
        model = save(tmp_path / f"{score}.onnx", outputs, "classification", **facts)
        out = tmp_path / f"out_{score}"
        image = tmp_path / "a.png"
        Image.new("RGB", (120, 40), (9, 90, 160)).save(image)
        assert run_onnx(model, image, "--out", out).code == 0
        (found,) = json.loads((out / "predictions.json").read_text())
        assert found["class"] == names[0] and list(found["scores"]) == names
        seen.append((out / "pictures" / "a.jpg").read_bytes())
    assert seen[0] != seen[1]


def test_names_that_no_font_has(tmp_path: Path):
    """Their numbers stand for them, which is said once."""
    facts = dict(classes=["\U00012000", "\U00012001"], category_ids=[11, 12])
    model = save(tmp_path / "m.onnx", **facts)
    ended = run_onnx(model, photo(tmp_path / "a.png"), "--out", tmp_path / "out")
    assert ended.code == 0
    assert ended.err.count("pictures show the numbers") == 1


def test_labels_cover_no_others(tmp_path: Path):
    """The best is over its box, and drawn last; others move aside, within the picture."""
    count = 8
    outputs = dict(
        boxes=np.array([[90 + i, 80 + i, 150, 120] for i in range(count)], np.float32),
        scores=np.linspace(0.9, 0.5, count, dtype=np.float32),
        labels=np.zeros(count, np.int64),
    )
    path = save(tmp_path / "m.onnx", outputs)
    tool = runpy.run_path(str(ROOT / "tools" / "run_onnx.py"))
    with mock.patch.object(ImageDraw.ImageDraw, "rectangle") as rectangle:
        tool["draw"](tool["Model"](path), np.zeros((200, 240, 3), np.uint8), outputs)
    labels = [call.args[0] for call in rectangle.call_args_list if "fill" in call.kwargs]
    assert len(labels) == count and labels[-1][0] == 90 and labels[-1][3] == 79
    seen = np.zeros((200, 240), int)
    for left, top, right, bottom in labels:
        assert left >= 0 and top >= 0 and right < 240 and bottom < 200
        seen[top : bottom + 1, left : right + 1] += 1
    assert seen.max() == 1


def test_fonts_of_names():
    """A few letters that are missing don't make it a number; the machine's fonts are taken."""
    tool = runpy.run_path(str(ROOT / "tools" / "run_onnx.py"))
    for name in ("cat", "", "caf\U00012000"):
        assert tool["font_file"](name) == "", name
    assert tool["font_file"]("\U00012000s") is None
    cyrillic = tool["font_file"]("Был")
    if cyrillic is None:
        pytest.skip("this machine has no font of Cyrillic letters")
    font = tool["load_font"](cyrillic, 20)
    assert bytes(font.getmask("Б")) != bytes(font.getmask(tool["MISSING"]))


@pytest.mark.parametrize("files", [8, pytest.param(200, marks=pytest.mark.full)])
def test_damaged_files(files: int, detector: Path, tmp_path: Path, call_tool: Callable):
    """Cut short, or with a wrong byte: a sentence, or the model as it was."""
    content = detector.read_bytes()
    photo(tmp_path / "a.png")
    draw = np.random.default_rng(0)
    for number in range(files):
        broken = bytearray(content)
        if number % 2:
            del broken[draw.integers(len(broken)) :]
        else:
            broken[draw.integers(len(broken))] ^= 1 << draw.integers(8)
        model = tmp_path / f"{number}.onnx"
        model.write_bytes(broken)
        args = ("run_onnx.py", model, tmp_path / "a.png", "--out", tmp_path / str(number))
        ended = call_tool(*args)
        assert ended.code == 0 or ended.one_sentence()


def test_full_disk(tmp_path: Path):
    """No image's fault: none is skipped for it."""
    model = save(tmp_path / "m.onnx", kind=MAPS)
    photo(tmp_path / "a.png")
    room = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, room[1]))  # which processes inherit
    try:
        ended = run_onnx(model, tmp_path / "a.png", "--out", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, room)
    assert "a.jpg can't be written (File too large)" in ended.one_sentence()
    assert "skipped" not in ended.err


def test_careless_options(detector: Path, tmp_path: Path):
    photo(tmp_path / "a.png")
    for option, sentence in (
        (("--score", "nan"), "--score nan: a score is a number from 0 to 1"),
        (("--threads", -1), "--threads -1: from 1 to 1024"),
        (("",), "an argument is empty"),
    ):
        ended = run_onnx(detector, tmp_path / "a.png", "--out", tmp_path / "out", *option)
        assert sentence in ended.one_sentence()


# --- what nobody thought of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)
NAMES = st.lists(st.text(st.characters(), max_size=20), min_size=1, max_size=3)
META = st.fixed_dictionaries(
    {},
    optional=dict(
        task=st.sampled_from([*TASKS, None, "x"]),
        classes=NAMES | JSON | st.text() | st.none(),
        category_ids=st.lists(st.integers(), max_size=3) | JSON | st.text() | st.none(),
        palette=st.lists(st.lists(st.integers(-1, 256), max_size=4), max_size=3) | JSON,
    ),
)
FINITE = [0.0, -0.0, 1e-45, 0.5, 1.0, 7.5, -7.0, 1e30, -3e38]
KINDS = dict(boxes=np.float32, scores=np.float32, labels=np.int64, masks=bool, label_map=np.uint8)
SHAPES = dict(boxes=(2, 4), scores=(2,), labels=(2,), masks=(2, 6, 8), label_map=(6, 8))


def arrays(draw: Callable, name: str) -> np.ndarray:
    """What an output may be: mostly as it should, but for extreme values."""
    kind, shape, is_wild = KINDS[name], SHAPES[name], draw(st.integers(0, 5)) == 0
    if is_wild and draw(st.booleans()):
        shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    if is_wild and draw(st.booleans()):
        kind = draw(st.sampled_from([bool, np.uint8, np.int64, np.float16, np.float64]))
    if kind is bool:
        values = [False, True]
    elif np.issubdtype(kind, np.integer):
        values = [0, 1, 2, np.iinfo(kind).max, np.iinfo(kind).min] if is_wild else [0, 1]
    else:
        finite = [x for x in FINITE if kind is not np.float16 or abs(x) < 1e5]
        values = [*finite, NAN, INF, -INF] if is_wild else finite
    elements = st.sampled_from(values)
    array = draw(hnp.arrays(kind, shape, elements=elements, fill=elements))
    if name == "boxes" and not is_wild:
        array = np.sort(array.reshape(2, 2, 2), axis=1).reshape(2, 4)
    return array


@st.composite
def models(draw: Callable) -> dict:
    """Arguments of :func:`save`."""
    kind = draw(st.sampled_from(list(TASKS)))
    outputs = {name: arrays(draw, name) for name in TASKS[kind]}
    if draw(st.integers(0, 9)) == 0:
        outputs.pop(draw(st.sampled_from(list(outputs))))
    changes = draw(META) if draw(st.booleans()) else {}
    return dict(outputs=outputs or None, kind=kind, **changes)


class Fuzzed:
    """Models tried, and how often each end was met."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.main = runpy.run_path(str(ROOT / "tools" / "run_onnx.py"))["main"]
        self.image = photo(folder / "a.png", (8, 6))
        self.ends: Counter[int] = Counter()

    def run(self, arguments: dict) -> None:
        out = self.folder / "out"
        model = save(self.folder / "m.onnx", **arguments)
        streams = [io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2)]
        line = ["run_onnx.py", str(model), str(self.image), "--out", str(out), "--score", "0"]
        with (
            mock.patch.object(sys, "argv", line),
            redirect_stdout(streams[0]),
            redirect_stderr(streams[1]),
        ):
            code = 0
            try:
                self.main()
            except SystemExit as end:
                code = end.code
        said = b"".join(stream.buffer.getvalue() for stream in streams).decode()
        assert code in (0, 2), said
        assert said.count("error: ") == (code == 2) and len(said) < 1000, said
        assert all(c.isprintable() or c in "\r\n" for c in said), said
        assert {path.name for path in self.folder.iterdir()} <= {"a.png", "m.onnx", "out"}
        if (out / "predictions.json").exists():
            content = (out / "predictions.json").read_text()
            json.loads(content, parse_constant=pytest.fail)
        shutil.rmtree(out, ignore_errors=True)
        self.ends[code] += 1


@pytest.mark.parametrize("number", [150, pytest.param(4000, marks=pytest.mark.full)])
def test_any_metadata_and_outputs(number: int, tmp_path: Path):
    """A sentence or results, whatever the file says and gives."""
    fuzzed = Fuzzed(tmp_path)

    @settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(models())
    def attempt(arguments: dict) -> None:
        fuzzed.run(arguments)

    attempt()
    print(dict(fuzzed.ends))
    assert fuzzed.ends.total() >= number
    assert min(fuzzed.ends[0], fuzzed.ends[2]) > number / 20
