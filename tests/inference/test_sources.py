"""Which images are found, and what their results are called."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmpvt import UserError
from mmpvt.inference.sources import find_sources
from mmpvt.utils.outputs import Outputs


@pytest.fixture
def make(tmp_path: Path):
    """Makes empty files below a folder, which it gives."""

    def touch(*names: str) -> Path:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return touch


def named(*args, **kwargs) -> list[tuple[str, str, int]]:
    sources, _ = find_sources(*args, **kwargs)
    return [(source.file_name, source.name, source.image_id) for source in sources]


def test_folders_are_walked_in_order(make):
    root = make("b.jpg", "a/z.png", "a/y.JPEG", "c/d/e.webp", "c.txt", ".git/x.jpg")
    assert named([root]) == [
        ("a/y.JPEG", "a/y", 1),
        ("a/z.png", "a/z", 2),
        ("b.jpg", "b", 3),
        ("c/d/e.webp", "c/d/e", 4),
    ]
    assert find_sources([root])[1] == [root / "c.txt"]


def test_no_two_results_share_a_name(make):
    root = make("a/x.jpg", "a/x.png", "b/X.jpg", "c/x.jpeg", "c/X.png", "c/x_png.jpg")
    found = named([root / "a", root / "b", root / "c", root / "a" / "x.jpg"])
    names = [name for _, name, _ in found]
    assert names == ["x", "x_png", "X_jpg", "X_png_2", "x_jpeg", "x_png_jpg"]
    assert len({name.casefold() for name in names}) == len(names)


def test_files_of_one_name_in_several_folders(make):
    """They are told apart by what their paths don't have in common."""
    root = make("a/x.jpg", "b/x.jpg", "b/y.jpg")
    expected = [("a/x.jpg", "a/x", 1), ("b/x.jpg", "b/x", 2), ("b/y.jpg", "b/y", 3)]
    assert named([root / "a", root / "a" / ".." / "b"]) == expected
    assert named([root / "a" / "x.jpg", root / "b"]) == expected
    assert named([root / "a", root / "b" / "y.jpg"]) == [("x.jpg", "x", 1), ("y.jpg", "y", 2)]


def test_numbers_are_image_ids_where_all_are_numbers(make):
    coco = make("000000000139.jpg", "sub/000000000285.jpg")
    assert [number for *_, number in named([coco])] == [139, 285]
    (coco / "sub" / "139.jpg").touch()  # twice the same number
    assert [number for *_, number in named([coco])] == [1, 2, 3]


def test_results_and_circles_are_not_walked(make):
    root = make("x.jpg", "out/pictures/x.jpg", "link_target/y.jpg")
    (root / "link").symlink_to(root, target_is_directory=True)
    assert [name for name, *_ in named([root], out=root / "out")] == ["link_target/y.jpg", "x.jpg"]


def test_a_file_named_itself_is_taken_whatever_its_name(make):
    root = make("photo.dat", "notes.txt")
    assert named([root / "photo.dat"]) == [("photo.dat", "photo", 1)]
    with pytest.raises(UserError, match="no images under"):
        find_sources([root])
    with pytest.raises(UserError, match="no image or folder at"):
        find_sources([root / "no"])


def test_results_of_any_run_are_no_images(make):
    root = make("x.jpg")
    old = Outputs(root / "old")
    old.write("pictures/x.jpg", b"drawn")
    (root / "old" / "mine.jpg").touch()
    assert [name for name, *_ in named([root])] == ["old/mine.jpg", "x.jpg"]
    assert find_sources([root])[1] == [root / "old" / "pictures" / "x.jpg"]
    (root / "moved").mkdir()
    (root / "old").rename(root / "moved" / "old")
    for path in ("moved/old/pictures", "moved/old/pictures/x.jpg"):
        with pytest.raises(UserError, match="but results of an earlier run"):
            find_sources([root / path])
    (root / "moved" / "old" / "pictures" / "x.jpg").write_bytes(b"the user's by now")
    assert named([root / "moved" / "old" / "pictures"]) == [("x.jpg", "x", 1)]


def test_odd_entries_are_found_and_end_nothing(make):
    long = "x" * 251
    root = make(f"{long}.jpg", f"{long}.png", f"deep/{long}.jpg", f"{'9' * 250}.png")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    (root / "gone.jpg").symlink_to(root / "nowhere")
    os.mkfifo(root / "pipe.jpg")
    sources, _ = find_sources([root, make("z" * 255) / ("z" * 255)])
    assert {"loop", "gone", "pipe"} < {source.name for source in sources}
    assert len({source.name.casefold() for source in sources}) == len(sources) == 8
    for source in sources:
        assert all(len(os.fsencode(part)) <= 251 for part in Path(source.name).parts)
        assert source.image_id < 1 << 63


def test_an_out_folder_by_another_name_is_not_walked(make):
    root = make("x.jpg", "out/y.jpg")
    (root.parent / "alias").symlink_to(root / "out")
    assert [name for name, *_ in named([root], out=root.parent / "alias")] == ["x.jpg"]
    (root.parent / "alias").unlink()


def test_a_given_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(folder: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    (source,), _ = find_sources([tmp_path])
    assert source.problem == f"{tmp_path} can't be read (Permission denied)"
