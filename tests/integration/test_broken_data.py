"""A data set with everything wrong in it is trained on and evaluated, and it is said."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from mmengine.registry import TRANSFORMS

import corpus
import mmpvt
from mmpvt.checkpoint.saving import newest_checkpoint
from mmpvt.datasets.shapes import generate


def scores(work_dir: Path) -> dict[str, float]:
    """What a test has written, to the last digit."""
    (file,) = work_dir.glob("[0-9]*/*.json")  # the folder of the run, named by its time
    written = json.loads(file.read_text())
    return {name: value for name, value in written.items() if name.startswith("coco/")}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """The shapes, and every bad input among them, in both splits; how many can't be used."""
    root = tmp_path_factory.mktemp("data") / "broken"
    generate(root, num_train=8, num_val=4, size=64, progress=False)
    for split in ("train", "val"):
        file = root / "annotations" / f"instances_{split}2017.json"
        content = json.loads(file.read_text())
        height, width = corpus.SIZE
        lost = 0
        for i, item in enumerate(corpus.IMAGES, start=100):
            (root / f"{split}2017" / f"{i}.jpg").write_bytes(item.make(corpus.picture()))
            image = dict(id=i, file_name=f"{i}.jpg", width=width, height=height)
            content["images"].append(image)
            if not item.reason:
                square = dict(bbox=[8, 8, 16, 16], area=256, segmentation=[corpus.SQUARE])
                content["annotations"].append(
                    dict(id=1000 + i, image_id=i, category_id=1, iscrowd=0, **square)
                )
            lost += bool(item.reason)
        wrong = dict(image_id=1, category_id=1, iscrowd=0, area=9)
        content["annotations"] += [
            dict(wrong, id=2000, bbox=[float("nan")] * 4),
            dict(wrong, id=2001, bbox=[1, 1, 0, 9]),
            dict(wrong, id=2002, bbox=[1, 1, 9, 9], image_id=77),
        ]
        file.write_text(json.dumps(content))
    return root, lost


def test_trained_and_tested(broken: tuple[Path, int], tmp_path: Path, tiny_config: Path, call_tool):
    root, lost = broken
    skip = ("--on-bad-data", "skip")
    args = ("--data-root", root, "--work-dir", tmp_path / "work", "--seed", 0, *skip)
    options = ("--cfg-options", "train_cfg.max_epochs=2", "train_dataloader.num_workers=2")
    trained = call_tool("train.py", tiny_config, *args, *options)
    assert trained.code == 0, trained.out + trained.err
    assert f"skipped in training so far: {lost} images" in trained.out
    assert len(re.findall(r"skipped in training, number \d+: \S+: \S", trained.out)) == lost
    annotations = "0 images and 3 annotations of"
    assert trained.out.count(annotations) >= 2
    checkpoint = tmp_path / "work" / "epoch_2.pth"
    single = (*skip, "--cfg-options", "test_dataloader.batch_size=1")  # padding depends on it
    test = ("test.py", tiny_config, checkpoint, "--data-root", root, "--work-dir")
    tested = call_tool(*test, tmp_path / "broken", *single)
    total = 4 + len(corpus.IMAGES)
    for out in (trained.out, tested.out):
        assert f"the score is over {total - lost} of {total} images, skipped are" in out
        assert re.search(rf"coco/bbox_mAP: .*skipped_images: {lost} ", out)
    (listing,) = (tmp_path / "work" / "annotations").glob("*_val2017.skipped.json")
    assert len(json.loads(listing.read_text())) == 3

    content = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    bad = {i for i, item in enumerate(corpus.IMAGES, start=100) if item.reason}
    content["images"] = [image for image in content["images"] if image["id"] not in bad]
    content["annotations"] = [a for a in content["annotations"] if a["id"] < 2000]
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    clean = call_tool(*test, tmp_path / "clean", *single)
    assert clean.code == 0, clean.err
    assert "skipped" not in clean.out
    assert scores(tmp_path / "broken") == scores(tmp_path / "clean") != {}


def test_segmentation(tmp_path: Path, shapes: Path, tiny_segmenter: Path, call_tool):
    """Label maps that can't be used count for no pixel."""
    for split, name in (("training", "000000000003"), ("validation", "000000000002")):
        for folder in ("images", "annotations"):
            (tmp_path / folder / split).mkdir(parents=True)
            for file in (shapes / folder / split).iterdir():
                (tmp_path / folder / split / file.name).write_bytes(file.read_bytes())
        (tmp_path / "annotations" / split / f"{name}.png").write_bytes(b"")
    args = ("--data-root", tmp_path, "--work-dir", tmp_path / "work", "--on-bad-data", "skip")
    ended = call_tool("train.py", tiny_segmenter, *args)
    assert ended.code == 0, ended.out + ended.err
    assert "skipped in training, number 1:" in ended.out
    assert "000000000003.png can't be read as a label map" in ended.out
    assert "the score is over 3 of 4 images, skipped are" in ended.out
    assert re.search(r"mIoU: .*skipped_images: 1 ", ended.out)


