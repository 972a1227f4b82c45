"""The harm that results could do to a user's files, done to every tool that writes some.

tools/run_onnx.py, which shares nothing with them, has the same in test_run_onnx.py.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from helpers import save_untrained
from mmpvt.models import PyramidVisionTransformerV2
from mmpvt.utils.outputs import LISTING, Outputs

WIDE = 66_000  # pixels: JPEG ends at 65,500
LONG = f"{'é' * 123}.jpg"  # 250 bytes
ANY_RATIO = """
_base_ = "{base}"
val_dataloader = _base_.val_dataloader
for step in val_dataloader["dataset"]["pipeline"]:
    if step["type"] == "Resize":
        step["keep_ratio"] = False
val_dataloader.update(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
del step
"""
PRECIOUS = b"the user's"


@pytest.fixture(scope="module")
def models(
    tiny_config: Path, tiny_segmenter: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path]]:
    """A detector and a segmenter that take images of any ratio, of drawn weights."""
    folder = tmp_path_factory.mktemp("models")
    pairs = {}
    for kind, base in dict(detector=tiny_config, segmenter=tiny_segmenter).items():
        config = folder / f"{kind}.py"
        config.write_text(ANY_RATIO.format(base=base))
        pairs[kind] = config, save_untrained(config, folder / f"{kind}.pth")
    return pairs


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg"):
        save(folder / name, (32, 32))
    return folder


def save(path: Path, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")  # whatever it is called


def contents(folder: Path) -> dict[Path, bytes | Path]:
    """Of every file and link below a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return {path: path.readlink() if path.is_symlink() else path.read_bytes() for path in paths}


KINDS = pytest.mark.parametrize("kind", ["detector", "segmenter"])
ONE_KIND = pytest.mark.parametrize(
    "kind", ["detector", pytest.param("segmenter", marks=pytest.mark.full)]
)


class TestPredict:
    @ONE_KIND
    def test_users_files(self, kind: str, models, photos: Path, call_tool):
        """The folder of the images; files of results' names; what was changed since."""

        def predict(out: Path):
            return call_tool("predict.py", *models[kind], photos, "--out", out)

        before = contents(photos)
        assert "holds other files" in predict(photos).one_sentence()
        assert contents(photos) == before
        out = photos.parent / "out"
        assert predict(out).code == 0
        for name in ("predictions.json", "categories.json", "contact_sheet.jpg"):
            kept = (out / name).read_bytes()
            (out / name).write_bytes(PRECIOUS)
            before = contents(out)
            said = predict(out).one_sentence()
            assert f"{name} is not of an earlier run" in said
            assert contents(out) == before
            (out / name).write_bytes(kept)
        (out / "pictures" / "a.jpg").write_bytes(PRECIOUS)
        ended = predict(out)
        assert ended.code == 0 and "1 image," in ended.out and "1 skipped" in ended.out
        assert "pictures/a.jpg is not of an earlier run" in ended.err
        assert (out / "pictures" / "a.jpg").read_bytes() == PRECIOUS

    @ONE_KIND
    def test_twice_and_on_its_own_results(self, kind: str, models, photos: Path, call_tool):
        before = contents(photos)
        results = photos / "results"
        for folders in ([photos], [photos], [photos, results, results / "pictures"]):
            ended = call_tool("predict.py", *models[kind], *folders, "--out", results)
            assert ended.code == 0 and ended.out.startswith("2 images"), ended.err
            assert {one["file_name"] for one in read(results)} == {"a.jpg", "b.jpg"}
        for given in (results, results / "contact_sheet.jpg", results / "pictures" / "a.jpg"):
            ended = call_tool("predict.py", *models[kind], given, "--out", photos / "other")
            assert "but results of an earlier run" in ended.one_sentence()
        assert not (photos / "other").exists()
        elsewhere = photos.parent / "elsewhere"
        ended = call_tool("predict.py", *models[kind], photos, "--out", elsewhere)
        assert ended.out.startswith("2 images"), ended.err
        assert {path: contents(photos)[path] for path in before} == before

    @pytest.mark.parametrize("link", [os.symlink, os.link])
    def test_links(self, link: Callable, models, photos: Path, call_tool):
        """What a link in the place of a result names keeps its content."""
        out, precious = photos.parent / "out", photos.parent / "precious"
        args = (*models["detector"], photos, "--out", out)
        assert call_tool("predict.py", *args).code == 0
        precious.write_bytes(PRECIOUS)
        (out / "pictures" / "a.jpg").unlink()
        link(precious, out / "pictures" / "a.jpg")
        assert "1 image," in call_tool("predict.py", *args).out
        (out / "predictions.json").rename(out / "kept")
        link(precious, out / "predictions.json")
        assert "predictions.json is not of" in call_tool("predict.py", *args).one_sentence()
        (out / "kept").replace(out / "predictions.json")
        shutil.rmtree(out / "pictures")
        (photos.parent / "album").mkdir()
        (out / "pictures").symlink_to(photos.parent / "album")
        ended = call_tool("predict.py", *args)
        assert "no image can be used, of 2" in ended.one_sentence()
        assert "pictures is a link, which isn't followed" in ended.err
        assert not contents(photos.parent / "album")
        assert precious.read_bytes() == PRECIOUS

    @KINDS
    def test_odd_files(self, kind: str, models, photos: Path, call_tool):
        save(photos / "wide.png", (1, WIDE))
        save(photos / LONG, (32, 32))
        save(photos / f"{'x' * 251}.jpg", (32, 32))  # 255 bytes
        save(photos / "A.jpg", (32, 32))
        (photos / "loop.jpg").symlink_to(photos / "loop.jpg")
        out = photos.parent / "out"
        for _ in range(2):
            ended = call_tool("predict.py", *models[kind], photos, "--out", out)
            assert ended.code == 0 and "Traceback" not in ended.err, ended.err
            assert ended.out.startswith("6 images") and "1 skipped" in ended.out, ended.err
            assert f"{photos / 'loop.jpg'}: Too many levels of symbolic links" in ended.err
            assert len({one["file_name"] for one in read(out)}) == 6
            pictures = {path.name.casefold() for path in (out / "pictures").iterdir()}
            assert len(pictures) == 6 and {"wide.png", "a.jpg", LONG} < pictures
            assert cv2.imread(str(out / "contact_sheet.jpg")).std() > 10


def read(out: Path) -> list[dict]:
    return json.loads((out / "predictions.json").read_text())


@pytest.fixture
def odd_data(shapes: Path, tmp_path: Path) -> Path:
    """A data set whose four images are odd ones."""
    root = shutil.copytree(shapes, tmp_path / "data")
    listing = root / "annotations" / "instances_val2017.json"
    content = json.loads(listing.read_text())
    names = ["wide.png", LONG, "X.jpg", "x.jpg"]
    sizes = [(2, WIDE), (64, 64), (64, 64), (64, 64)]
    for image, name, size in zip(content["images"], names, sizes, strict=True):
        image.update(file_name=name, height=size[0], width=size[1])
    content["annotations"] = [dict(a, bbox=[0, 0, 1, 1]) for a in content["annotations"]]
    listing.write_text(json.dumps(content))
    shutil.rmtree(root / "val2017")
    shutil.rmtree(root / "images" / "validation")
    shutil.rmtree(root / "annotations" / "validation")
    for folder in ("val2017", "images/validation", "annotations/validation"):
        (root / folder).mkdir()
        for name, size in zip(names, sizes, strict=True):
            if folder != "val2017":  # a segmenter's data have one suffix
                name = name.replace(".png", ".jpg")
            if not folder.startswith("annotations"):
                save(root / folder / name, size)
                continue
            labels = Image.fromarray((np.indices(size).sum(0) % 6 + 1).astype(np.uint8))
            labels.save(root / folder / name.replace(".jpg", ".png"))
    return root


class TestTest:
    @pytest.fixture
    def tested(self, tmp_path: Path, shapes: Path, call_tool) -> Callable:
        def run(models: tuple, *args: object, data: Path = shapes):
            options = ("--data-root", data, "--work-dir", tmp_path / "work")
            return call_tool("test.py", *models, *options, *args)

        return run

    @KINDS
    def test_show_dir(self, kind: str, models, shapes: Path, photos: Path, tested):
        """The folder of the data set's images, and twice into a new one, with a user's in it."""
        data = shutil.copytree(shapes, photos.parent / "data")
        before = contents(data)
        images = data / ("images/validation" if kind == "segmenter" else "val2017")
        ended = tested(models[kind], "--show-dir", images, data=data)
        assert f"--show-dir {images} holds other files" in ended.one_sentence()
        show = photos.parent / "show"
        assert tested(models[kind], "--show-dir", show, data=data).code == 0
        pictures = sorted(show.glob("*.jpg"))
        assert len(pictures) == 4
        target = photos.parent / "precious"
        target.write_bytes(PRECIOUS)
        for path, link in zip(pictures, (os.symlink, os.link), strict=False):
            path.unlink()
            link(target, path)
        pictures[2].write_bytes(PRECIOUS)
        kept = pictures[3].stat().st_ino
        ended = tested(models[kind], "--show-dir", show, data=data)
        assert ended.code == 0, ended.err
        for path in pictures[:3]:
            assert f"{path} is not of an earlier run" in ended.out + ended.err
            assert path.read_bytes() == PRECIOUS
        assert pictures[0].is_symlink() and target.read_bytes() == PRECIOUS
        assert len(list(show.glob("*.jpg"))) == 4 and kept == pictures[3].stat().st_ino
        assert contents(data) == before

    @KINDS
    def test_odd_images(self, kind: str, models, odd_data: Path, tmp_path: Path, tested):
        show = tmp_path / "show"
        args = ["--show-dir", show, "--on-bad-data", "skip"]
        if kind == "segmenter":
            args += ["--out", tmp_path / "maps"]
        for _ in range(2):
            ended = tested(models[kind], *args, data=odd_data)
            assert ended.code == 0 and "Traceback" not in ended.err, ended.err
            names = {path.name for path in show.iterdir() if path.name != LISTING}
            assert {name.casefold() for name in names} == {"wide.png", LONG, "x.jpg", "x_2.jpg"}
            assert "no picture of" not in ended.out + ended.err
            assert list((tmp_path / "work" / "pictures").glob("test.*"))
            if kind == "segmenter":
                maps = {path.name.casefold() for path in (tmp_path / "maps").glob("*.png")}
                long = LONG.replace("jpg", "png")
                assert maps == {"wide.png", long, "x.png", "x_2.png"}

    def test_the_config_lies_in_the_work_directory(self, models, shapes, tmp_path: Path, call_tool):
        config = Path(shutil.copy(models["detector"][0], tmp_path))
        before = config.read_bytes()
        options = ("--data-root", shapes, "--work-dir", tmp_path)
        assert call_tool("test.py", config, models["detector"][1], *options).code == 0
        assert config.read_bytes() == before
        (copy,) = set(tmp_path.glob("*.py")) - {config}
        assert "data_preprocessor" in copy.read_text()

    def test_results_of_a_detector(self, models, photos: Path, tested):
        taken = photos.parent / "results.pkl"
        taken.write_bytes(PRECIOUS)
        said = tested(models["detector"], "--out", taken).one_sentence()
        assert f"--out {taken} exists: pass --force to overwrite it" in said
        assert taken.read_bytes() == PRECIOUS
        os.link(taken, photos.parent / "linked")
        for link in (None, os.symlink):
            if link:
                taken.unlink()
                link(photos.parent / "linked", taken)
            assert tested(models["detector"], "--out", taken, "--force").code == 0
            assert (photos.parent / "linked").read_bytes() == PRECIOUS
            assert taken.is_file() and taken.read_bytes() != PRECIOUS

    def test_label_maps(self, models, shapes: Path, photos: Path, tested):
        before = contents(photos)
        said = tested(models["segmenter"], "--out", photos).one_sentence()
        assert f"--out {photos} holds other files" in said and contents(photos) == before
        maps, precious = photos.parent / "maps", photos.parent / "precious"
        assert tested(models["segmenter"], "--out", maps).code == 0
        files = sorted(maps.glob("*.png"))
        assert len(files) == 4
        first = files[3].read_bytes()
        precious.write_bytes(PRECIOUS)
        for path, link in zip(files, (os.symlink, os.link), strict=False):
            path.unlink()
            link(precious, path)
        files[2].write_bytes(PRECIOUS)
        ended = tested(models["segmenter"], "--out", maps)
        assert ended.code == 0, ended.err
        for path in files[:3]:
            assert f"{path} is not of an earlier run" in ended.out + ended.err
            assert path.read_bytes() == PRECIOUS
        assert files[3].read_bytes() == first and len(list(maps.glob("*.png"))) == 4


def test_check_data(models, shapes: Path, tmp_path: Path, call_tool):
    """Beside others it may write, but not over them."""
    data = shutil.copytree(shapes, tmp_path / "data")
    config, _ = models["detector"]
    before = contents(data)

    def check(out: Path):
        args = ("--data-root", data, "--out", out, "--workers", 1)
        return call_tool("check_data.py", config, *args, "--splits", "val")

    for _ in range(2):
        assert check(data / "val2017").code == 0
    assert {path: contents(data)[path] for path in before} == before
    assert len(contents(data)) == len(before) + 3  # the list of its files is the third
    for name, harm in (
        ("data.json", shutil.copy),
        ("data.png", os.symlink),
        ("data.json", os.link),
    ):
        out, precious = tmp_path / harm.__name__, tmp_path / "precious"
        out.mkdir()
        precious.write_bytes(PRECIOUS)
        harm(precious, out / name)
        here = contents(out)
        assert f"{out / name} is not of an earlier run" in check(out).one_sentence()
        assert contents(out) == here and precious.read_bytes() == PRECIOUS


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small backbone in the published layout."""
    arch = dict(embed_dims=(8, 16, 20, 32), depths=(1, 1, 1, 1), mlp_ratios=(2, 2, 2, 2))
    path = tmp_path_factory.mktemp("backbone") / "in.pth"
    torch.save(PyramidVisionTransformerV2(arch).state_dict(), path)
    return path


def single_files() -> Iterator[pytest.param]:
    """Tools that write one file, and the ending of its name."""
    yield pytest.param("convert", ".pth", id="convert_checkpoint")
    yield pytest.param("convert", ".safetensors", id="convert_checkpoint-safetensors")
    yield pytest.param("swap", ".py", id="swap_backbone")
    needed = importlib.util.find_spec("onnxscript") is None
    marks = pytest.mark.skipif(needed, reason="needs mmpvt[export]")
    yield pytest.param("export", ".onnx", id="export", marks=marks)


@pytest.mark.parametrize(("tool", "suffix"), list(single_files()))
def test_single_files(tool: str, suffix: str, models, backbone, tmp_path: Path, call_tool):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    out = tmp_path / f"{'x' * (250 - len(suffix))}{suffix}"  # the temporary one's must fit, too
    options = {
        "convert": ("convert_checkpoint.py", backbone, out, "--to", "timm"),
        "swap": ("swap_backbone.py", "mmdet::atss/atss_r50_fpn_1x_coco.py", "--arch", "b0"),
        "export": ("export.py", *models["segmenter"], "--shape", 64, 64),
    }[tool]
    options = options if tool == "convert" else (*options, "--out", out)
    precious = tmp_path / "precious"
    precious.write_bytes(PRECIOUS)
    for link in (shutil.copy, os.symlink, os.link):
        out.unlink(missing_ok=True)
        link(precious, out)
        before = contents(tmp_path)
        said = call_tool(*options).one_sentence()
        assert "exists: pass --force to overwrite it, or another name" in said
        assert contents(tmp_path) == before
    ended = call_tool(*options, "--force")
    assert ended.code == 0, ended.err
    assert precious.read_bytes() == PRECIOUS and out.read_bytes() != PRECIOUS
    assert set(contents(tmp_path)) == {precious, out}
    assert "exists: pass --force" in call_tool(*options).one_sentence()  # its own, too


class TestReproduce:
    @pytest.fixture
    def run(self, models, shapes: Path, tmp_path: Path, call_tool) -> Callable:
        folder = tmp_path / "checkpoints"
        folder.mkdir()
        shutil.copy(models["detector"][1], folder / "a.pth")
        options = ("--cfg-options", f"test_dataloader.dataset.data_root={shapes}")
        maps = ("--map", f"a={models['detector'][0]}", "--device", "cpu")

        def reproduce(out: Path):
            args = ("--checkpoints", folder, "--out", out, *maps)
            evaluated = shapes / "annotations" / "instances_val2017.json"
            return call_tool(
                "reproduce.py", *args, *options, f"test_evaluator.ann_file={evaluated}"
            )

        return reproduce

    @pytest.mark.parametrize("name", ["index.html", "results.json", "results.md", "models", "work"])
    @pytest.mark.parametrize("harm", ["file", "symlink", "hard link"])
    def test_users_files(self, name: str, harm: str, tmp_path: Path, run):
        out, precious = tmp_path / "report", tmp_path / "precious"
        out.mkdir()
        precious.write_bytes(PRECIOUS)
        if harm == "file" and name in ("models", "work"):
            (out / name).mkdir()
            (out / name / "a.json").write_bytes(PRECIOUS)
        elif harm == "file":
            (out / name).write_bytes(PRECIOUS)
        else:
            (os.symlink if harm == "symlink" else os.link)(precious, out / name)
        before = contents(out)
        assert f"{out / name} is not of an earlier run" in run(out).one_sentence()
        assert contents(out) == before and precious.read_bytes() == PRECIOUS

    def test_twice_and_links_within(self, tmp_path: Path, run):
        """What its own files' names are links to keeps its content."""
        out, precious, linked = tmp_path / "report", tmp_path / "precious", tmp_path / "linked"
        Outputs(out).write("index.html", b"of an earlier run")
        work = out / "work" / "a"
        work.mkdir(parents=True)
        for path in (precious, linked):
            path.write_bytes(PRECIOUS)
        (work / "log_0.txt").symlink_to(precious)
        (work / "config_0.py").symlink_to(precious)
        (work / "collected.json").hardlink_to(linked)
        first = run(out)
        assert first.code == 0, first.out + first.err
        assert precious.read_bytes() == linked.read_bytes() == PRECIOUS
        (work / "log_0.txt").unlink()
        (work / "log_0.txt").hardlink_to(linked)
        written = contents(out / "models")
        again = run(out)
        assert again.code == 0 and "tested before" in again.out, again.err
        assert contents(out / "models") == written

    @pytest.mark.parametrize("name", ["work/a", "models/a.json"])
    def test_links_to_elsewhere(self, name: str, tmp_path: Path, run):
        """That one fails at once, instead of after its test; the report is written."""
        out, elsewhere = tmp_path / "report", tmp_path / "elsewhere"
        Outputs(out).write("index.html", b"of an earlier run")
        elsewhere.mkdir()
        (elsewhere / "a").write_bytes(PRECIOUS)
        (out / name).parent.mkdir()
        (out / name).symlink_to(elsewhere if name == "work/a" else elsewhere / "a")
        before = contents(elsewhere)
        ended = run(out)
        assert ended.code == 1 and f"{out / name} is not of an earlier run" in ended.out
        assert (
            contents(elsewhere) == before
            and "not of an earlier" in (out / "results.md").read_text()
        )
