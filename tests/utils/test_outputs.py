"""What the tools wrote to a folder is told from what they didn't."""

from __future__ import annotations

import json
import os
import runpy
from contextlib import ExitStack
from pathlib import Path

import pytest

from helpers import ROOT
from mmpvt import UserError
from mmpvt.errors import OutputError
from mmpvt.utils.atomic import atomic_write, make_folder
from mmpvt.utils.outputs import LISTING, CannotWriteError, Outputs, check_free, fitting


def test_own_files_are_replaced_and_no_others(tmp_path: Path):
    out = Outputs(tmp_path / "out")
    out.check_folder()
    out.write("a/b.txt", b"1")
    out.write("c.txt", b"1")
    again = Outputs(tmp_path / "out")
    again.check_folder()
    again.check("a/b.txt", "c.txt", "new.txt", "a")
    again.write("a/b.txt", b"2")
    assert (tmp_path / "out" / "a" / "b.txt").read_bytes() == b"2"
    (tmp_path / "out" / "c.txt").write_bytes(b"the user's")
    (tmp_path / "out" / "mine.txt").write_bytes(b"mine")
    for name in ("c.txt", "mine.txt"):
        with pytest.raises(CannotWriteError, match=f"{name} is not of an earlier run"):
            again.write(name, b"3")
    assert (tmp_path / "out" / "c.txt").read_bytes() == b"the user's"
    assert not list((tmp_path / "out").rglob("*.part"))


def test_what_a_killed_run_left_is_the_tools(tmp_path: Path):
    """A file is listed before it is there; the last line may be torn."""
    Outputs(tmp_path).write("a.txt", b"1")
    with (tmp_path / LISTING).open("a") as file:
        file.write('{"file": "b.t')
    Outputs(tmp_path).write("a.txt", b"2")
    assert (tmp_path / "a.txt").read_bytes() == b"2"


@pytest.mark.parametrize("kind", ["symlink", "hard link", "folder", "list", "linked list"])
def test_nothing_is_written_through_links(kind: str, tmp_path: Path):
    precious, out = tmp_path / "precious", tmp_path / "out"
    Outputs(out).write("pictures/a.jpg", b"drawn")
    precious.mkdir()
    (precious / "a.jpg").write_bytes(b"precious")
    (precious / LISTING).write_bytes(b"")
    picture = out / "pictures" / "a.jpg"
    if kind == "symlink":
        picture.unlink()
        picture.symlink_to(precious / "a.jpg")
    elif kind == "hard link":
        picture.unlink()
        picture.hardlink_to(precious / "a.jpg")
    elif kind == "folder":
        picture.unlink()
        picture.parent.rmdir()
        picture.parent.symlink_to(precious)
    elif kind == "list":
        (out / LISTING).unlink()
        (out / LISTING).symlink_to(precious / LISTING)
    else:  # a copy as cp -al makes it
        (precious / LISTING).unlink()
        os.link(out / LISTING, precious / LISTING)
        (precious / "a.jpg").unlink()
        os.link(picture, precious / "a.jpg")
    before = {path: path.read_bytes() for path in precious.iterdir()}
    folder = Outputs(out)
    if kind == "linked list":
        folder.write("pictures/a.jpg", b"anew")
        folder.write("pictures/b.jpg", b"anew")
    else:
        with pytest.raises(UserError):
            folder.check_folder()
            folder.write("pictures/a.jpg", b"anew")
    assert {path: path.read_bytes() for path in precious.iterdir()} == before


def test_other_peoples_folders_are_refused(tmp_path: Path):
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(OutputError, match=r"^out='.*' holds other files: name a new") as caught:
        Outputs(tmp_path).check_folder()
    assert caught.value.where == tmp_path
    with pytest.raises(UserError, match="is a file: name a folder"):
        Outputs(tmp_path / "photo.jpg", "show_dir").check_folder()
    Outputs(tmp_path).check("data.png")  # one file may lie beside others
    (tmp_path / "models").mkdir()
    with pytest.raises(UserError, match="models is not of an earlier run"):
        Outputs(tmp_path).check("models")