class DividesByZero:
    """A user's transform with an error that one image meets.

    Args:
        path (str): how the image's path ends.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, results: dict) -> dict:
        if results["img_path"].endswith(self.path):
            1 / 0  # noqa: B018
        return results


@pytest.fixture
def copied_shapes(tmp_path: Path, shapes: Path) -> Path:
    """The shapes, to be damaged."""
    return Path(shutil.copytree(shapes, tmp_path / "shapes"))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_transforms_own_error(
    split: str, tmp_path: Path, shapes: Path, tiny_config: Path, trained: Path, start_tool
):
    """It ends the run, in a loading worker too, with its traceback and another code than 2."""
    folder = "train" if split == "train" else "val"
    image = sorted((shapes / f"{folder}2017").iterdir())[-1]
    config = tmp_path / "own.py"
    pipeline = "_base_.train_pipeline" if split == "train" else "_base_.test_pipeline"
    config.write_text(
        f"_base_ = '{tiny_config}'\n"
        f"{pipeline}.insert(1, dict(type='DividesByZero', path={image.name!r}))\n"
        f"{split}_dataloader = dict(num_workers=1, dataset=dict(pipeline={pipeline}))\n"
        "train_cfg = dict(max_epochs=1, val_interval=1)\n"
    )
    args = ("--data-root", shapes, "--work-dir", tmp_path / "work", "--on-bad-data", "skip")
    tool = ("test.py", config, trained / "epoch_2.pth") if split == "test" else ("train.py", config)
    TRANSFORMS.register_module(module=DividesByZero)
    try:
        process = start_tool(*tool, *args)
        assert process.wait(120) == 1, process.text
    finally:
        TRANSFORMS.module_dict.pop(DividesByZero.__name__)
    assert "Traceback" in process.text and "1 / 0" in process.text
    assert "ZeroDivisionError: division by zero" in process.text
    assert not re.search(r"skipped (in|are)", process.text)


@pytest.mark.parametrize("mode", ["auto", "stop"])
def test_what_was_asked_holds_for_the_whole_run(
    mode: str, tmp_path: Path, copied_shapes: Path, tiny_config: Path, start_tool
):
    """An image is damaged while the run is in its later epochs."""
    work_dir = tmp_path / "work"
    process = start_tool(
        *("train.py", tiny_config, "--data-root", copied_shapes, "--work-dir", work_dir),
        *("--on-bad-data", mode, "--cfg-options", "train_dataloader.num_workers=1"),
        *("train_cfg.max_epochs=200", "train_cfg.val_interval=200"),
    )
    process.wait_for((work_dir / "epoch_2.pth").exists)
    image = sorted((copied_shapes / "train2017").iterdir())[0]
    image.write_bytes(b"no image")
    if mode == "auto":
        said = f"skipped in training, number 1: {image}: "
        process.wait_for(lambda: said in process.text)
        done = len(list(work_dir.glob("epoch_*.pth")))
        process.wait_for(lambda: len(list(work_dir.glob("epoch_*.pth"))) > done + 1)
        return
    assert process.wait(120) == 2, process.text
    assert "Traceback" not in process.text
    assert process.text.rstrip().splitlines()[-1].startswith(f"error: {image} can't be read")
    # what was trained since the last regular checkpoint, too
    done, saved = re.search(r"iteration (\d+) is saved in (\S+)", process.text).groups()
    assert saved == str(newest_checkpoint(work_dir))
    assert mmpvt.checkpoint.load_checkpoint(saved)["meta"]["iter"] == int(done)


@pytest.mark.parametrize("mode", ["auto", "stop"])
def test_bad_image_of_a_validation(
    mode: str, tmp_path: Path, copied_shapes: Path, tiny_config: Path, call_tool
):
    image = sorted((copied_shapes / "val2017").iterdir())[0]
    image.write_bytes(b"no image")
    ended = call_tool(
        *("train.py", tiny_config, "--data-root", copied_shapes, "--work-dir", tmp_path / "work"),
        *("--on-bad-data", mode, "--cfg-options", "train_cfg.max_epochs=1"),
        *("train_cfg.val_interval=1", "val_dataloader.num_workers=1"),
    )
    if mode == "auto":
        assert ended.code == 0, ended.err
        assert f"the score is over 3 of 4 images, skipped are {image}" in ended.out
    else:
        assert f"error: {image} can't be read as an image" in ended.one_sentence()
        assert (tmp_path / "work" / "epoch_1.pth").is_file()
