"""Predicting on folders: the numbers of tests, and whatever lies in a folder."""

from __future__ import annotations

import functools
import json
import os
import pickle
import re
import shutil
import signal
import struct
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.apis import inference_detector, init_detector
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import mmpvt
import small_models
from corpus import IMAGES, SIZED, UNREADABLE, picture, png
from helpers import ROOT, save_untrained
from mmpvt.datasets.shapes import PALETTE
from mmpvt.engine.config import read_config
from mmpvt.errors import OutputError, UserError
from mmpvt.inference.folders import FolderOptions, predict_folder
from mmpvt.inference.sources import find_sources
from mmpvt.utils.outputs import Outputs
from mmpvt.visualization import saving

TINY_MASKS = """
_base_ = "{base}"
small = dict(in_channels=16)
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=(8, 16, 20, 32), depths=(1, 1, 1, 1))),
    neck=dict(in_channels=[8, 16, 20, 32], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(in_channels=16, conv_out_channels=16),
    ),
    test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=20)),
)
"""


@pytest.fixture(scope="module")
def tiny_masks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("masks")
    path = folder / "masks.py"
    path.write_text(TINY_MASKS.format(base=ROOT / "configs/mask_rcnn_pvt_v2_b0_fpn_shapes.py"))
    return path, save_untrained(path, folder / "masks.pth")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Images of three sizes in folders, of clashing names, beside what is none."""
    draw = np.random.default_rng(0)
    for name, size in {
        "x.jpg": (64, 64),
        "x.png": (64, 64),
        "a/x.jpg": (48, 64),
        "b/x.jpg": (64, 64),
        "b/deep/y.bmp": (64, 48),
        "b/X.JPG": (64, 64),
    }.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), draw.integers(0, 255, (*size, 3), dtype=np.uint8))
    (tmp_path / "photos" / "notes.txt").write_text("no image")
    (tmp_path / "photos" / ".hidden.jpg").write_text("no image")
    return tmp_path / "photos"


def predictions(out: Path) -> list[dict]:
    return json.loads((out / "predictions.json").read_text())


def test_results_are_the_tests(
    tmp_path: Path, shapes: Path, tiny_config: Path, trained: Path, call_tool
):
    """Of a trained detector: every box and score; and they are COCO's format."""
    checkpoint = trained / "epoch_2.pth"
    options = ("--data-root", shapes, "--work-dir", tmp_path / "work")
    tested = call_tool(
        "test.py", tiny_config, checkpoint, *options, "--out", tmp_path / "results.pkl"
    )
    assert tested.code == 0, tested.err
    out = tmp_path / "out"
    ended = call_tool("predict.py", tiny_config, checkpoint, shapes / "val2017", "--out", out)
    assert ended.code == 0, ended.err
    assert "4 images" in ended.out and "0 skipped" in ended.out
    compare(tmp_path / "results.pkl", predictions(out))

    annotations = COCO(str(shapes / "annotations/instances_val2017.json"))
    listed = json.loads((out / "categories.json").read_text())
    assert listed == [
        dict(id=category["id"], name=category["name"])
        for category in annotations.dataset["categories"]
    ]
    evaluation = COCOeval(annotations, annotations.loadRes(str(out / "predictions.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    told = float(re.search(r"bbox_mAP: (\d\.\d+)", tested.out)[1])
    assert evaluation.stats[0] == pytest.approx(told, abs=1e-3)
    for name in ("contact_sheet.jpg", "pictures/000000000001.jpg"):
        assert cv2.imread(str(out / name)).std() > 10


def test_mixed_precision(tmp_path: Path, shapes: Path, tiny_config: Path, trained: Path, call_tool):
    """Predictions in bfloat16 are the test's, near float32's, and boxes aren't rounded to it."""
    args = (tiny_config, trained / "epoch_2.pth")
    options = ("--amp", "bfloat16")
    for out, more in (("float32", ()), ("bfloat16", options)):
        ended = call_tool("predict.py", *args, shapes / "val2017", "--out", tmp_path / out, *more)
        assert ended.code == 0, ended.err
    kept = ("--work-dir", tmp_path / "work", "--out", tmp_path / "results.pkl")
    one = ("--cfg-options", "test_dataloader.batch_size=1")
    ended = call_tool("test.py", *args, "--data-root", shapes, *kept, *one, *options)
    assert ended.code == 0, ended.err
    compare(tmp_path / "results.pkl", predictions(tmp_path / "bfloat16"))
    scores, exact = (
        np.array([p["score"] for p in predictions(tmp_path / out)])
        for out in ("bfloat16", "float32")
    )
    assert 0 < abs(scores.mean() - exact.mean()) < 0.01
    boxes = torch.tensor([p["bbox"][:2] for p in predictions(tmp_path / "bfloat16")])
    assert (boxes != boxes.bfloat16()).float().mean() > 0.5
    for tool, more in (("test.py", ()), ("predict.py", (shapes, "--out", tmp_path / "wrong"))):
        wrong = call_tool(tool, *args, *more, "--amp", "float16")
        sentence = wrong.one_sentence()
        assert sentence == "error: --amp: float16 is for GPUs: pass --amp bfloat16"


def test_masks_are_the_tests(tmp_path: Path, shapes: Path, tiny_masks, call_tool):
    options = ("--data-root", shapes, "--work-dir", tmp_path / "work")
    options = (*options, "--cfg-options", "test_dataloader.batch_size=1")
    tested = call_tool("test.py", *tiny_masks, *options, "--out", tmp_path / "results.pkl")
    assert tested.code == 0, tested.err
    out = tmp_path / "out"
    ended = call_tool("predict.py", *tiny_masks, shapes / "val2017", "--out", out)
    assert ended.code == 0, ended.err
    compare(tmp_path / "results.pkl", predictions(out))


def compare(results: Path, found: list[dict]) -> None:
    """Of a test's kept results and a prediction's: every number."""
    kept = pickle.loads(results.read_bytes())  # our own, just written
    assert len(kept) == 4 and found
    for image in kept:
        ours = [result for result in found if result["image_id"] == image["img_id"]]
        theirs = image["pred_instances"]
        assert len(ours) == len(theirs["scores"]) > 0
        boxes = np.array([result["bbox"] for result in ours])
        boxes[:, 2:] += boxes[:, :2]
        np.testing.assert_allclose(boxes, theirs["bboxes"], atol=1e-3)
        np.testing.assert_allclose([r["score"] for r in ours], theirs["scores"], atol=1e-5)
        assert [r["category_id"] - 1 for r in ours] == theirs["labels"].tolist()
        for result, mask in zip(ours, theirs.get("masks", ()), strict="masks" in theirs):
            one, other = (coco_mask.decode(m) for m in (result["segmentation"], mask))
            assert (one != other).mean() < 1e-3


def test_label_maps_are_the_tests(tmp_path: Path, shapes: Path, untrained_segmenter, call_tool):
    options = ("--data-root", shapes, "--work-dir", tmp_path / "work")
    tested = call_tool("test.py", *untrained_segmenter, *options, "--out", tmp_path / "maps")
    assert tested.code == 0, tested.err
    out = tmp_path / "out"
    images = shapes / "images" / "validation"
    ended = call_tool("predict.py", *untrained_segmenter, images, "--out", out, "--batch", 4)
    assert ended.code == 0, ended.err
    entries = predictions(out)
    assert [entry["file_name"] for entry in entries] == sorted(p.name for p in images.iterdir())
    for entry in entries:
        ours = cv2.imread(str(out / entry["label_map"]), cv2.IMREAD_UNCHANGED)
        name = Path(entry["label_map"]).name
        theirs = cv2.imread(str(tmp_path / "maps" / name), cv2.IMREAD_UNCHANGED)
        assert ours.shape == (64, 64) and len(np.unique(ours)) > 1
        assert (ours + 1 == theirs).mean() > 0.999  # a test's are ADE20K's, 0 being no class
        coloured = cv2.imread(str(out / "colour_maps" / name))[..., ::-1]
        assert (coloured == np.array(PALETTE)[ours]).all()


def test_batches_change_no_number(photos: Path, tmp_path: Path, tiny_config, trained, call_tool):
    """Images of several sizes: those of one size share a batch, none is padded."""
    found = []
    for batch in (1, 4):
        out = tmp_path / f"out_{batch}"
        args = (tiny_config, trained / "epoch_2.pth", photos, "--out", out, "--batch", batch)
        ended = call_tool("predict.py", *args)
        assert ended.code == 0, ended.err
        found.append(predictions(out))
    assert len(found[0]) == len(found[1]) > 100
    for one, other in zip(*found, strict=True):
        assert one["file_name"] == other["file_name"]
        assert one["category_id"] == other["category_id"]
        np.testing.assert_allclose(one["bbox"], other["bbox"], atol=1e-3)
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_names_and_folders(photos: Path, tiny_config: Path, trained: Path, call_tool):
    """Every image has a picture of its own; the folder of results is none of images."""
    args = (tiny_config, trained / "epoch_2.pth", photos, photos / "x.jpg")
    for _ in range(2):  # a second run replaces the first one's results, and doesn't read them
        ended = call_tool("predict.py", *args, "--out", photos / "results")
        assert ended.code == 0, ended.err
        assert "6 images" in ended.out and "1 other file ignored (notes.txt" in ended.out
        pictures = sorted((photos / "results" / "pictures").rglob("*.jpg"))
        names = [path.relative_to(photos / "results" / "pictures").as_posix() for path in pictures]
        expected = ["a/x.jpg", "b/X.jpg", "b/deep/y.jpg", "b/x_jpg.jpg", "x.jpg", "x_png.jpg"]
        assert sorted(names) == sorted(expected)
    ids = {result["image_id"] for result in predictions(photos / "results")}
    assert ids == set(range(1, 7))


def test_broken_files(tmp_path: Path, tiny_config: Path, trained: Path, call_tool):
    """Each is named and skipped; odd ones that can be read are predicted on."""
    folder = tmp_path / "photos"
    folder.mkdir()
    broken = set()
    for number, entry in enumerate(IMAGES):
        (folder / f"{number}.jpg").write_bytes(entry.make(picture()))
        if entry.reason == UNREADABLE:
            broken.add(f"{number}.jpg")
    for number, size in enumerate(SIZED.values(), len(IMAGES)):
        (folder / f"{number}.png").write_bytes(png(np.full((*size, 3), 200, np.uint8)))
        if max(size) > 128 * min(size):  # of 64 pixels, less than half a pixel is left
            broken.add(f"{number}.png")
    (folder / "bomb.png").write_bytes(bomb(40_000))
    broken.add("bomb.png")
    out = tmp_path / "out"
    ended = call_tool("predict.py", tiny_config, trained / "epoch_2.pth", folder, "--out", out)
    assert ended.code == 0, ended.err
    assert "Traceback" not in ended.err
    named = re.findall(r"^skipped: (\S+)", ended.err, re.M)
    assert sorted(Path(name.rstrip(",")).name for name in named) == sorted(broken)
    used = len(list(folder.iterdir())) - len(broken)
    assert f"{used} images" in ended.out and f"{len(broken)} skipped" in ended.out
    pictures = {path.stem for path in (out / "pictures").iterdir()}
    assert len(pictures) == used and not pictures & {Path(name).stem for name in broken}


def test_images_elsewhere_by_the_config_of_a_run(
    tmp_path: Path, tiny_config: Path, trained: Path, call_tool
):
    """It keeps training to the folders of its data, and predictions to none."""
    photo = tmp_path / "photo.png"
    photo.write_bytes(png(picture()))
    config = trained / tiny_config.name
    args = (config, trained / "epoch_2.pth", photo, "--out", tmp_path / "out")
    ended = call_tool("predict.py", *args)
    assert ended.code == 0 and "0 skipped" in ended.out, ended.err
    model = init_detector(str(config), str(trained / "epoch_2.pth"), device="cpu")
    assert len(inference_detector(model, str(photo)).pred_instances.bboxes.shape) == 2


def bomb(side: int) -> bytes:
    """A small PNG file whose header says that it is a square of ``side`` pixels."""
    content = bytearray(png(np.zeros((8, 8, 3), np.uint8)))
    content[16:24] = struct.pack(">II", side, side)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def test_images_that_the_model_refuses(tmp_path: Path, untrained_segmenter, capsys):
    """Each of a batch is tried by itself, then skipped; what an earlier run gave stays."""
    config = read_config(str(untrained_segmenter[0]))
    pipeline = config.test_dataloader.dataset.pipeline
    pipeline[:] = [step for step in pipeline if not step["type"].startswith("Resize")]
    predictor = mmpvt.Predictor(config, untrained_segmenter[1], "cpu")
    for wrong, said in (
        (np.random.default_rng(0).random((64, 64, 3)), "from 0 to 1"),
        (b"a", "bytes"),
    ):
        with pytest.raises(UserError, match=said):
            predictor(wrong)
    for name, side in (("a", 16), ("b", 16), ("c", 64)):
        (tmp_path / f"{name}.png").write_bytes(png(np.full((side, side, 3), 200, np.uint8)))
    out = tmp_path / "out"
    sources, _ = find_sources([tmp_path], out)
    summary = predict_folder(predictor, sources, out, FolderOptions(batch_size=2))
    assert summary.images == 1 and summary.instances is None
    assert [path.name for path in summary.skipped] == ["a.png", "b.png"]
    assert "a.png: images of 16x16 pixels are too small" in capsys.readouterr().err
    before = predictions(out)
    assert predict_folder(predictor, sources[:2], out, FolderOptions(batch_size=2)).images == 0
    assert predictions(out) == before


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Sixty small images of two sizes, one of them broken."""
    folder = tmp_path / "many"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(60):
        size = (24, 32) if number % 7 else (32, 24)
        cv2.imwrite(str(folder / f"{number:03}.png"), draw.integers(0, 255, (*size, 3), np.uint8))
    (folder / "030.png").write_text("no image")
    return folder


def test_resumed_after_kills(
    many: Path, tmp_path: Path, tiny_config, trained, start_tool, run_tool
):
    """Every file once, in the order and with the numbers of one run, from worker processes."""
    args = (tiny_config, trained / "epoch_2.pth", many, "--batch", 4, "--no-pictures")
    ended = run_tool("predict.py", *args, "--out", tmp_path / "once", "--workers", 2)
    assert ended.code == 0, ended.err
    assert "59 images" in ended.out and "1 skipped" in ended.out
    out = tmp_path / "out"
    part = out / "predictions.jsonl.part"

    def has(count: int) -> bool:
        return part.exists() and part.read_bytes().count(b"\n") >= count

    for count in (5, 25):
        process = start_tool("predict.py", *args, "--out", out, "--resume", "--workers", 2)
        process.wait_for(functools.partial(has, count))
        os.kill(process.pid, signal.SIGKILL)  # its workers go, too
        process.wait()
        end = time.monotonic() + 30
        with pytest.raises(ProcessLookupError):
            while time.monotonic() < end:
                os.killpg(process.pid, 0)
                time.sleep(0.05)
    with part.open("ab") as file:
        file.write(b'{"image_id": 40, "file_na')  # a line that the kill has cut
    ended = run_tool("predict.py", *args, "--out", out, "--resume", "--workers", 0)
    assert ended.code == 0, ended.err
    assert "done before" in ended.out and not part.exists()
    for name in ("predictions.jsonl", "predictions.json"):
        assert (out / name).is_file()
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == [f"{number:03}.png" for number in range(60)]
    assert "error" in lines[30]
    for one, other in zip(predictions(out), predictions(tmp_path / "once"), strict=True):
        assert one["file_name"] == other["file_name"]
        np.testing.assert_allclose(one["bbox"], other["bbox"], atol=1e-3)
    again = run_tool("predict.py", *args, "--out", out, "--resume")
    assert again.code == 0 and "60 done before" in again.out
    other = run_tool("predict.py", *args, "--out", out, "--resume", "--tiles", 16)
    assert "had another tiles: None: name another folder" in other.one_sentence()


def test_only_the_same_run_is_resumed(
    photos: Path, tmp_path: Path, tiny_config: Path, trained: Path, call_tool
):
    """The same names of files aren't enough: what is in them counts."""
    config, checkpoint, out = tmp_path / "config.py", tmp_path / "k.pth", tmp_path / "out"
    text = f"_base_ = {str(tiny_config)!r}\n"
    config.write_text(text)
    shutil.copyfile(trained / "epoch_2.pth", checkpoint)
    args = ("predict.py", config, checkpoint, photos, "--out", out, "--no-pictures")
    ended = call_tool(*args)
    assert ended.code == 0, ended.err
    settings = json.loads((out / "run.json").read_text())
    shutil.copy(next(photos.glob("*.jpg")), photos / "zzz.jpg")  # the last one

    said = call_tool(*args, "--resume", "--amp", "bfloat16").one_sentence()
    assert "had another amp: None" in said
    shutil.copyfile(trained / "epoch_1.pth", checkpoint)
    said = call_tool(*args, "--resume").one_sentence()
    assert f"--resume: the checkpoint has changed since the run in {out}: name another" in said
    shutil.copyfile(trained / "epoch_2.pth", checkpoint)
    for change in (
        "model = dict(test_cfg=dict(score_thr=0.1))",
        "_base_.test_pipeline[1].scale = (32, 32)\n"
        "test_dataloader = dict(dataset=dict(pipeline=_base_.test_pipeline))",
    ):
        config.write_text(text + change)
        assert "the config has changed since" in call_tool(*args, "--resume").one_sentence()
    config.write_text(text + "train_cfg = dict(max_epochs=9)  # of no prediction")

    old = {key: settings[key] for key in ("config", "checkpoint", "tiles")}
    for text in (json.dumps(old), "{"):
        (out / "run.json").write_text(text)
        said = call_tool(*args, "--resume").one_sentence()
        assert f"the run in {out} is of a version that didn't record all" in said
    (out / "run.json").write_text(json.dumps(settings))
    ended = call_tool(*args, "--resume")
    assert ended.code == 0, ended.err
    assert "1 image," in ended.out and "6 done before" in ended.out


def test_full_disk_keeps_what_was_done(
    many: Path, tmp_path: Path, tiny_config, trained, call_tool, monkeypatch
):
    """Named in a sentence; freed, the run goes on."""
    args = (tiny_config, trained / "epoch_2.pth", many, "--out", tmp_path / "out")
    original = Outputs.write

    def write(self: Outputs, name: str, content: bytes) -> Path:
        if name == "pictures/020.jpg":
            raise OutputError(f"{name} can't be written (No space left on device)")
        return original(self, name, content)

    monkeypatch.setattr(Outputs, "write", write)
    ended = call_tool("predict.py", *args)
    assert ended.code == 2 and "No space left on device" in ended.err
    assert "Traceback" not in ended.err
    monkeypatch.undo()
    ended = call_tool("predict.py", *args, "--resume")
    assert ended.code == 0, ended.err
    assert "20 done before" in ended.out
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 60


def test_resuming_writes_what_comes_of_all_images(
    photos: Path, tmp_path: Path, tiny_config, trained, call_tool, monkeypatch
):
    """The disk was full when all was predicted; a kill then leaves the same."""
    out = tmp_path / "out"
    args = ("predict.py", tiny_config, trained / "epoch_2.pth", photos, "--out", out)

    def write_parts(self: Outputs, name: str, parts: object) -> Path:
        raise OutputError(f"{name} can't be written (No space left on device)")

    with monkeypatch.context() as full:
        full.setattr(Outputs, "write_parts", write_parts)
        assert "predictions.json can't be written" in call_tool(*args).one_sentence()
    assert call_tool(*args, "--resume").code == 0
    assert json.loads((out / "predictions.json").read_text())
    assert (out / "contact_sheet.jpg").is_file()


def no_images(folder: Path) -> tuple[list, str]:
    return [folder / "no"], "no image or folder at"


def empty_folder(folder: Path) -> tuple[list, str]:
    (folder / "empty").mkdir()
    return [folder / "empty"], "no images under"


def text_files(folder: Path) -> tuple[list, str]:
    (folder / "texts").mkdir()
    (folder / "texts" / "a.txt").write_text("a")
    return [folder / "texts"], "no images under"


def only_broken(folder: Path) -> tuple[list, str]:
    (folder / "a.jpg").write_text("no image")
    return [folder / "a.jpg"], "no image can be used, of 1"


@pytest.mark.parametrize("harm", [no_images, empty_folder, text_files, only_broken])
def test_careless_images(harm, tmp_path: Path, tiny_config: Path, trained: Path, call_tool):
    images, expected = harm(tmp_path)
    args = (tiny_config, trained / "epoch_2.pth", *images, "--out", tmp_path / "out")
    assert expected in call_tool("predict.py", *args).one_sentence()


def test_careless_options(
    photos: Path,
    tmp_path: Path,
    tiny_config: Path,
    trained: Path,
    untrained_segmenter,
    call_tool,
):
    checkpoint = trained / "epoch_2.pth"
    taken = tmp_path / "taken"
    taken.write_text("precious")
    out = ("--out", tmp_path / "out")
    good = (tiny_config, checkpoint, photos)
    for args, expected in (
        ((checkpoint, tiny_config, photos, *out), "is no config"),
        ((tiny_config, tmp_path / "no.pth", photos, *out), "no checkpoint at"),
        ((tiny_config, untrained_segmenter[1], photos, *out), "another model's than the config's"),
        ((*good, *out, "--score", 3), "--score 3.0: a score is a number from 0 to 1"),
        ((*good, *out, "--batch", 0), "--batch 0: at least one"),
        ((*good, *out, "--workers", -1), "--workers -1: a number of processes from 0 to 1024"),
        (
            (*good, *out, "--workers", 10**9),
            "--workers 1000000000: a number of processes from 0 to",
        ),
        ((*good, *out, "--device", "tpu"), "no device 'tpu'"),
        ((*good, "--out", taken), "is a file: name a folder"),
        ((*good, "--out", photos), "holds other files"),
    ):
        assert expected in call_tool("predict.py", *args).one_sentence()
    assert not (tmp_path / "out").exists()
    assert taken.read_text() == "precious"
    assert not (photos / "predictions.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_that_is_not_there(photos: Path, tmp_path: Path, tiny_config, trained, call_tool):
    args = (tiny_config, trained / "epoch_2.pth", photos, "--out", tmp_path / "out")
    args = (*args, "--device", "cuda")
    said = call_tool("predict.py", *args).one_sentence()
    assert "no device 'cuda': this machine has no GPU" in said


def test_interrupted_run_keeps_what_it_has(
    photos: Path, tmp_path: Path, tiny_config: Path, trained: Path, call_tool, monkeypatch
):
    for number in range(20):
        shutil.copy(photos / "x.jpg", photos / f"{number}.jpg")
    written = []
    original = saving.write_picture

    def write(*args: object) -> Path:
        if len(written) == 5:
            raise KeyboardInterrupt
        written.append(original(*args))
        return written[-1]

    monkeypatch.setattr(saving, "write_picture", write)
    out = tmp_path / "out"
    ended = call_tool("predict.py", tiny_config, trained / "epoch_2.pth", photos, "--out", out)
    assert ended.code == 130 and "Traceback" not in ended.err
    assert len({result["file_name"] for result in predictions(out)}) == 5


def test_panoptic_models_are_refused(photos: Path, tmp_path: Path, call_tool):
    """Nothing of panoptic segments would be written; of their instances all is."""
    model, config = small_models.build("mask2former", "v2")
    weights = tmp_path / "panoptic.pth"
    torch.save(dict(state_dict=model.state_dict()), weights)
    for is_panoptic in (True, False):
        path, out = tmp_path / f"{is_panoptic}.py", tmp_path / f"out_{is_panoptic}"
        config.model.test_cfg.update(panoptic_on=is_panoptic, instance_on=not is_panoptic)
        config.dump(path)
        ended = call_tool("predict.py", path, weights, photos / "x.jpg", "--out", out)
        if is_panoptic:
            assert "Mask2Former gives panoptic segments alone" in ended.one_sentence()
            assert not out.exists()
        else:
            assert ended.code == 0 and predictions(out)[0]["segmentation"]