def test_names_that_are_too_long_are_cut_and_told_apart(tmp_path: Path):
    names = [fitting("é" * 200 + end, number) for end in "ab" for number in ("", "_2")]
    assert len(set(names)) == 4
    for name in names:
        Outputs(tmp_path).write(f"{name}.jpg", b"")
    with pytest.raises(CannotWriteError, match="File name too long"):
        Outputs(tmp_path).write("x" * 256, b"")


def test_run_onnx_knows_the_list(tmp_path: Path):
    """It imports nothing of ours, and has its own reading and writing of it."""
    theirs = runpy.run_path(str(ROOT / "tools" / "run_onnx.py"))
    Outputs(tmp_path).write("A.txt", b"1")
    results = theirs["Results"](tmp_path)
    results.make("pictures")
    results.write("a.txt" if (tmp_path / "a.txt").exists() else "A.txt", b"2")
    results.write("b.txt", b"2")
    Outputs(tmp_path).write("b.txt", b"3")
    lines = [json.loads(line) for line in (tmp_path / LISTING).read_text().splitlines()]
    assert [line["file"] for line in lines] == ["A.txt", "A.txt", "b.txt", "b.txt"]
    assert theirs["fitting"]("x" * 300, "_2") == fitting("x" * 300, "_2")


def test_single_files(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    for name, force, sentence in (
        ("a", False, "exists: pass force=True"),
        ("link", False, "exists: pass force=True"),
        ("pipe", True, "is no regular file"),
        ("", True, "is a folder"),
        ("no/a", True, "there is no folder"),
    ):
        with pytest.raises(UserError, match=sentence):
            check_free(tmp_path / name, force)
    os.link(tmp_path / "a", tmp_path / "b")
    atomic_write(check_free(tmp_path / "a", True), b"2")
    assert (tmp_path / "b").read_bytes() == b"1"


def test_several_writers(tmp_path: Path):
    """Each has a list of its own, which all read, also where one was killed; then they are one."""
    folder = tmp_path / "out"
    first, second = Outputs(folder), Outputs(folder)
    first.share("run.0")
    second.share("run.1")
    first.write("a.txt", b"a")
    second.write("b.txt", b"b")
    second.write("a.txt", b"c")  # the first one's
    assert (folder / "a.txt").read_bytes() == b"c"
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not of an earlier run"):
        first.write("mine.txt", b"x")
    later = Outputs(folder)
    later.check_folder()
    assert later.owns("a.txt") and later.owns("b.txt") and not later.owns("mine.txt")
    with (folder / f"{LISTING}.run.1").open("a") as file:
        file.write('{"file": "c.t')  # where it was killed
    later.gather()
    assert [path.name for path in folder.glob(f"{LISTING}*")] == [LISTING]
    later.write("d.txt", b"d")
    assert all(Outputs(folder).owns(name) for name in ("a.txt", "b.txt", "d.txt"))


def test_what_is_written_is_put_back(tmp_path: Path):
    folder = tmp_path / "out"
    Outputs(folder).write("a", b"1")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with ExitStack() as undo:
        out = Outputs(folder, undo=undo)
        for name in ("a", "b", "new/folder/c"):
            out.write(name, b"2")
            out.write(name, b"3")
        assert (folder / "a").read_bytes() == b"3"
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    with ExitStack() as undo:
        Outputs(folder, undo=undo).write("a", b"4")
        undo.pop_all()
    assert (folder / "a").read_bytes() == b"4" and Outputs(folder).owns("a")


def test_what_another_run_wrote_is_not_removed(tmp_path: Path):
    """In a folder that was made for the first one's."""
    with ExitStack() as undo:
        make_folder(tmp_path / "work_dirs" / "a", undo)
        (tmp_path / "work_dirs" / "a" / "log").touch()
        (tmp_path / "work_dirs" / "b").mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["work_dirs", "b"]
