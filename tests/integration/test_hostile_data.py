"""Data sets, logs and images that were made to do harm: nothing hangs, each is said."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers import Ended

ANNOTATIONS = "annotations/instances_val2017.json"


@pytest.fixture
def root(shapes: Path, tmp_path: Path) -> Path:
    return shutil.copytree(shapes, tmp_path / "data")


def change(root: Path, changed: Callable[[dict], object]) -> None:
    content = json.loads((root / ANNOTATIONS).read_text())
    changed(content)
    (root / ANNOTATIONS).write_text(json.dumps(content))


def test_a_pipe_among_the_images(
    root: Path, tiny_config: Path, trained: Path, tmp_path: Path, run_tool
):
    image = root / "val2017" / "000000000001.jpg"
    image.unlink()
    os.mkfifo(image)
    said = f"{image} is not a regular file, but a pipe (FIFO)"
    data = ("--data-root", root)
    args = (tiny_config, trained / "epoch_2.pth", *data, "--work-dir", tmp_path / "work")
    assert said in run_tool("test.py", *args, timeout=120).one_sentence()
    skipped = run_tool("test.py", *args, "--on-bad-data", "skip", timeout=120)
    assert skipped.code == 0 and said in skipped.out
    looked = run_tool("check_data.py", tiny_config, *data, "--out", tmp_path / "d", timeout=120)
    assert looked.code == 1 and said in (tmp_path / "d" / "data.json").read_text()


@pytest.mark.parametrize("name", ["/dev/zero", "../../secret.jpg", "/etc/hostname"])
def test_names_outside_of_the_data(
    name: str, root: Path, tiny_config: Path, trained: Path, tmp_path: Path, call_tool
):
    change(root, lambda content: content["images"][0].update(file_name=name))
    data = ("--data-root", root)
    expected = f"names 1 files outside of the data's folder ({name!r}): if you trust it, set "
    for command in (
        ("train.py", tiny_config, *data, "--work-dir", tmp_path / "work"),
        ("test.py", tiny_config, trained / "epoch_2.pth", *data, "--work-dir", tmp_path / "work"),
        ("check_data.py", tiny_config, *data, "--out", tmp_path / "out"),
    ):
        assert expected in call_tool(*command).one_sentence()
    assert not (tmp_path / "work").exists() and not (tmp_path / "out").exists()


def test_names_outside_that_are_allowed(
    root: Path, tiny_config: Path, trained: Path, tmp_path: Path, call_tool
):
    elsewhere = shutil.copy(root / "val2017" / "000000000001.jpg", tmp_path / "elsewhere.jpg")
    change(root, lambda content: content["images"][0].update(file_name=str(elsewhere)))
    args = (tiny_config, trained / "epoch_2.pth", "--data-root", root)
    allowed = ("--cfg-options", "allow_outside_files=True")
    ended = call_tool("test.py", *args, "--work-dir", tmp_path / "work", *allowed)
    assert ended.code == 0, ended.out + ended.err


def deep(content: dict) -> None:
    value: list = []
    for _ in range(600):
        value = [value]
    content["info"] = value


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (deep, "nested more than 100 levels deep"),
        (lambda c: c.update(categories=[None]), "category 0 is None, where a dict is expected"),
        (lambda c: c["categories"][0].update(name=["circle"]), "'name' of category 0 is missing"),
        (lambda c: c["categories"][0].update(id=10**400), "'id' of category 0 is missing"),
        (lambda c: c["categories"].append(c["categories"][0]), "two categories have the id 1"),
        (lambda c: c.update(images={}), "is not COCO's: it has no images"),
    ],
)
def test_annotation_files_that_cannot_be_used(
    changed: Callable, expected: str, root: Path, tiny_config: Path, tmp_path: Path, call_tool
):
    change(root, changed)
    for tool, out in (("train.py", "--work-dir"), ("check_data.py", "--out")):
        args = (tool, tiny_config, "--data-root", root, out, tmp_path / "out")
        assert expected in call_tool(*args).one_sentence()


def test_optional_parts_do_not_matter(
    root: Path, tiny_config: Path, trained: Path, tmp_path: Path, call_tool
):
    def strange(content: dict) -> None:
        content.update(licenses=10**400, info=[None])
        for category in content["categories"]:
            category["supercategory"] = [{}]

    change(root, strange)
    args = (tiny_config, trained / "epoch_2.pth", "--data-root", root)
    ended: Ended = call_tool("test.py", *args, "--work-dir", tmp_path / "work")
    assert ended.code == 0, ended.out + ended.err


def test_predict_reads_no_huge_file_and_no_pipe(
    shapes: Path, tiny_config: Path, trained: Path, tmp_path: Path, run_tool
):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(shapes / "val2017" / "000000000001.jpg", folder)
    os.mkfifo(folder / "pipe.jpg")
    with (folder / "sparse.jpg").open("wb") as file:
        file.truncate(6 * 2**30)
    args = (tiny_config, trained / "epoch_2.pth", folder, "--out", tmp_path / "out")
    ended = run_tool("predict.py", *args, timeout=120)
    assert "pipe.jpg is not a regular file, but a pipe" in ended.err
    assert "sparse.jpg is too large: 6.0 GiB, and 1 GiB are the limit" in ended.err
    assert (tmp_path / "out" / "pictures" / "000000000001.jpg").exists(), ended.err
